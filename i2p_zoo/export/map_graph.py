"""From points to what a traced network takes: voxel features, kernel maps and samples, in ONNX's standard operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.export.graph_builder import GraphBuilder
from i2p_zoo.export.site_graph import Margins, SiteSet, average_rows, find_cells, search_rows, stride_rows, unique_sites
from i2p_zoo.export.site_requests import MapRequest, SiteRequests
from i2p_zoo.sparse.geometry import Triple


@dataclass
class PointInputs:
    """What the graph is given.

    Attributes:
        points: (N, 3) float32 x, y, z.
        batch: (N,) int64, the cloud of each point.
        values: (N, C) float32, what each point carries.
        voxel_size: edge of a voxel.
    """

    points: Any
    batch: Any
    values: Any
    voxel_size: float


@dataclass
class MapOutputs:
    """What the graph finds; see `SiteInputs`.

    Attributes:
        features: (N, C) float32 of the voxels.
        tables, rows, counts, parents: the answers of the requests.
        coords: (N, 4) int64 of each set of sites.
        index: (points,) int64, the voxel of each point.
        corners: (points, 8) int32, one more than the rows of the voxels around each point, 0 for none.
        weights: (points, 8) float32, of each of these.
    """

    features: Any
    tables: list[Any]
    rows: list[Any]
    counts: list[Any]
    parents: list[Any]
    coords: list[Any]
    index: Any
    corners: Any = None
    weights: Any = None


def build_maps(op: GraphBuilder, requests: SiteRequests, inputs: PointInputs, *, with_corners: bool) -> MapOutputs:
    """Adds the nodes that answer a forward's requests.

    Args:
        op: of the graph.
        requests: of the forward.
        inputs: the graph's.
        with_corners: whether the eight voxels around each point are asked for.

    Raises:
        UnsupportedError: sites that are shifted are to be gone back from.
    """
    margins = _find_margins(requests)
    if with_corners:
        margins[0].widen_((1, 1, 1), (1, 1, 1), (3, 3, 3), (1, 1, 1))
    cells, places = find_cells(op, inputs.points, inputs.batch, inputs.voxel_size)
    sites = [unique_sites(op, cells, margins[0])]
    for number, request in enumerate(requests.sites[1:], 1):
        rows = stride_rows(op, sites[request.parent or 0].coords, request.stride, request.shift)
        sites.append(unique_sites(op, rows, margins[number]))
    samples = op.Range(np.int64(0), op.Add(op.ReduceMax(inputs.batch, keepdims=0), 1), np.int64(1))
    outputs = MapOutputs(
        features=average_rows(op, inputs.values, sites[0]),
        tables=[
            _find_places(op, requests, sites, request) if request.is_inverse else _find_table(op, sites, request)
            for request in requests.maps
        ],
        rows=[op.Gather(sites[number].coords, 0, axis=1) for number in requests.samples],
        counts=[],
        parents=[_find_parents(op, requests, sites, fine, coarse) for fine, coarse in requests.parents],
        coords=[level.coords for level in sites],
        index=sites[0].ranks,
    )
    outputs.counts = [_count(op, rows, samples) for rows in outputs.rows]
    if with_corners:
        outputs.corners, outputs.weights = _find_corners(op, sites[0], inputs.batch, places)
    return outputs


def _find_margins(requests: SiteRequests) -> list[Margins]:
    margins = [Margins() for _ in requests.sites]
    for request in requests.maps:
        shift = [0, 0, 0]
        number = request.outputs
        while number != request.inputs:
            sites = requests.sites[number]
            if sites.parent is None:
                raise UnsupportedError("A network with a window whose outputs do not come from its inputs cannot be exported.")
            shift = [total + step for total, step in zip(shift, sites.shift, strict=True)]
            number = sites.parent
        margins[request.inputs].widen_(request.before, request.stride, request.kernel, request.dilation, shift)
    return margins


def _find_table(op: GraphBuilder, sites: list[SiteSet], request: MapRequest) -> Any:
    """(N_out, taps) int32, one more than the row that each used tap reads, 0 for none."""
    starts = sites[request.outputs].coords
    if request.stride != (1, 1, 1):
        starts = op.Mul(starts, np.array([1, *request.stride]))
    return search_rows(op, sites[request.inputs], starts, _offsets(request))


def _offsets(request: MapRequest) -> list[Triple]:
    """The (z, y, x) offsets of a map's used taps from its outputs times the stride."""
    offsets = []
    for tap in request.taps:
        numbers = np.unravel_index(tap, request.kernel)
        z, y, x = (int(n) * d - b for n, d, b in zip(numbers, request.dilation, request.before, strict=True))
        offsets.append((z, y, x))
    return offsets


