"""A network's tensor part: from voxel features and kernel maps to outputs, as a program of torch's operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.export.site_requests import SiteInputs, SiteRequests, fill_cache
from i2p_zoo.sparse.geometry import Level, Plan
from i2p_zoo.sparse.recording import record_operations
from i2p_zoo.sparse.tensor import SparseTensor


class TracedNetwork(nn.Module):
    """A network whose sites and kernel maps are inputs.

    Args:
        network: a classifier or an encoder, in eval mode.
        requests: what its forward asks of its sites.
    """

    def __init__(self, network: nn.Module, requests: SiteRequests) -> None:
        super().__init__()
        self.network, self.requests = network, requests

    def forward(
        self, features: Tensor, tables: list[Tensor], rows: list[Tensor], counts: list[Tensor], parents: list[Tensor]
    ) -> Any:
        """Returns the network's outputs: dense tensors, or the features of sparse ones.

        Args:
            features: (N, C) of the voxels.
            tables, rows, counts, parents: as `SiteInputs` has them.
        """
        cache, coords = fill_cache(self.requests, SiteInputs(tables, rows, counts, parents), features)
        batch_size: Any = counts[0].shape[0] if counts else 1
        x = SparseTensor.on_level(Level(1, None, Plan(), None), features, coords, cache, batch_size)
        with record_operations():
            out = self.network(x)
        return _strip(out)


def _strip(out: Any) -> Any:
    if isinstance(out, SparseTensor):
        return out.features
    return [_strip(part) for part in out] if isinstance(out, list | tuple) else out
