"""Sparse convolution over a kernel map, with those of its gradients that are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.autograd_limits import ReverseModeFunction
from i2p_zoo.sparse.device_path import takes_device_path
from i2p_zoo.sparse.engines.engine import Engine
from i2p_zoo.sparse.engines.selection import choose_convolution, choose_depthwise, run_first
from i2p_zoo.sparse.flops import run_counted
from i2p_zoo.sparse.geometry import Padding, Pair, Triple, Window, insert_axis, simplify_stride, unfold_stride
from i2p_zoo.sparse.kernel_maps import KernelMap, window_sites
from i2p_zoo.sparse.tensor import SparseTensor

Products = Callable[[], int]


def sparse_convolution(
    x: SparseTensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int = 1, level: int | None = None
) -> SparseTensor:
    """Convolves a sparse tensor; inactive voxels count as zero.

    Args:
        x: (N, C_in) features.
        weight: (C_out, kz, ky, kx, C_in / groups), spconv's KRSC layout.
        bias: (C_out,) or None.
        window: geometry; its `kernel` is the weight's.
        groups: number of channel groups.
        level: the `Plan.level` of the result, or None to keep the input's.

    Returns:
        (M, C_out) features on the output sites (docs/design.md, rule 1).

    Raises:
        InvalidInputError: channels or dtypes do not fit the weight.
    """
    features, weight, bias = _autocast(x.features, weight, bias)
    if features.ndim != 2 or features.shape[1] != weight.shape[4] * groups:
        raise InvalidInputError(
            f"The input has features {tuple(features.shape[1:])}; the weight {tuple(weight.shape)} with groups={groups} "
            f"takes {weight.shape[4] * groups} channels."
        )
    if features.dtype != weight.dtype:
        raise InvalidInputError(f"The input is {features.dtype} and the weight {weight.dtype}: cast one of them.")
    if window.kernel == window.stride == (1, 1, 1) and window.before == window.after == (0, 0, 0) and groups == 1:
        canvas = None if x.canvas is None else _shrink_canvas(x, window, level)
        same = x.derive(F.linear(features, weight.flatten(1), bias), canvas=canvas)
        return same if level is None else same.with_plan(level=level)  # a strided one that runs at stride 1 is a halving too
    coords, shape, kmap = window_sites(x.cache, x.coords, x.spatial_shape, window)
    out = convolve(features, weight, kmap, groups, bias)
    return with_window(x, out, coords, shape, window, level)


def with_window(
    x: SparseTensor, features: Tensor, coords: Tensor, shape: Triple | None, window: Window, level: int | None
) -> SparseTensor:
    """Wraps a window's output features (M, ...) with its sites, extent, stride and level."""
    old = unfold_stride(x.stride)
    stride = simplify_stride((old[0] * window.stride[0], old[1] * window.stride[1], old[2] * window.stride[2]))
    if x.padding != Padding() and window.stride != (1, 1, 1):
        coords = coords.clone()  # not the object that up-sampling traces back: what was padded has no finer sites
    canvas = None if x.canvas is None else _shrink_canvas(x, window, level)
    out = x.derive(features, coords=coords, spatial_shape=shape, stride=stride, padding=Padding(), canvas=canvas)
    return out if level is None else out.with_plan(level=level)


def _shrink_canvas(x: SparseTensor, window: Window, level: int | None) -> Pair:
    """The canvas behind a window, as the 2D network's image shrinks: strides that are skipped included."""
    canvas = x.canvas or (0, 0)
    extent = window.out_shape(insert_axis(canvas, 1, x.plan.axis))
    height, width = (extent[axis] for axis in x.plan.plane)
    halvings = 0 if level is None else level - x.plan.level
    skipped = max(halvings - (max(window.stride).bit_length() - 1), 0)
    return (-(-height // 2**skipped), -(-width // 2**skipped))


def convolve(
    features: Tensor, weight: Tensor, kmap: KernelMap, groups: int, bias: Tensor | None = None, *, counted: bool = True
) -> Tensor:
    """Applies (C_out, kz, ky, kx, C_in / groups) weights over a kernel map: (N_in, C_in) -> (N_out, C_out).

    On a CPU half precision is computed in float32 and rounded once, as torch's own convolutions do. FLOP counters see
    2 * pairs * C_in / groups * C_out, however an engine gets there, or nothing unless `counted`, as of torch's average pools.
    """
    if not takes_device_path(features) and features.dtype in (torch.float16, torch.bfloat16):
        wide = (features.float(), weight.float(), kmap, groups, None if bias is None else bias.float())
        return convolve(*wide, counted=counted).to(features.dtype)
    outputs, inputs = weight.shape[0], weight.shape[4]
    out = _sum_taps(features, weight, kmap, groups, (lambda: kmap.num_pairs * outputs * inputs) if counted else _no_products)
    return out if bias is None else out + bias


def _sum_taps(features: Tensor, weight: Tensor, kmap: KernelMap, groups: int, products: Products) -> Tensor:
    taps = weight.flatten(1, 3)  # (C_out, K, C_in / groups)
    if groups > 1 and taps.shape[2] == 1:
        multiplier = taps.shape[0] // groups
        if multiplier > 1:
            features = features.repeat_interleave(multiplier, dim=1)
        return _run(choose_depthwise(features, kmap), features, taps.squeeze(2).t(), products)
    engine = choose_convolution(features, kmap, groups)
    axis = None if weight.requires_grad and torch.is_grad_enabled() else engine.find_repeated_axis(weight)
    if axis is not None:
        along, plane = kmap.split(axis)
        ones = features.new_ones((1, 1)).expand(len(along.taps), features.shape[1])
        features = _run(choose_depthwise(features, along), features, ones, _no_products)
        engine = choose_convolution(features, plane, groups)
    return _run(engine, features, taps, products)


def _no_products() -> int:
    return 0


def _run(engine: Engine, features: Tensor, weight: Tensor, products: Products) -> Tensor:
    out: Tensor = _Convolution.apply(features, weight, engine, products)
    return out


class _Convolution(ReverseModeFunction):
    """A convolution by an engine, and those of its gradients that are asked for."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, engine: Engine, products: Products) -> Tensor:
        ctx.save_for_backward(features if ctx.needs_input_grad[1] else None, weight)  # read by the weight's gradient alone
        ctx.engine, ctx.products = engine, products

        def run() -> tuple[Tensor]:
            out, ctx.engine = run_first(engine, features.detach(), weight.detach())
            return (out,)

        (out,) = run_counted(run, products)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        saved: list[Any] = [None if tensor is None else tensor.detach() for tensor in ctx.saved_tensors]
        features, weight = saved
        engine: Engine = ctx.engine
        products: Products = ctx.products
        of_input, of_weight, *_ = ctx.needs_input_grad
        with torch.autocast(gradient.device.type, enabled=False):  # a backward pass inside a block of it too
            if of_input and of_weight:
                both = run_counted(lambda: engine.gradients(gradient, features, weight), lambda: 2 * products(), backward=True)
                return both[0], both[1], None, None
            if of_input:
                (result,) = run_counted(lambda: (engine.input_gradient(gradient, weight),), products, backward=True)
                return result, None, None, None
            (result,) = run_counted(lambda: (engine.weight_gradient(gradient, features, weight),), products, backward=True)
            return None, result, None, None


def _autocast(features: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    device = features.device.type
    if not torch.is_autocast_enabled(device) or features.dtype == torch.float64:
        return features, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return features.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
