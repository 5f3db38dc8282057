"""Batch normalisation over the voxels of all processes, on any device, and on the CPU with a clamp behind it in one.

torch's own SyncBatchNorm knows no CPU. A clamp (ReLU, ReLU6) torch runs after the normalisation, in both directions; they are
bound by memory, so that what counts is how often the features are read and written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.autograd_limits import ReverseModeFunction
from i2p_zoo.sparse.kernels import batch_statistics
from i2p_zoo.sparse.threads import chunk_bounds, run_chunks

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


@np.errstate(all="ignore")  # what is not finite stays so, as in torch
def normalize_and_clamp(
    x: Tensor,
    running: tuple[Tensor, Tensor] | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    low: float,
    high: float,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, then a clamp.

    No gradient passes where the result is `low` or `high`, as with `torch.nn.functional.relu6`.

    Args:
        x: (N, C) float32 or float64 on the CPU; N > 1 in training.
        running: mean and variance, (C,) each, updated in place in training and used otherwise; None to use the batch's own.
        weight, bias: (C,), or None for 1 and 0.
        training: whether to normalise by the batch's own statistics.
        momentum: of the update.
        eps: added to the variance.
        low, high: bounds of the result; infinite ones do nothing.

    Returns:
        (N, C).

    Raises:
        InvalidInputError: a vector is not (C,).
    """
    for vector in (weight, bias, *(running or ())):
        if vector is not None and vector.shape != x.shape[1:]:
            raise InvalidInputError(f"Features of {x.shape[1]} channels are normalised by vectors {tuple(vector.shape)}.")
    if training or running is None:
        mean, variance = _moments(x)
    else:
        mean, variance = (t.numpy().astype(np.float64) for t in running)
    if training and running is not None:
        unbiased = variance * (len(x) / (len(x) - 1))
        with torch.no_grad():
            for statistic, value in zip(running, (mean, unbiased), strict=True):
                statistic.lerp_(torch.from_numpy(value).to(statistic), momentum)
    statistics = (mean, 1 / np.sqrt(variance + eps), training or running is None)
    limits = tuple(np.nan if np.isinf(limit) else limit for limit in (low, high))
    out: Tensor = _NormalizeAndClamp.apply(x, weight, bias, statistics, limits)
    return out


def _moments(x: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The (C,) mean and biased variance over the rows, summed about the mean of some of them so that digits do not cancel."""
    rows = x.detach().contiguous().numpy()
    centre = rows[:: len(rows) // 8 + 1].mean(0)
    centre[~np.isfinite(centre)] = 0
    bounds = chunk_bounds(len(rows))
    sums = np.zeros((len(bounds), 2, rows.shape[1]))
    run_chunks(batch_statistics.sum_moments, bounds, rows, centre, sums)
    first, second = sums.sum(0) / len(rows)
    return first + centre, np.maximum(second - first * first, 0)


class _NormalizeAndClamp(ReverseModeFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: Any, limits: Any) -> Tensor:
        mean, deviation, _ = statistics
        rows = x.detach().contiguous().numpy()
        dtype = rows.dtype.type
        ctx.scale = deviation if weight is None else deviation * weight.detach().numpy()
        offset = -mean * ctx.scale if bias is None else bias.detach().numpy() - mean * ctx.scale
        ctx.affine = (ctx.scale.astype(dtype), offset.astype(dtype), dtype(limits[0]), dtype(limits[1]))
        ctx.statistics = statistics
        ctx.save_for_backward(x)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        run_chunks(batch_statistics.scale_and_clamp, chunk_bounds(len(rows)), rows, *ctx.affine, out.numpy())
        return out

    @staticmethod
    @once_differentiable
    @np.errstate(all="ignore")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (x,) = ctx.saved_tensors
        mean, deviation, of_batch = ctx.statistics
        rows, upstream = x.detach().contiguous().numpy(), gradient.contiguous().numpy()
        bounds, dtype = chunk_bounds(len(rows)), rows.dtype.type
        sums = np.zeros((len(bounds), 2, rows.shape[1]))
        if of_batch or any(ctx.needs_input_grad[1:3]):
            run_chunks(batch_statistics.sum_gradients, bounds, upstream, rows, *ctx.affine, mean.astype(dtype), sums)
        total, product = sums.sum(0)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
            if of_batch:
                slope = -ctx.scale * deviation**2 * product / len(rows)
                level = -ctx.scale * total / len(rows) - slope * mean
                arrays = (slope.astype(dtype), level.astype(dtype), grad_x.numpy())
                run_chunks(batch_statistics.pass_back_of_batch, bounds, upstream, rows, *ctx.affine, *arrays)
            else:
                run_chunks(batch_statistics.pass_back, bounds, upstream, rows, *ctx.affine, grad_x.numpy())
        if ctx.needs_input_grad[1]:
            grad_weight = torch.from_numpy(product * deviation).to(x.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = torch.from_numpy(total).to(x.dtype)
        return grad_x, grad_weight, grad_bias, None, None
