"""The answers to a forward's requests from a cloud's voxels, by torch: what a traced network takes beside the features."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from i2p_zoo.export.site_requests import MapRequest, SiteInputs, SiteRequests
from i2p_zoo.sparse.coordinates import batch_index, derive_sites
from i2p_zoo.sparse.geometry import Window
from i2p_zoo.sparse.kernel_maps import kernel_map
from i2p_zoo.sparse.tensor import SparseTensor


def answer_requests(requests: SiteRequests, x: SparseTensor) -> SiteInputs:
    """Returns what a forward with these requests asks of the voxels of `x`, on the CPU."""
    coords = [x.coords]
    for sites in requests.sites[1:]:
        coords.append(derive_sites(x.cache, coords[sites.parent or 0], None, sites.stride, sites.shift, None))
    samples = [batch_index(x.cache, coords[number], x.batch_size) for number in requests.samples]
    return SiteInputs(
        tables=[_find_table(request, x, coords[request.inputs], coords[request.outputs]) for request in requests.maps],
        rows=[sample.rows for sample in samples],
        counts=[sample.counts for sample in samples],
        parents=[_find_rows(x, requests, coords, fine, coarse) for fine, coarse in requests.parents],
    )


def _find_table(request: MapRequest, x: SparseTensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    window = Window(kernel=request.kernel, stride=request.stride, before=request.before, dilation=request.dilation)
    kmap = kernel_map(x.cache, inputs, outputs, window)
    rows = torch.zeros((math.prod(request.kernel), len(outputs)), dtype=torch.int32)
    rows[kmap.taps] = kmap.table + 1
    rows = rows[list(request.taps)]
    if not request.is_inverse:
        return rows.t().contiguous()
    places = torch.zeros(len(inputs), dtype=torch.int32)
    for number, row in enumerate(rows):
        read = row.nonzero().squeeze(1)
        places[row[read].long() - 1] = (1 + read * len(rows) + number).int()
    return places


def _find_rows(x: SparseTensor, requests: SiteRequests, coords: list[Tensor], fine: int, coarse: int) -> Tensor:
    """(N_fine,) int64, the row of the coarse site over each fine one."""
    ratio = [1, 1, 1]
    number = coarse
    while number != fine:
        ratio = [a * b for a, b in zip(ratio, requests.sites[number].stride, strict=True)]
        number = requests.sites[number].parent or 0
    window = Window(kernel=(ratio[0], ratio[1], ratio[2]), stride=(ratio[0], ratio[1], ratio[2]))
    return kernel_map(x.cache, coords[fine], coords[coarse], window).transposed.amax(0).long()
