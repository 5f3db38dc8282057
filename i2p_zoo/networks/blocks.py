"""Networks over scenes that do not fit into memory at once: block by block, each with a margin of its surroundings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.modules import eval_mode
from i2p_zoo.networks.locality import find_global_layer
from i2p_zoo.sparse.coordinates import unique_rows
from i2p_zoo.sparse.device_memory import explain_memory
from i2p_zoo.sparse.geometry import unfold_stride
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.wording import count_of

_ALIGNMENT = 64  # blocks begin at multiples of it, so that no stride of a network (32 mostly) puts two of them in one voxel


def predict(
    model: Any, points: Any, max_voxels: int | None = None, margin: int = 64, features: bool = False, progress: bool = False
) -> Any:
    """Runs a network in eval mode and without gradients, in blocks of at most `max_voxels` voxels each.

    Each block is run with the voxels around it up to `margin`; an output site is taken from the block it lies in, or where
    that has none, as where layers shift sites, from the nearest. Results agree with those of the whole scene where the network
    looks no further than that, but for layers that average over a whole sample, such as squeeze-and-excitation, which see a
    block with its margin. Of transformers only those divide a cloud whose attention is all in windows, which begin where the
    cloud's own do; what one voxel sees adds up over the windows behind each other. The head sees the features of all blocks
    together.

    Args:
        model: a `PointCloudModel` of timm's classes, with `forward_features` and `forward_head`.
        points: as the model takes them.
        max_voxels: of a block with its margin; None runs the whole at once. A block of 64 voxels a side is not divided
            further.
        margin: voxels around a block.
        features: return the features before pooling instead of logits.
        progress: show a progress bar.

    Returns:
        (B, num_classes) logits; with `features` a SparseTensor of (N, C) features on the network's last sites.

    Raises:
        InvalidInputError: `max_voxels` or `margin` out of range.
        UnsupportedError: a network that strides or shifts sites by more than 64; or, for a cloud of more than `max_voxels`,
            a transformer that looks at whole clouds.
        DeviceMemoryError: a GPU's memory does not suffice; also a `torch.OutOfMemoryError`.

    Example:
        >>> import i2p_zoo, torch
        >>> model = i2p_zoo.create_model("test_resnet", num_classes=5).eval()
        >>> predict(model, torch.rand(5000, 3) * 20, max_voxels=2000).shape
        torch.Size([1, 5])
    """
    if max_voxels is not None and (not isinstance(max_voxels, Real) or max_voxels < 1):
        raise InvalidInputError(f"`max_voxels` must be a number of at least 1, or None; got {max_voxels!r}.")
    if not isinstance(margin, Integral) or margin < 0:
        raise InvalidInputError(f"`margin` must be 0 or a positive integer; got {margin!r}.")
    with eval_mode(model), torch.no_grad():
        x: SparseTensor = model.prepare(points)
        if max_voxels is not None and model.settings.canvas is not None:
            if int(x.sample_counts.max()) > max_voxels:
                _check_local(model, x, max_voxels)
            else:
                max_voxels = None
        if max_voxels is None:
            with explain_memory(lambda: len(x.coords), "Run it in blocks by `max_voxels`."):
                maps = model.forward_features(x)
        else:
            maps = _in_blocks(model, x, max_voxels, margin, progress)
        return maps if features else model.forward_head(maps)


def _check_local(model: Any, x: SparseTensor, max_voxels: float) -> None:
    """Raises UnsupportedError where a network with a canvas sees farther than any margin, by which layer."""
    layer = find_global_layer(model, x)
    if layer is not None:
        raise UnsupportedError(
            f"A cloud has {count_of(int(x.sample_counts.max()), 'voxel')}, more than max_voxels={max_voxels}, and "
            f"{type(model).__qualname__} cannot run in blocks: {f'its layer {layer!r}' if layer else 'its forward'} gives a "
            "voxel other values because of what is far away, as attention among all tokens of a cloud, or a table of places "
            "on it, does. Leave `max_voxels` out, take a larger voxel size, or a network with attention in windows alone "
            "(Swin)."
        )


def _in_blocks(model: Any, x: SparseTensor, max_voxels: int, margin: int, progress: bool) -> SparseTensor:
    kept: list[_Sites] = []
    far, out, most = [], x, 0
    with tqdm(total=len(x.coords), unit="voxel", unit_scale=True, disable=not progress, desc="predicting") as bar:
        for sample in range(x.batch_size):
            rows = (x.coords[:, 0] == sample).nonzero().squeeze(1)
            for low, high in _blocks(x.coords[rows, 1:], max_voxels, margin) if len(rows) else ():
                near = rows[_within(x.coords[rows, 1:], low - margin, high + margin)]
                block = SparseTensor(x.features[near], x.coords[near], batch_size=x.batch_size, spatial_shape=x.spatial_shape)
                # on the whole cloud's canvas, so that its windows begin where the cloud's do
                block = block.derive(block.features, plan=x.plan, canvas=x.canvas)
                with explain_memory(partial(len, near), f"Take a `max_voxels` below {max_voxels}, or a smaller `margin`."):
                    out = model.forward_features(block)
                stride = torch.tensor(unfold_stride(out.stride), device=near.device)
                if int(stride.max()) > _ALIGNMENT:
                    raise UnsupportedError(f"{type(model).__qualname__} strides by {out.stride}; blocks allow {_ALIGNMENT}.")
                place = out.coords[:, 1:] * stride
                distance = torch.maximum(low - place, place - high + 1).amax(1).clamp(min=0)
                usable = distance <= _ALIGNMENT  # a site belongs to a block beside its own at most
                kept.append(_Sites(out.features[usable], out.coords[usable], distance[usable]))
                far.append(out.coords[~usable])
                if sum(len(sites.coords) for sites in kept) > most:  # seldom, so that it costs little beside the network
                    kept = [_nearest(kept)]
                    most = 2 * len(kept[0].coords)
                bar.update(int(_within(x.coords[near, 1:], low, high).sum()))
    sites = _nearest(kept)
    if len(unique_rows(torch.cat([sites.coords, *far]))[0]) > len(sites.coords):
        raise UnsupportedError(f"{type(model).__qualname__} shifts sites by more than {_ALIGNMENT} voxels, which blocks allow.")
    merged = SparseTensor(
        sites.features, sites.coords, stride=out.stride, batch_size=x.batch_size, spatial_shape=out.spatial_shape
    )
    levels = {"axis": out.plan.axis, "skip_downsamples": out.plan.skip_downsamples, "level": out.plan.level}
    return merged.derive(merged.features, channels_last=out.channels_last, canvas=out.canvas).with_plan(**levels)


class _Sites(NamedTuple):
    """Output sites with their features (N, ...), coordinates (N, 4) and distances (N,) from the block that gave them."""

    features: Tensor
    coords: Tensor
    distances: Tensor


def _nearest(parts: list[_Sites]) -> _Sites:
    """Takes each output site from the block that it lies nearest to.

    That is mostly the block it lies in; but where layers shift sites, or strides divide no block, it may be one beside it.
    """
    features, coords, distances = (torch.cat([part[field] for part in parts]) for field in range(3))
    if not len(coords):
        return _Sites(features, coords, distances)
    order = distances.argsort(stable=True)
    sites, row = unique_rows(coords[order])
    numbers = torch.arange(len(row), device=row.device)
    first = order[torch.full_like(numbers[: len(sites)], len(row)).scatter_reduce_(0, row, numbers, "amin")]
    return _Sites(features[first], sites, distances[first])


def _within(coords: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return ((coords >= low) & (coords < high)).all(1)


def _blocks(coords: Tensor, max_voxels: int, margin: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Divides (N, 3) sites into boxes low <= c < high at multiples of the alignment, by halves of the voxels."""
    low, high = torch.aminmax(coords, dim=0)
    low = torch.div(low, _ALIGNMENT, rounding_mode="floor") * _ALIGNMENT
    high = (torch.div(high, _ALIGNMENT, rounding_mode="floor") + 1) * _ALIGNMENT
    pending = [(low, high, coords)]
    while pending:
        low, high, near = pending.pop()
        inside = near[_within(near, low, high)]
        if len(inside) == 0:
            continue
        extent = high - low
        axis = int(extent.argmax())
        if len(near) <= max_voxels or int(extent[axis]) <= _ALIGNMENT:
            yield low, high
            continue
        middle = int(inside[:, axis].median()) // _ALIGNMENT * _ALIGNMENT
        middle = min(max(middle, int(low[axis]) + _ALIGNMENT), int(high[axis]) - _ALIGNMENT)
        for start, stop in ((low[axis], middle), (middle, high[axis])):
            part_low, part_high = low.clone(), high.clone()
            part_low[axis], part_high[axis] = start, stop
            pending.append((part_low, part_high, near[_within(near, part_low - margin, part_high + margin)]))