def _find_places(op: GraphBuilder, requests: SiteRequests, sites: list[SiteSet], request: MapRequest) -> Any:
    """(N,) int32, one more than row * taps + tap of what each fine site reads of the coarse one over it, 0 for none."""
    rows = _find_parents(op, requests, sites, request.inputs, request.outputs)
    fine, coarse = sites[request.inputs].coords, sites[request.outputs].coords
    rest = op.Sub(fine, op.Mul(op.Gather(coarse, rows), np.array([1, *request.stride])))
    _, height, width = request.kernel
    taps = op.ReduceSum(op.Mul(rest, np.array([0, height * width, width, 1])), np.array([1]), keepdims=0)
    numbers = np.zeros(np.prod(request.kernel), np.int64)
    numbers[list(request.taps)] = np.arange(1, len(request.taps) + 1)
    number = op.Gather(numbers, taps)
    place = op.Add(op.Mul(rows, len(request.taps)), number)
    return op.cast(place if numbers.all() else op.Where(op.Equal(number, 0), 0, place), "int32")


def _find_parents(op: GraphBuilder, requests: SiteRequests, sites: list[SiteSet], fine: int, coarse: int) -> Any:
    """(N_fine,) int64, the row of the coarse site over each fine one."""
    rows, number = sites[coarse].ranks, requests.sites[coarse].parent
    while number != fine:
        if number is None or any(requests.sites[number].shift):
            raise UnsupportedError("A network that goes back from sites which it has shifted cannot be exported.")
        rows, number = op.Gather(rows, sites[number].ranks), requests.sites[number].parent
    return rows


def _count(op: GraphBuilder, rows: Any, samples: Any) -> Any:
    """(B,) int64, the sites of each sample."""
    is_of = op.Equal(op.Unsqueeze(rows, np.array([1])), samples)
    return op.ReduceSum(op.cast(is_of, "int64"), np.array([0]), keepdims=0)


def _find_corners(op: GraphBuilder, sites: SiteSet, batch: Any, places: Any) -> tuple[Any, Any]:
    """The eight voxels around each point and their weights, as `i2p_zoo.sparse.devoxelization.devoxelize` has them."""
    moved = op.Sub(places, np.float64(0.5))
    corner = op.Floor(moved)
    part = op.Sub(moved, corner)
    starts = op.Concat(op.Unsqueeze(batch, np.array([1])), op.cast(corner, "int64"), axis=1)
    offsets = [(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
    sides = op.Concat(*(op.Unsqueeze(side, np.array([2])) for side in (op.Sub(np.float64(1), part), part)), axis=2)
    flat = op.Reshape(sides, np.array([-1, 6]))  # 1 - z, z, 1 - y, y, 1 - x, x
    factors = [op.Gather(flat, np.array([2 * axis + offset[axis] for offset in offsets]), axis=1) for axis in range(3)]
    weights = op.Mul(op.Mul(factors[0], factors[1]), factors[2])
    return search_rows(op, sites, starts, offsets, is_sorted=False), op.cast(weights, "float32")
