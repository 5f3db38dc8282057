"""What a network's forward asks of its sites: coarser sites, kernel maps, samples. An exported network gets them as inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.coordinates import Origin, SiteCache
from i2p_zoo.sparse.engines.table_engine import TableMap
from i2p_zoo.sparse.geometry import Triple
from i2p_zoo.sparse.recording import UsedTaps
from i2p_zoo.sparse.row_index import RowIndex


@dataclass(frozen=True)
class Sites:
    """A set of sites: the input's, or floor(c / stride) - shift of a parent's.

    Attributes:
        parent: number of the set that it comes from; None for the input's voxels.
        stride, shift: (z, y, x).
    """

    parent: int | None = None
    stride: Triple = (1, 1, 1)
    shift: Triple = (0, 0, 0)

    @property
    def is_strided(self) -> bool:
        """Whether they are fewer than the parent's."""
        return self.stride != (1, 1, 1)


@dataclass(frozen=True)
class MapRequest:
    """A kernel map, as `i2p_zoo.sparse.kernel_maps.kernel_map` builds it.

    Attributes:
        inputs, outputs: numbers of the sets of sites between which the window reads.
        kernel, stride, before, dilation: of the window, (z, y, x).
        taps: the numbers of those that some weight uses.
        is_inverse: whether the inverse map is asked for, by which each of the inputs reads the one output over it.
    """

    inputs: int
    outputs: int
    kernel: Triple
    stride: Triple
    before: Triple
    dilation: Triple
    taps: tuple[int, ...]
    is_inverse: bool = False

    @property
    def window(self) -> tuple[Triple, Triple, Triple, Triple]:
        """What tells one window from another in a cache's keys."""
        return (self.kernel, self.stride, self.before, self.dilation)


@dataclass
class SiteRequests:
    """All that one forward asks for, whatever the clouds.

    Attributes:
        sites: the sets of sites, the input's first, each behind its parent.
        maps: the kernel maps.
        samples: the sets of which each site's sample and each sample's number of sites are asked for.
        parents: pairs (fine, coarse) of sets, where each fine site's row of the coarse one over it is asked for.
        copies: the sets of which a copy is asked for.
    """

    sites: list[Sites] = field(default_factory=lambda: [Sites()])
    maps: list[MapRequest] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    parents: list[tuple[int, int]] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)

    @classmethod
    def read(cls, cache: SiteCache, coords: Tensor, used_taps: UsedTaps) -> tuple[SiteRequests, dict[int, int]]:
        """Reads what a cache remembers of a forward; also gives the number of each set of sites by its identity.

        Args:
            cache: of the forward's input.
            coords: the input's sites.
            used_taps: what was noted of its weights.

        Raises:
            UnsupportedError: it asked for something that is not among these.
        """
        requests, numbers = cls(), {id(coords): 0}
        for key, value in cache.derived.items():
            parts: Any = key
            sort, arguments = parts[0], parts[1:]
            if sort == "sites":
                parent, stride, shift, shape, out_shape = arguments
                if shape is not None or out_shape is not None:
                    raise UnsupportedError("Sites with a border cannot be exported: only clouds can.")
                numbers[id(value)] = len(requests.sites)
                requests.sites.append(Sites(numbers[parent], stride, shift))
            elif sort == "copy":
                numbers[id(value)] = numbers[arguments[0]]
                requests.copies.append(numbers[arguments[0]])
            elif sort == "map":
                inputs, outputs, *window = arguments
                requests.maps += _read_map(value, (numbers[inputs], numbers[outputs], *window), used_taps)
            elif sort == "batch":
                requests.samples.append(numbers[arguments[0]])
            elif sort == "parents":
                requests.parents.append((numbers[arguments[0]], numbers[arguments[1]]))
            elif sort != "lines":
                raise UnsupportedError(f"What the network asks of its sites, {sort!r}, cannot be exported.")
        return requests, numbers


