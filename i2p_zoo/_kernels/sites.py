"""Kernels of coordinates: lines of sites, and the kernel map by merging them.

A line is a run of sites that differ in x alone, in sorted sites. A window's taps that differ in x alone find their sites in
one walk along two lines, and which two lines is known from far fewer lines than there are sites.
"""

from __future__ import annotations

import numba
import numpy as np

from i2p_zoo._kernels.team import run_team


@numba.njit(nogil=True, cache=True)
def find_lines(coords, order, keys, starts, x):
    """Splits (N, 4) sites into lines; returns how many there are.

    Args:
        coords: the sites.
        order: (N,) rows in lexicographic order, or (0,) where they stand so.
        keys: (N, 3) gets each line's batch, z, y.
        starts: (N + 1,) gets each line's first site, and N.
        x: (N,) gets each site's x; sites are counted in sorted order.
    """
    lines = 0
    for site in range(coords.shape[0]):
        row = order[site] if order.size else site
        last = lines - 1
        new = lines == 0
        for column in range(3):
            new = new or coords[row, column] != keys[last, column]
        if new:
            for column in range(3):
                keys[lines, column] = coords[row, column]
            starts[lines] = site
            lines += 1
        x[site] = coords[row, 3]
    starts[lines] = coords.shape[0]
    return lines


@numba.njit(nogil=True, cache=True)
def _compare(keys, line, batch, z, y):
    difference = np.int64(keys[line, 0]) - batch
    if difference == 0:
        difference = np.int64(keys[line, 1]) - z
    if difference == 0:
        difference = np.int64(keys[line, 2]) - y
    return difference


@numba.njit(nogil=True, cache=True)
def _find_line(keys, batch, z, y):
    """The first line that does not stand before (batch, z, y)."""
    low, high = 0, keys.shape[0]
    while low < high:
        middle = (low + high) // 2
        if _compare(keys, middle, batch, z, y) < 0:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(nogil=True, cache=True)
def _match_lines(
    chunk, first_line, last_line, in_keys, in_starts, in_x, in_order, out_keys, out_starts, out_x, out_order,
    stride, planes, columns, mirrored, table, counts,
):  # fmt: skip
    """Writes the pairs of the output lines first to last into a kernel map of -1, and their number into counts[chunk].

    An output site o reads the input site o * stride + offset; `planes` (P, 2) are the offsets in z and y, `columns` those
    in x, ascending; tap number plane * len(columns) + column. Where the sites are the same and the taps their own mirror
    image (`mirrored`), only the first half of the taps is looked for: if o reads i, i reads o by the mirrored tap.
    """
    taps = columns.shape[0]
    last = planes.shape[0] * taps - 1
    dilation = max((columns[taps - 1] - columns[0]) // max(taps - 1, 1), 1)
    for plane in range((planes.shape[0] + 1) // 2 if mirrored else planes.shape[0]):
        reach = (last // 2 - plane * taps if mirrored and 2 * (plane + 1) * taps > last + 1 else taps - 1) * dilation
        position = -1
        for line in range(first_line, last_line):
            batch = np.int64(out_keys[line, 0])
            z = np.int64(out_keys[line, 1]) * stride[0] + planes[plane, 0]
            y = np.int64(out_keys[line, 2]) * stride[1] + planes[plane, 1]
            if position < 0:
                position = _find_line(in_keys, batch, z, y)
            while position < in_keys.shape[0] and _compare(in_keys, position, batch, z, y) < 0:
                position += 1
            if position == in_keys.shape[0]:
                break
            if _compare(in_keys, position, batch, z, y) > 0:
                continue
            site, end = in_starts[position], in_starts[position + 1]
            for out in range(out_starts[line], out_starts[line + 1]):
                low = np.int64(out_x[out]) * stride[2] + columns[0]
                while site < end and in_x[site] < low:
                    site += 1
                if site == end:
                    break
                row = out_order[out] if out_order.size else out
                ahead = site
                while ahead < end and in_x[ahead] <= low + reach:
                    step = in_x[ahead] - low
                    if dilation == 1 or step % dilation == 0:
                        tap = plane * taps + (step if dilation == 1 else step // dilation)
                        source = in_order[ahead] if in_order.size else ahead
                        table[tap, row] = source
                        if mirrored:
                            table[last - tap, source] = row
                        counts[chunk, tap] += 1
                    ahead += 1
    if mirrored:
        for tap in range((last + 1) // 2):
            counts[chunk, last - tap] = counts[chunk, tap]


@numba.njit(nogil=True, cache=True)
def match_lines(team, chunks, *args):
    """Runs `_match_lines` on a team."""
    run_team(team, chunks, _match_lines, args)


@numba.njit(nogil=True, cache=True)
def _transpose_taps(chunk, first_tap, last_tap, table, transposed):
    """transposed[tap, table[tap, o]] = o, and -1 where no output reads the input, for taps first to last."""
    for tap in range(first_tap, last_tap):
        transposed[tap] = -1
        for out in range(table.shape[1]):
            if table[tap, out] >= 0:
                transposed[tap, table[tap, out]] = out


@numba.njit(nogil=True, cache=True)
def transpose_taps(team, chunks, *args):
    """Runs `_transpose_taps` on a team."""
    run_team(team, chunks, _transpose_taps, args)


@numba.njit(nogil=True, cache=True)
def _count_pairs(chunk, start, stop, table, counts):
    """counts[o] = how many taps of a (K, N) table read anything for o, for rows start to stop."""
    for row in range(start, stop):
        counts[row] = 0
    for tap in range(table.shape[0]):
        for row in range(start, stop):
            counts[row] += table[tap, row] >= 0


@numba.njit(nogil=True, cache=True)
def count_pairs(team, chunks, *args):
    """Runs `_count_pairs` on a team."""
    run_team(team, chunks, _count_pairs, args)


@numba.njit(nogil=True, cache=True)
def _list_pairs(chunk, start, stop, table, ends, sources, taps):
    """Writes what each row from start to stop reads, and the taps it reads it with, before its `ends`."""
    for row in range(start, stop):
        place = 0 if row == 0 else ends[row - 1]
        for tap in range(table.shape[0]):
            if table[tap, row] >= 0:
                sources[place] = table[tap, row]
                taps[place] = tap
                place += 1


@numba.njit(nogil=True, cache=True)
def list_pairs(team, chunks, *args):
    """Runs `_list_pairs` on a team."""
    run_team(team, chunks, _list_pairs, args)
