"""Kernel maps: for each tap of a window and each output site, which input site it reads.

A map depends only on the sites and the window's geometry, never on channels or weights, so that every layer that can share
one does (it lives in the input's `SiteCache`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2p_zoo.sparse.coordinates import SiteCache, derive_sites
from i2p_zoo.sparse.device_path import takes_device_path
from i2p_zoo.sparse.geometry import Triple, Window
from i2p_zoo.sparse.kernels import columns, sites
from i2p_zoo.sparse.site_search import list_pairs_first, search_table, transpose_table
from i2p_zoo.sparse.threads import chunk_bounds, run_chunks

_LONG_LINE = 4  # sites; lines that are so long on average are walked along once a row of taps, shorter ones once a plane


class PairLists(NamedTuple):
    """The pairs of each row, row after row, by rising tap.

    Attributes:
        ends: (N,) int64, where each row's pairs end.
        sources, taps: (P,) int32, the site that is read and the number of its tap among the map's.
    """

    ends: NDArray[np.int64]
    sources: NDArray[np.int32]
    taps: NDArray[np.int32]


class SortedMasks(NamedTuple):
    """Which taps of a map each output reads, in an order that puts outputs of like taps together.

    Attributes:
        bits: (N_out,) int32, bit k for the k-th of the map's taps, rising; None for a map of more than 32 taps, or of one.
        order: (N_out,) int64, the output that each belongs to.
    """

    bits: Tensor | None
    order: Tensor | None


@functools.cache
def _powers_of_two(count: int, device: torch.device) -> Tensor:
    """(count, 1) int32."""
    return (1 << torch.arange(count, dtype=torch.int32, device=device))[:, None]


@dataclass
class KernelMap:
    """Which input site each tap of each output site reads.

    Attributes:
        taps: the K tap numbers, of all in the window: on the CPU those that read anything, on a device, which would have to be
            waited for to know them, all.
        table: (K, N_out) int32, the input row of each of those taps and outputs, -1 where there is none.
        num_inputs: number of input sites.
        kernel: extent (z, y, x) of the window.
        counted_pairs: `num_pairs`, where it is known.
        is_mirrored: whether input and output are the same sites and an output that reads an input by one tap is read by it by
            the tap as far from the end.
    """

    taps: list[int]
    table: Tensor
    num_inputs: int
    kernel: Triple
    counted_pairs: int | None = None
    is_mirrored: bool = False

    @cached_property
    def num_pairs(self) -> int:
        """Number of pairs of an input and an output site, over all taps; on a device it is waited for."""
        return int((self.table >= 0).sum()) if self.counted_pairs is None else self.counted_pairs

    @property
    def num_outputs(self) -> int:
        """Number of output sites."""
        return int(self.table.shape[1])

    @cached_property
    def pairs(self) -> list[tuple[int, Tensor | None, Tensor | None]]:
        """For each tap its number, input rows (n,) and output rows (n,) int64; both None where they are all, in order."""
        if takes_device_path(self.table):
            return self._pairs_of_all_taps()
        result: list[tuple[int, Tensor | None, Tensor | None]] = []
        same = self.num_inputs == self.num_outputs
        identity = torch.arange(self.num_outputs, dtype=torch.int32) if same else None
        for tap, row in zip(self.taps, self.table, strict=True):
            if identity is not None and torch.equal(row, identity):
                result.append((tap, None, None))
                continue
            outputs = (row >= 0).nonzero().squeeze(1)
            result.append((tap, row[outputs].long(), outputs))
        return result

    def _pairs_of_all_taps(self) -> list[tuple[int, Tensor | None, Tensor | None]]:
        """`pairs` for two waits."""
        is_pair = self.table >= 0
        rows = torch.arange(self.num_outputs, dtype=torch.int32, device=self.table.device)
        numbers = [is_pair.sum(1), (self.table == rows).all(1)]
        counts, is_identity = torch.stack(numbers).tolist()
        places = is_pair.flatten().nonzero().squeeze(1)
        sources = self.table.flatten()[places].long().split(counts)
        outputs = (places % max(self.num_outputs, 1)).split(counts)
        same = self.num_inputs == self.num_outputs
        return [
            (tap, None, None) if same and identity else (tap, source, output)
            for tap, identity, source, output in zip(self.taps, is_identity, sources, outputs, strict=True)
        ]

    @cached_property
    def transposed(self) -> Tensor:
        """(K, N_in) int32: for each tap and input row the output that reads it, -1 where there is none."""
        if takes_device_path(self.table):
            return self.table.flip(0) if self.is_mirrored else transpose_table(self.table, self.num_inputs)
        table = self.table.new_empty((len(self.taps), self.num_inputs))
        run_chunks(sites.transpose_taps, chunk_bounds(len(table), minimum=1), self.table, table)
        return table

    @cached_property
    def pairs_by_output(self) -> PairLists:
        """What each output site reads, on the CPU."""
        return _list_pairs(self.table)

    @cached_property
    def pairs_by_input(self) -> PairLists:
        """Which output sites read each input site, on the CPU."""
        return _list_pairs(self.transposed)

    @cached_property
    def inverse(self) -> KernelMap:
        """The map of the inverse convolution, from this one's outputs back to its inputs, tap by tap."""
        result = KernelMap(self.taps, self.transposed, self.num_outputs, self.kernel, self.counted_pairs)
        result.__dict__["transposed"] = self.table
        return result

    @cached_property
    def sorted_masks(self) -> SortedMasks:
        """The taps that each output reads, as bits, sorted."""
        if not 1 < len(self.table) <= 32:
            return SortedMasks(None, None)
        bits = ((self.table >= 0) * _powers_of_two(len(self.table), self.table.device)).sum(0, dtype=torch.int32)
        return SortedMasks(*bits.sort())

    @cached_property
    def pair_table(self) -> tuple[Tensor, Tensor]:
        """Spconv's form: (2, taps, N) int32 input and output rows, -1 behind the last, and (taps,) int32 their numbers."""
        taps, length = math.prod(self.kernel), max(self.num_inputs, self.num_outputs)
        if len(self.taps) == taps:
            return list_pairs_first(self.table, length)
        table = self.table.new_full((2, taps, length), -1)
        counts = torch.zeros(taps, dtype=torch.int32)
        for tap, row in zip(self.taps, self.table, strict=True):
            outputs = (row >= 0).nonzero().squeeze(1)
            counts[tap] = len(outputs)
            table[0, tap, : len(outputs)] = row[outputs]
            table[1, tap, : len(outputs)] = outputs.int()
        return table, counts.to(table.device)

    def split(self, axis: int) -> tuple[KernelMap, KernelMap]:
        """Splits the map in two: a sum along `axis` onto columns, and the window's plane over those columns.

        A column is what one output reads along the axis at one place of the plane; outputs that read the same voxels with
        the same taps share it. Where a kernel repeats along the axis, the two maps in turn give what this one does.

        On the CPU.

        Args:
            axis: 0, 1 or 2 for z, y, x.

        Returns:
            The map from inputs to columns (a kernel of `kernel[axis]` taps), and that from columns to outputs, whose taps
            are those of this one's kernel that stand first on the axis.
        """
        if axis not in self._splits:
            self._splits[axis] = _split(self, axis)
        return self._splits[axis]

    @cached_property
    def _splits(self) -> dict[int, tuple[KernelMap, KernelMap]]:
        return {}


