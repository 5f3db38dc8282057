"""Kernel maps on a device: sites are found by binary search in their sorted keys, all taps in a few launches.

Nothing here waits for the device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from i2p_zoo._extras import require
from i2p_zoo.sparse.coordinates import SiteCache
from i2p_zoo.sparse.device_path import runs_triton
from i2p_zoo.sparse.geometry import Window
from i2p_zoo.sparse.voxel_keys import pack_on_device

_QUERIES = 2**22  # that torch looks up at once; each takes some fifty bytes meanwhile


class SortedSites(NamedTuple):
    """Sites in the order of their keys.

    Attributes:
        keys: (N,) int64, ascending.
        order: (N,) int64 row of each, or None where rows stand in that order.
        box: (3, 4) int64, as `pack_on_device` gives it.
    """

    keys: Tensor
    order: Tensor | None
    box: Tensor


def sort_sites(cache: SiteCache, coords: Tensor) -> SortedSites:
    """Returns (N, 4) int32 sites in the order of their keys, found once a cache."""
    key = ("sorted sites", cache.key(coords))
    if key not in cache.derived:
        order = cache.order(coords)
        keys, box = pack_on_device(coords)
        cache.derived[key] = SortedSites(keys if order is None else keys[order], order, box)
    result: SortedSites = cache.derived[key]
    return result


def search_table(cache: SiteCache, coords: Tensor, out: Tensor, window: Window) -> Tensor:
    """Returns which input row each tap of each output reads, (taps, N_out) int32, -1 for none.

    Args:
        cache: the cache that the input sites belong to.
        coords: (N_in, 4) int32 input sites.
        out: (N_out, 4) int32 output sites, in any order and with any site twice.
        window: geometry.
    """
    sites = sort_sites(cache, coords)
    if runs_triton(coords):
        geometry = (window.kernel, window.stride, window.before, window.dilation)
        table: Tensor = _load_kernels().find_rows(*sites, out, *geometry)
        return table
    taps = len(window.offsets)
    if not len(out):
        return torch.empty((taps, 0), dtype=torch.int32, device=out.device)
    step = max(_QUERIES // len(out), 1)
    numbers = torch.arange(taps, device=out.device)
    return torch.cat([_search_taps(sites, out.long(), window, part) for part in numbers.split(step)])


def _search_taps(sites: SortedSites, out: Tensor, window: Window, taps: Tensor) -> Tensor:
    """The rows of `search_table` for some taps, given by number."""
    low, high, weights = sites.box
    query, there = (out[:, 0] - low[0]) * weights[0], (out[:, 0] >= low[0]) & (out[:, 0] <= high[0])
    step = 1
    for axis in (2, 1, 0):
        offsets = taps // step % window.kernel[axis] * window.dilation[axis] - window.before[axis]
        step *= window.kernel[axis]
        place = out[:, axis + 1] * window.stride[axis] + offsets[:, None]
        query = query + (place - low[axis + 1]) * weights[axis + 1]
        there = there & (place >= low[axis + 1]) & (place <= high[axis + 1])
    position = torch.searchsorted(sites.keys, query).clamp_(max=len(sites.keys) - 1)
    is_site = there & (sites.keys[position] == query)
    return torch.where(is_site, position if sites.order is None else sites.order[position], -1).int()


def transpose_table(table: Tensor, inputs: int) -> Tensor:
    """Returns for each tap and input row the output that reads it, -1 for none: (K, N_out) -> (K, inputs) int32."""
    if runs_triton(table):
        result: Tensor = _load_kernels().transpose(table, inputs)
        return result
    taps, outputs = table.shape
    transposed = table.new_full((taps, inputs + 1), -1)  # the last column takes what nobody reads
    rows = torch.arange(outputs, dtype=torch.int32, device=table.device).expand(taps, outputs)
    transposed.scatter_(1, torch.where(table >= 0, table, inputs).long(), rows)
    return transposed[:, :inputs].contiguous()


def list_pairs_first(table: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Returns each tap's pairs of a (K, N) table, the first in front.

    Returns:
        (2, K, length) int32 input and output rows, -1 behind the last; and (K,) int32 their numbers.
    """
    is_pair = table >= 0
    counts = is_pair.sum(1, dtype=torch.int32)
    place = torch.where(is_pair, is_pair.cumsum(1) - 1, length)
    pairs = table.new_full((2, len(table), length + 1), -1)
    pairs[0].scatter_(1, place, table)
    rows = torch.arange(table.shape[1], dtype=torch.int32, device=table.device)
    pairs[1].scatter_(1, place, rows.expand_as(table))
    return pairs[:, :, :length].contiguous(), counts


def _load_kernels() -> Any:
    return require("i2p_zoo.sparse.kernels.maps_triton", extra="triton")
