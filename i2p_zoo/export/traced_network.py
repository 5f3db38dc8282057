"""A network's tensor part: from voxel features and kernel maps to outputs, as a program of torch's operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.export.site_requests import SiteInputs, SiteRequests, fill_cache
from i2p_zoo.modules import eval_mode
from i2p_zoo.networks.point_cloud_model import PointCloudModel
from i2p_zoo.networks.pyramid_classifier import PyramidClassifier
from i2p_zoo.networks.unet import UNet
from i2p_zoo.sparse.engines.table_engine import weigh_taps
from i2p_zoo.sparse.geometry import Level, Plan
from i2p_zoo.sparse.recording import Depthwise, collect_used_taps, record_operations
from i2p_zoo.sparse.tensor import SparseTensor

_VOXELS, _REACH = (211, 97, 150), 60  # of the example: three clouds, and how far they reach from the origin
_ATTEMPTS = 50


@dataclass
class Recording:
    """What an example's forward asked for.

    Attributes:
        requests: of its sites.
        x: the example.
        maps: of each sparse output the number of its sites and its stride; none where the output is dense.
    """

    requests: SiteRequests
    x: SparseTensor
    maps: list[tuple[int, Any]]


class TracedNetwork(nn.Module):
    """A classifier or an encoder whose sites and kernel maps are inputs.

    Args:
        network: in eval mode.
        requests: what its forward asks of its sites.
        depthwise: as `record_operations` takes it.
    """

    def __init__(self, network: nn.Module, requests: SiteRequests, depthwise: Depthwise = weigh_taps) -> None:
        super().__init__()
        self.network, self.requests, self.depthwise = network, requests, depthwise

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
        with record_operations(self.depthwise):
            return _dense(self.network(x))


class TracedUNet(TracedNetwork):
    """A U-Net that gives points their logits."""

    def forward(  # type: ignore[override]
        self,
        features: Tensor,
        tables: list[Tensor],
        rows: list[Tensor],
        counts: list[Tensor],
        parents: list[Tensor],
        index: Tensor,
        corners: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Returns (P, num_classes) logits of the points.

        Args:
            features, tables, rows, counts, parents: as of a `TracedNetwork`.
            index: (P,) int64, the voxel of each point.
            corners: (P, 8) int32, one more than the rows of the voxels around each point, 0 for none.
            weights: (P, 8), of each of these.
        """
        logits: Tensor = super().forward(features, tables, rows, counts, parents)
        nearest = F.embedding(index, logits)
        if self.network.devoxelization == "nearest":
            return nearest
        weights = weights * (corners > 0)
        total = weights.sum(1, keepdim=True)
        around = F.embedding(corners, F.pad(logits, (0, 0, 1, 0)))
        mean = (around * weights[..., None]).sum(1) / total.clamp(min=1e-6)
        return torch.where(total < 1e-6, nearest, mean)


def _dense(out: Any) -> Any:
    if isinstance(out, SparseTensor):
        return out.features
    return [_dense(part) for part in out] if isinstance(out, list | tuple) else out


def check_exportable(network: Any) -> None:
    """Raises where a network is none of this package, stands on another device than the CPU or takes voxels for tokens.

    Raises:
        InvalidInputError: the first of these.
        UnsupportedError: the others.
    """
    if isinstance(network, PyramidClassifier):
        raise UnsupportedError("A pyramid classifier cannot be exported: its octants follow from each cloud's box.")
    if not isinstance(network, PointCloudModel | UNet):
        raise InvalidInputError(f"Only networks made by i2p_zoo can be exported; got {type(network).__name__}.")
    device = next(network.parameters()).device  # type: ignore[union-attr]
    if device.type != "cpu":
        raise UnsupportedError(f"Only networks on the CPU can be exported; this one is on {device}. Call `.cpu()` on it.")
    if network.settings.canvas is not None:
        raise UnsupportedError(
            f"{network.architecture} takes voxels for tokens of an image; only convolutional networks can be exported."
        )


def record(network: Any) -> Recording:
    """Runs a network in eval mode on an example of three clouds, on the CPU.

    The sets of sites it makes differ in size, since what is of one size by chance would become one size in a trace.

    Raises:
        UnsupportedError: it asks of its sites what cannot be exported.
    """
    for seed in range(_ATTEMPTS):
        x = _make_example(network, seed)
        with eval_mode(network), torch.no_grad(), collect_used_taps() as used:
            out = network(x)
        requests, numbers = SiteRequests.read(x.cache, x.coords, used)
        sizes = [len(x.cache.kept[identity]) for identity, number in numbers.items() if requests.sites[number].is_strided]
        if len(set(sizes)) == len(sizes) and not {len(x.coords), len(_VOXELS), 1} & set(sizes):
            break
    maps = [part for part in (out if isinstance(out, list | tuple) else [out]) if isinstance(part, SparseTensor)]
    return Recording(requests, x, [(numbers[id(part.coords)], part.stride) for part in maps])


def _make_example(network: Any, seed: int) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    clouds = [
        torch.cat([torch.full((n, 1), cloud), torch.randint(-_REACH, _REACH, (n, 3), generator=generator)], 1)
        for cloud, n in enumerate(_VOXELS)
    ]
    coords = torch.unique(torch.cat(clouds), dim=0).int()
    return SparseTensor(torch.randn(len(coords), network.in_chans, generator=generator), coords)


def trace(
    network: Any, recording: Recording, inputs: SiteInputs, *point_inputs: Tensor, depthwise: Depthwise = weigh_taps
) -> torch.export.ExportedProgram:
    """Records the operations of a network's tensor part.

    Args:
        network: on the CPU, of float32 weights.
        recording: of its example.
        inputs: what answers the example's requests.
        *point_inputs: of a U-Net, the index, corners and weights of the points.
        depthwise: as `record_operations` takes it.

    Raises:
        UnsupportedError: an operation cannot be recorded; torch's own words say which.
    """
    traced = (TracedUNet if isinstance(network, UNet) else TracedNetwork)(network, recording.requests, depthwise)
    lists = (list(inputs.tables), list(inputs.rows), list(inputs.counts), list(inputs.parents))
    arguments = (recording.x.features, *lists, *point_inputs)
    first = {0: torch.export.Dim.DYNAMIC}  # an error where a forward takes the example's number for a constant
    shapes = (first, *([first] * len(values) for values in lists), *(first for _ in point_inputs))
    with eval_mode(network), torch.no_grad():
        try:
            return torch.export.export(traced, arguments, dynamic_shapes=shapes, strict=False)
        except (torch._dynamo.exc.UserError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UnsupportedError(
                f"{network.architecture} cannot be exported: its forward computes sites of its own, or takes their number "
                f"for a constant (torch: {reason})."
            ) from error
