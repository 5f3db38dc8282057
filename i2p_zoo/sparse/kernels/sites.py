"""Kernels of coordinates: lines of sites, and the kernel map by merging them.

A line is a run of sites that differ in x alone, in sorted sites. A window's taps that differ in x alone find their sites in
one walk along two lines, and which two lines is known from far fewer lines than there are sites.
"""

from __future__ import annotations

import numpy as np

from i2p_zoo.sparse.kernels.compilation import compiled
from i2p_zoo.sparse.kernels.team import team_kernel


@compiled
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


@compiled
def _compare(keys, line, batch, z, y):
    difference = np.int64(keys[line, 0]) - batch
    if difference == 0:
        difference = np.int64(keys[line, 1]) - z
    if difference == 0:
        difference = np.int64(keys[line, 2]) - y
    return difference


@compiled
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


@compiled
def _spacing(offsets):
    return max((offsets[-1] - offsets[0]) // max(offsets.size - 1, 1), 1)


@compiled(forceinline=True)  # else each call counts references to its arrays
def _match_sites(
    chunk, site, end, in_x, in_order, out, out_end, out_x, out_order,
    stride, offset, spacing, first_tap, last_tap, mirrored, table, counts,
):  # fmt: skip
    """Does `match_lines` for output sites out to out_end, input sites site to end and taps that differ in x alone."""
    last = table.shape[0] - 1
    reach = (last_tap - first_tap) * spacing
    for target in range(out, out_end):
        low = np.int64(out_x[target]) * stride + offset
        while site < end and in_x[site] < low:
            site += 1
        if site == end:
            break
        row = out_order[target] if out_order.size else target
        ahead = site
        while ahead < end and in_x[ahead] <= low + reach:
            step = in_x[ahead] - low
            if spacing == 1 or step % spacing == 0:
                tap = first_tap + (step if spacing == 1 else step // spacing)
                source = in_order[ahead] if in_order.size else ahead
                table[tap, row] = source
                if mirrored:
                    table[last - tap, source] = row
                counts[chunk, tap] += 1
            ahead += 1


@team_kernel
def match_lines(
    chunk, first_line, last_line, in_keys, in_starts, in_x, in_order, out_keys, out_starts, out_x, out_order,
    stride, z_offsets, y_offsets, x_offsets, rows, mirrored, table, counts,
):  # fmt: skip
    """Writes the pairs of the output lines first to last into a kernel map of -1, and their number into counts[chunk].

    An output site o reads the input site o * stride + offset. The offsets of an axis ascend in equal steps; taps are numbered
    with x fastest. One walk along the lines finds `rows` offsets in y: one, or all. Where the sites are the same and the taps
    their own mirror image (`mirrored`), only the first half of the taps is looked for: if o reads i, i reads o by the mirrored
    tap.
    """
    columns = x_offsets.size
    y_spacing, x_spacing = _spacing(y_offsets), _spacing(x_offsets)
    last = table.shape[0] - 1
    last_sought = last // 2 if mirrored else last
    for strip in range(0, z_offsets.size * y_offsets.size, rows):
        if strip * columns > last_sought:
            break
        plane, first_row = strip // y_offsets.size, strip % y_offsets.size
        nearest = -1
        for line in range(first_line, last_line):
            batch = np.int64(out_keys[line, 0])
            z = np.int64(out_keys[line, 1]) * stride[0] + z_offsets[plane]
            y = np.int64(out_keys[line, 2]) * stride[1] + y_offsets[first_row]
            if nearest < 0:
                nearest = _find_line(in_keys, batch, z, y)
            while nearest < in_keys.shape[0] and _compare(in_keys, nearest, batch, z, y) < 0:
                nearest += 1
            ahead = nearest
            while ahead < in_keys.shape[0] and _compare(in_keys, ahead, batch, z, y + (rows - 1) * y_spacing) <= 0:
                step = in_keys[ahead, 2] - y
                tap = (strip + step // y_spacing) * columns
                if step % y_spacing == 0 and tap <= last_sought:
                    _match_sites(
                        chunk, in_starts[ahead], in_starts[ahead + 1], in_x, in_order,
                        out_starts[line], out_starts[line + 1], out_x, out_order, stride[2], x_offsets[0], x_spacing,
                        tap, min(tap + columns - 1, last_sought), mirrored, table, counts,
                    )  # fmt: skip
                ahead += 1
    if mirrored:
        for tap in range((last + 1) // 2):
            counts[chunk, last - tap] = counts[chunk, tap]


@team_kernel
def transpose_taps(chunk, first_tap, last_tap, table, transposed):
    """transposed[tap, table[tap, o]] = o, and -1 where no output reads the input, for taps first to last."""
    for tap in range(first_tap, last_tap):
        transposed[tap] = -1
        for out in range(table.shape[1]):
            if table[tap, out] >= 0:
                transposed[tap, table[tap, out]] = out


@team_kernel
def count_pairs(chunk, start, stop, table, counts):
    """counts[o] = how many taps of a (K, N) table read anything for o, for rows start to stop."""
    for row in range(start, stop):
        counts[row] = 0
    for tap in range(table.shape[0]):
        for row in range(start, stop):
            counts[row] += table[tap, row] >= 0


@team_kernel
def list_pairs(chunk, start, stop, table, ends, sources, taps):
    """Writes what each row from start to stop reads, and the taps it reads it with, before its `ends`."""
    for row in range(start, stop):
        place = 0 if row == 0 else ends[row - 1]
        for tap in range(table.shape[0]):
            if table[tap, row] >= 0:
                sources[place] = table[tap, row]
                taps[place] = tap
                place += 1