def _read_map(kmap: Any, request: Sequence[Any], used_taps: UsedTaps) -> Iterator[MapRequest]:
    """Gives the map and its inverse, each where some weight uses it."""
    inputs, outputs, kernel, stride, before, dilation = request
    for candidate, is_inverse in ((kmap, False), (kmap.__dict__.get("inverse"), True)):
        taps = used_taps.find(candidate)
        if candidate is not None and taps is not None:
            yield MapRequest(inputs, outputs, kernel, stride, before, dilation, tuple(taps) or (0,), is_inverse)


@dataclass
class SiteInputs:
    """The tensors that answer a forward's requests.

    Attributes:
        tables: of each map (N_out, taps) int32, one more than the row that each used tap reads, 0 for none; of an inverse
            map (N,) int32, one more than row * taps + tap of the one row that is read.
        rows: of each set in `SiteRequests.samples`, (N,) int64, the sample of each site.
        counts: of each of these (B,) int64, the sites of each sample.
        parents: of each pair in `SiteRequests.parents`, (N_fine,) int64.
    """

    tables: Sequence[Tensor]
    rows: Sequence[Tensor]
    counts: Sequence[Tensor]
    parents: Sequence[Tensor]


class _SampleRows(RowIndex):
    """The sample of each site, and how many each has, as inputs of a recorded forward."""

    def __init__(self, rows: Tensor, counts: Tensor) -> None:
        super().__init__(rows, counts.shape[0])
        self.__dict__["counts"] = counts

    def sum(self, values: Tensor) -> Tensor:
        """Returns (samples, ...) sums, by a product: sums by index are a race in onnxruntime, or slow."""
        samples = torch.arange(self.count, device=self.rows.device)[:, None] == self.rows
        total: Tensor = (samples.to(values.dtype) @ values.flatten(1)).unflatten(1, values.shape[1:])
        return total


def fill_cache(requests: SiteRequests, inputs: SiteInputs, features: Tensor) -> tuple[SiteCache, Tensor]:
    """Returns a cache that answers a forward's requests, and the sites (N, 4), of no values, of its (N, C) input."""
    sizes: dict[int, Any] = {0: features.shape[0]}
    for request, table in zip(requests.maps, inputs.tables, strict=True):
        sizes.setdefault(request.inputs if request.is_inverse else request.outputs, table.shape[0])
    sizes.update({number: rows.shape[0] for number, rows in zip(requests.samples, inputs.rows, strict=True)})
    sizes.update({fine: rows.shape[0] for (fine, _), rows in zip(requests.parents, inputs.parents, strict=True)})
    cache = SiteCache()
    coords = [features.new_zeros((sizes.get(n, 1), 4), dtype=torch.int32) for n in range(len(requests.sites))]
    for number, sites in enumerate(requests.sites):
        cache.orders[cache.key(coords[number])] = None
        if sites.parent is not None:
            parent = coords[sites.parent]
            cache.derived["sites", id(parent), sites.stride, sites.shift, None, None] = coords[number]
            if sites.is_strided:
                cache.origins[id(coords[number])] = Origin(parent, None, sites.stride)
    cache.derived.update({("copy", id(coords[number])): coords[number] for number in requests.copies})
    for request, table in zip(requests.maps, inputs.tables, strict=True):
        key = ("map", id(coords[request.inputs]), id(coords[request.outputs]), *request.window)
        kmap = cache.derived.setdefault(key, TableMap(list(request.taps), table, sizes.get(request.inputs, 1), request.kernel))
        if request.is_inverse:
            kmap.inverse = TableMap(list(request.taps), table, sizes.get(request.outputs, 1), request.kernel)
    for number, rows, counts in zip(requests.samples, inputs.rows, inputs.counts, strict=True):
        cache.derived["batch", id(coords[number])] = _SampleRows(rows, counts)
    for (fine, coarse), rows in zip(requests.parents, inputs.parents, strict=True):
        cache.derived["parents", id(coords[fine]), id(coords[coarse]), None, None] = RowIndex(rows, sizes.get(coarse, 1))
    return cache, coords[0]