def _list_pairs(table: Tensor) -> PairLists:
    counts = np.empty(table.shape[1], np.int64)
    run_chunks(sites.count_pairs, chunk_bounds(len(counts)), table, counts)
    ends = counts.cumsum()
    pairs = int(ends[-1]) if len(ends) else 0
    sources, taps = np.empty(pairs, np.int32), np.empty(pairs, np.int32)
    run_chunks(sites.list_pairs, chunk_bounds(len(ends)), table, ends, sources, taps)
    return PairLists(ends, sources, taps)


def _split(kmap: KernelMap, axis: int) -> tuple[KernelMap, KernelMap]:
    length, places = kmap.kernel[axis], math.prod(kmap.kernel) // kmap.kernel[axis]
    rows = np.full(math.prod(kmap.kernel), -1)
    rows[kmap.taps] = np.arange(len(kmap.taps))
    numbers = np.arange(len(rows))
    lines, taps = (np.moveaxis(a.reshape(kmap.kernel), axis, 0).reshape(length, places) for a in (rows, numbers))
    plane = torch.empty((places, kmap.num_outputs), dtype=torch.int32)
    known = torch.zeros(kmap.num_inputs * length, dtype=torch.int32)
    bounds = chunk_bounds(kmap.num_outputs)
    run_chunks(columns.find_columns, bounds, kmap.table, lines, plane, known)
    ends = known.cumsum(0, dtype=torch.int32)
    along = torch.full((length, int(ends[-1])), -1, dtype=torch.int32)
    run_chunks(columns.fill_columns, bounds, kmap.table, lines, ends - 1, plane, along)
    line = (length if axis == 0 else 1, length if axis == 1 else 1, length if axis == 2 else 1)
    return (
        KernelMap(list(range(length)), along, kmap.num_inputs, line, int((along >= 0).sum())),
        KernelMap(taps[0].tolist(), plane, along.shape[1], kmap.kernel, int((plane >= 0).sum())),
    )


