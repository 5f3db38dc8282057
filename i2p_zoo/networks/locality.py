"""Whether a network's outputs depend on what is near alone, so that a scene can be run in blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.modules import probe_mode
from i2p_zoo.sparse.coordinates import SiteCache
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.token_rows import find_rows
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor

_DISTANCE = 1 << 20  # voxels: farther than any chain of windows reaches, and a multiple of every stride
_STEPS = ((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1))
_ROUNDING = 0.7  # values that differ by less than the type's epsilon to that power, of the largest, are the same


def find_global_layer(model: Any, x: SparseTensor) -> str | None:
    """Finds the layer that first gives a voxel other values because of voxels that are far away, by running two clouds.

    One is a few voxels; the other the same and others far away, along each axis and along all. The network stays as it is;
    hooks of its modules are not called.

    Args:
        model: an inflated network in eval mode, with `forward_features`.
        x: its input, as its `prepare` gives it, with an extent.

    Returns:
        The qualified name of the layer; "" where it is the network's own forward. None where there is no such layer: all
        attention is in windows, and no table of places is read.
    """
    name_of_module = {module: name for name, module in model.named_modules()}
    running: list[nn.Module] = []
    blamed: list[str] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        if not blamed and any(_differs(each) for each in inputs):
            blamed.append(name_of_module[running[-1]] if running else "")
        running.append(module)

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        running.pop()
        if not blamed and any(_differs(each) for each in (output if isinstance(output, list | tuple) else [output])):
            blamed.append(name_of_module[module])

    with probe_mode(model), torch.no_grad():
        for module in model.modules():
            if module is not model:
                module.register_forward_pre_hook(enter)
                module.register_forward_hook(leave)
        if _differs(model.forward_features(_near_and_far(x))) and not blamed:
            blamed.append("")
    return blamed[0] if blamed else None


def _near_and_far(x: SparseTensor) -> SparseTensor:
    """Two samples: a cube of voxels in the middle of the canvas, and the same with cubes far away along each axis and all."""
    side = torch.arange(4, dtype=torch.int32, device=x.device)
    cube = torch.cartesian_prod(side, side, side)
    canvas = x.level.extent or (0, 0)
    for column, size in zip(x.plan.plane, canvas, strict=True):
        cube[:, column] += size // 2
    far = [cube + _DISTANCE * torch.tensor(step, dtype=torch.int32, device=x.device) for step in _STEPS]
    coords = torch.cat([nn.functional.pad(part, (1, 0), value=int(i > 0)) for i, part in enumerate([cube, cube, *far])])
    random = torch.Generator().manual_seed(0)
    near, *others = torch.randn(1 + len(far), len(cube), *x.features.shape[1:], generator=random).to(x.features)
    features = torch.cat([near, near, *others])
    return x.derive(features, coords=coords, cache=SiteCache(), batch_size=2, spatial_shape=None, canvas=canvas)


def _differs(x: Any) -> bool:
    """Whether the first sample's values are others than those that the second has at the same places."""
    if isinstance(x, TokenTensor) and not x.is_pairs:
        first = x.rows.batch_size * x.rows.prefix  # of extra tokens, a sample's own
        extra = x.values[:first].unflatten(0, (2, -1)) if first else None
        return (extra is not None and _is_far(extra[0], extra[1])) or _differs_at(x.rows.coords, x.values[first:])
    if isinstance(x, SparseTensor):
        return _differs_at(x.coords, x.features)
    return isinstance(x, Tensor) and len(x) == 2 and _is_far(x[0], x[1])


def _differs_at(coords: Tensor, values: Tensor) -> bool:
    mine = coords[:, 0] == 0
    same = coords[mine] + torch.tensor((1, 0, 0, 0), dtype=coords.dtype, device=coords.device)
    rows = find_rows(coords, same, missing=True)
    return bool((rows < 0).any()) or _is_far(values[mine], values[rows])


def _is_far(first: Tensor, second: Tensor) -> bool:
    if not first.is_floating_point() or not first.numel():
        return False
    largest = first.double().abs().max()
    return bool((first.double() - second.double()).abs().max() > torch.finfo(first.dtype).eps ** _ROUNDING * largest)
