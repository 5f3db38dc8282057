"""Batch normalisation over the voxels of all processes, on any device; torch's own SyncBatchNorm knows no CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import InvalidInputError

_synchronized = False


@contextlib.contextmanager
def synchronize_norms(on: bool = True) -> Iterator[None]:
    """Lets batch normalisation in training mode take its statistics over all processes, inside the block."""
    global _synchronized
    before, _synchronized = _synchronized, on
    try:
        yield
    finally:
        _synchronized = before


def is_synchronized() -> bool:
    """Whether this is inside `synchronize_norms`."""
    return _synchronized


def normalize_batch(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalises (N, C) features as `torch.nn.functional.batch_norm` does, whose arguments these are.

    Inside `synchronize_norms`, and in training, N counts the rows of all processes, however many each has.

    Raises:
        InvalidInputError: a single row, in training.
    """
    if training and not _synchronized and len(x) == 1:
        raise InvalidInputError(
            f"BatchNorm of {x.shape[1]} channels met a single voxel in training, which has no variance. Give larger clouds, "
            "more of them in a batch, or smaller voxels; or run more halvings at stride 1 (`skip_downsamples`)."
        )
    if not (training and _synchronized):
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    rows = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    count = rows.new_full((1,), len(rows))
    total = _sum_over_processes(torch.cat([rows.sum(0), count]))
    count = total[-1].detach()
    mean = total[:-1] / count
    centred = rows - mean
    variance = _sum_over_processes(centred.square().sum(0)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * count / (count - 1).clamp(min=1)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    out = centred * (variance + eps).rsqrt()
    out = out if weight is None else out * weight
    out = out if bias is None else out + bias
    return out.to(x.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of each process's values; its gradient is summed likewise."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum_over_processes(gradient)


def _sum_over_processes(values: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(values)
    return total