def window_sites(
    cache: SiteCache, coords: Tensor, shape: Triple | None, window: Window
) -> tuple[Tensor, Triple | None, KernelMap]:
    """Applies a window's geometry to sites.

    Args:
        cache: cache of the input.
        coords: (N, 4) int32 input sites.
        shape: extent (z, y, x) of the input, or None for no border.
        window: the window.

    Returns:
        Output sites (M, 4) int32, their extent, and the kernel map between the two.
    """
    out_shape = None if shape is None else window.out_shape(shape)
    out = derive_sites(cache, coords, shape, window.stride, window.shift, out_shape)
    return out, out_shape, kernel_map(cache, coords, out, window)


def kernel_map(cache: SiteCache, coords: Tensor, out: Tensor, window: Window) -> KernelMap:
    """Returns the map of `window` from input sites `coords` (N, 4) to output sites `out` (M, 4), built once a cache."""
    key = ("map", cache.key(coords), cache.key(out), window.kernel, window.stride, window.before, window.dilation)
    if key not in cache.derived:
        symmetric = all(ascending == [-offset for offset in ascending[::-1]] for ascending in window.axis_offsets)
        mirrored = coords is out and window.stride == (1, 1, 1) and symmetric
        if takes_device_path(coords):
            table = search_table(cache, coords, out, window)
            cache.derived[key] = KernelMap(list(range(len(table))), table, len(coords), window.kernel, None, mirrored)
        else:
            table, counts = build_table(cache, coords, out, window, mirrored)
            taps = counts.nonzero().squeeze(1)
            table = table if len(taps) == len(table) else table[taps]
            pairs = int(counts.sum())
            cache.derived[key] = KernelMap(taps.tolist(), table, len(coords), window.kernel, pairs, mirrored)
    result: KernelMap = cache.derived[key]
    return result


class Lines(NamedTuple):
    """Sorted sites as runs that differ in x alone.

    Attributes:
        keys: (L, 3) int32, batch, z, y of each line.
        starts: (L + 1,) int64, each line's first site, and the number of sites.
        x: (N,) int32 of each site, in sorted order.
        order: (N,) int64 row of each site, or (0,) where rows stand in sorted order.
    """

    keys: NDArray[np.int32]
    starts: NDArray[np.int64]
    x: NDArray[np.int32]
    order: NDArray[np.int64]


def lines_of(cache: SiteCache, coords: Tensor) -> Lines:
    """Returns the lines of (N, 4) int32 sites on the CPU, found once a cache."""
    key = ("lines", cache.key(coords))
    if key not in cache.derived:
        order = cache.order(coords)
        rows = np.empty(0, dtype=np.int64) if order is None else order.numpy()
        keys, starts = np.empty((len(coords), 3), np.int32), np.empty(len(coords) + 1, np.int64)
        x = np.empty(len(coords), np.int32)
        count = sites.find_lines(coords.numpy(), rows, keys, starts, x)
        cache.derived[key] = Lines(keys[:count].copy(), starts[: count + 1].copy(), x, rows)
    result: Lines = cache.derived[key]
    return result


def build_table(cache: SiteCache, coords: Tensor, out: Tensor, window: Window, mirrored: bool = False) -> tuple[Tensor, Tensor]:
    """Returns which input row each tap of each output reads, (taps, N_out) int32, -1 for none, and each tap's pairs.

    On the CPU. `mirrored` is `KernelMap.is_mirrored`, by which half the taps need no search.
    """
    read, write = lines_of(cache, coords), lines_of(cache, out)
    by_planes = len(read.x) < _LONG_LINE * len(read.keys) and window.dilation[1] <= 2
    table = torch.full((math.prod(window.kernel), len(out)), -1, dtype=torch.int32)
    bounds = chunk_bounds(len(write.keys))
    counts = torch.zeros((len(bounds), len(table)), dtype=torch.int64)
    run_chunks(
        sites.match_lines,
        bounds,
        *read,
        *write,
        np.array(window.stride, dtype=np.int64),
        *(np.array(ascending, dtype=np.int64) for ascending in window.axis_offsets),
        window.kernel[1] if by_planes else 1,
        mirrored,
        table,
        counts,
    )
    return table, counts.sum(0)
