"""Batch normalisation with a clamp behind it (ReLU, ReLU6) in one, on the CPU.

torch runs the two one after the other, in both directions; they are bound by memory, so that what counts is how often the
features are read and written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.kernels import batch_statistics
from i2p_zoo.sparse.threads import chunk_bounds, run_chunks

Vector = NDArray[np.float64]


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


def _moments(x: Tensor) -> tuple[Vector, Vector]:
    """The (C,) mean and biased variance over the rows, summed about the mean of some of them so that digits do not cancel."""
    rows = x.detach().contiguous().numpy()
    centre = rows[:: len(rows) // 8 + 1].mean(0)
    centre[~np.isfinite(centre)] = 0
    bounds = chunk_bounds(len(rows))
    sums = np.zeros((len(bounds), 2, rows.shape[1]))
    run_chunks(batch_statistics.sum_moments, bounds, rows, centre, sums)
    first, second = sums.sum(0) / len(rows)
    return first + centre, np.maximum(second - first * first, 0)


class _NormalizeAndClamp(torch.autograd.Function):
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
