"""Kernel maps: for each tap of a window and each output site, which input site it reads.

A map depends only on the sites and the window's geometry, never on channels or weights, so that every layer that can share
one does (it lives in the input's `SiteCache`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2p_zoo import _kernels
from i2p_zoo._threads import chunk_bounds, run_chunks
from i2p_zoo.coordinates import SiteCache, Triple, derive_sites

AXES = {"z": 0, "y": 1, "x": 2}


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution's or pool's window; triples are (z, y, x) in voxels of the input.

    `new_axis` is the axis the 2D window did not have: padding there is centred and its extent shrinks by the stride alone.
    `given_before` and `given_after` are the parts of the padding that a 2D network put there itself and takes for image;
    `zeros` says that it holds zeros.
    """

    kernel: Triple
    stride: Triple
    before: Triple
    after: Triple
    dilation: Triple
    new_axis: int
    ceil_mode: bool = False
    given_before: Triple = (0, 0, 0)
    given_after: Triple = (0, 0, 0)
    zeros: bool = False

    @property
    def offsets(self) -> list[Triple]:
        """Each tap's offset from the stride-scaled output site, taps in (z, y, x) order, x fastest."""
        z, y, x = ([tap * d - p for tap in range(k)] for k, d, p in zip(self.kernel, self.dilation, self.before, strict=True))
        return list(itertools.product(z, y, x))

    @property
    def shift(self) -> Triple:
        """How far a stride-1 axis of the image moves its sites back because its padding is not the centred one."""
        shifts = []
        for axis in range(3):
            before, span = self.before[axis], (self.kernel[axis] - 1) * self.dilation[axis]
            keeps = axis == self.new_axis or self.stride[axis] > 1 or before in (span // 2, -(-span // 2))
            shifts.append(0 if keeps else span // 2 - before)
        return (shifts[0], shifts[1], shifts[2])

    def out_shape(self, shape: Triple) -> Triple:
        """Returns the output extent that torch gives for an input extent (torch.nn.Conv2d, MaxPool2d: "Shape")."""
        extents = []
        for axis in range(3):
            kernel, stride, dilation = self.kernel[axis], self.stride[axis], self.dilation[axis]
            if axis == self.new_axis:
                extents.append(-(-shape[axis] // stride))
                continue
            room = shape[axis] + self.before[axis] + self.after[axis] - dilation * (kernel - 1) - 1
            extent = (-(-room // stride) if self.ceil_mode else room // stride) + 1
            if self.ceil_mode and (extent - 1) * stride >= shape[axis] + self.before[axis] + self.given_after[axis]:
                extent -= 1
            extents.append(extent)
        return (extents[0], extents[1], extents[2])


@dataclass
class KernelMap:
    """Which input site each tap of each output site reads.

    Attributes:
        taps: the K tap numbers, of all in the window, that read anything.
        table: (K, N_out) int32, the input row of each of those taps and outputs, -1 where there is none.
        num_inputs: number of input sites.
    """

    taps: list[int]
    table: Tensor
    num_inputs: int

    @property
    def num_outputs(self) -> int:
        """Number of output sites."""
        return int(self.table.shape[1])

    @cached_property
    def pairs(self) -> list[tuple[int, Tensor | None, Tensor | None]]:
        """For each tap its number, input rows (n,) and output rows (n,) int64; both None where they are all, in order."""
        result: list[tuple[int, Tensor | None, Tensor | None]] = []
        same = self.num_inputs == self.num_outputs
        identity = torch.arange(self.num_outputs, dtype=torch.int32, device=self.table.device) if same else None
        for tap, row in zip(self.taps, self.table, strict=True):
            if identity is not None and torch.equal(row, identity):
                result.append((tap, None, None))
                continue
            outputs = (row >= 0).nonzero().squeeze(1)
            result.append((tap, row[outputs].long(), outputs))
        return result

    @cached_property
    def transposed(self) -> Tensor:
        """(K, N_in) int32: for each tap and input row the output that reads it, -1 where there is none."""
        table = self.table.new_full((len(self.taps), self.num_inputs), -1)
        for number, (_, inputs, outputs) in enumerate(self.pairs):
            if inputs is None or outputs is None:
                table[number] = torch.arange(self.num_inputs, dtype=torch.int32, device=table.device)
            else:
                table[number, inputs] = outputs.int()
        return table


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
        build = build_table if coords.device.type == "cpu" else search_table
        table = build(coords, cache.order(coords), out, cache.order(out), window)
        taps = (table >= 0).any(1).nonzero().squeeze(1)
        table = table if len(taps) == len(table) else table[taps]
        cache.derived[key] = KernelMap(taps.tolist(), table.contiguous(), len(coords))
    result: KernelMap = cache.derived[key]
    return result


def build_table(coords: Tensor, order: Tensor | None, out: Tensor, out_order: Tensor | None, window: Window) -> Tensor:
    """Builds the (taps, N_out) int32 table on the CPU by merging sorted sites, one pass a tap."""
    table = torch.empty((len(window.offsets), len(out)), dtype=torch.int32)
    run_chunks(
        _kernels.match_taps,
        chunk_bounds(len(window.offsets), minimum=1),
        coords.numpy(),
        _rows(order, len(coords)),
        out.numpy(),
        _rows(out_order, len(out)),
        np.array(window.stride, dtype=np.int64),
        np.array(window.offsets, dtype=np.int64),
        table.numpy(),
    )
    return table


def _rows(order: Tensor | None, count: int) -> Any:
    return np.arange(count) if order is None else order.numpy()


def search_table(coords: Tensor, order: Tensor | None, out: Tensor, out_order: Tensor | None, window: Window) -> Tensor:
    """Builds the same table as `build_table` on any device, by a binary search in packed keys."""
    wide = coords.long()
    low, high = torch.aminmax(wide, dim=0)
    extents = high - low + 1
    weights = torch.stack([extents[1:].prod(), extents[2:].prod(), extents[3], torch.ones_like(extents[0])])
    keys = ((wide - low) * weights).sum(1)
    rows = torch.arange(len(coords), device=coords.device) if order is None else order
    keys = keys[rows]
    stride = torch.tensor([1, *window.stride], device=out.device)
    table = torch.empty((len(window.offsets), len(out)), dtype=torch.int32, device=out.device)
    for tap, offset in enumerate(window.offsets):
        wanted = out.long() * stride + torch.tensor([0, *offset], device=out.device)
        reachable = ((wanted >= low) & (wanted <= high)).all(1)
        query = ((wanted - low) * weights).sum(1)
        position = torch.searchsorted(keys, query).clamp_(max=len(keys) - 1)
        found = reachable & (keys[position] == query)
        table[tap] = torch.where(found, rows[position], -1)
    return table
