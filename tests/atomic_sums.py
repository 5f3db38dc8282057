"""Finds what differs from run to run on a GPU: floating sums at one place by several threads, in whatever order they come."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Kernels of CUDA that add up by atomics whatever their arguments; torch.use_deterministic_algorithms lists them. That of an
# index by tensors, `index_put` with accumulate=True, sorts first.
_ALWAYS = {
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "_embedding_bag_dense_backward",
    "_upsample_bicubic2d_aa_backward", "_upsample_bilinear2d_aa_backward", "adaptive_max_pool2d_backward",
    "avg_pool3d_backward", "embedding_dense_backward", "grid_sampler_2d_backward", "grid_sampler_3d_backward",
    "max_pool3d_with_indices_backward", "nll_loss2d_forward", "reflection_pad1d_backward", "reflection_pad2d_backward",
    "replication_pad1d_backward", "replication_pad2d_backward", "upsample_bicubic2d_backward", "upsample_bilinear2d_backward",
    "upsample_linear1d_backward", "upsample_trilinear3d_backward",
}  # fmt: skip
_ALONG = {"scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_"}


class AtomicSums(TorchDispatchMode):
    """Notes, within a block, the operations on floating values that add several of them to one place by atomics on a GPU.

    Attributes:
        names: how often each was met.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        is_floating = any(isinstance(value, Tensor) and value.is_floating_point() for value in args)
        if is_floating and (name in _ALWAYS or _adds_repeatedly(name, args, kwargs)):
            self.names[name] += 1
        return function(*args, **kwargs)


def _adds_repeatedly(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    if name in ("scatter_reduce", "scatter_reduce_") and args[4] in ("amax", "amin"):
        return False
    if name in ("index_add", "index_add_"):
        return _repeats(args[2])
    if name in _ALONG:
        target, dim, index = args[:3]
        places = list(torch.meshgrid(*(torch.arange(size) for size in index.shape), indexing="ij"))
        places[dim] = index
        return _repeats(_number(places, target.shape))
    return False


def _number(columns: list[Tensor], sizes: Any) -> Tensor:
    number = torch.zeros_like(columns[0])
    for column, size in zip(columns, sizes, strict=True):
        number = number * size + column
    return number


def _repeats(index: Tensor) -> bool:
    return len(index.unique()) < index.numel()
