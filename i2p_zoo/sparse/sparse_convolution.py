"""Sparse convolution over a kernel map, with all gradients.

Dense and grouped channels run as gathered matrix products, depthwise as one fused pass on the CPU. A weight that is frozen
costs no weight gradient.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.engines import convolve_by_engine, find_engine
from i2p_zoo.sparse.geometry import Padding, Triple, Window, simplify_stride, unfold_stride
from i2p_zoo.sparse.kernel_maps import KernelMap, window_sites
from i2p_zoo.sparse.kernels import columns as _columns
from i2p_zoo.sparse.kernels import depthwise_numba as _depthwise
from i2p_zoo.sparse.kernels import dot_products as _dot_products
from i2p_zoo.sparse.kernels import matrix as _matrix
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.threads import chunk_bounds, run_chunks

_ROWS_A_CHANNEL = 2  # fewer rows a tap than this times their channels are few
_SUM_COST = 16  # adding one row costs as much as this many outputs of a matrix product with it


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
        same = x.derive(torch.nn.functional.linear(features, weight.flatten(1), bias))
        return same if level is None else same.with_plan(level=level)  # a strided one that runs at stride 1 is a halving too
    coords, shape, kmap = window_sites(x.cache, x.coords, x.spatial_shape, window)
    out = convolve(features, weight, kmap, groups)
    if bias is not None:
        out = out + bias
    return with_window(x, out, coords, shape, window, level)


def with_window(
    x: SparseTensor, features: Tensor, coords: Tensor, shape: Triple | None, window: Window, level: int | None
) -> SparseTensor:
    """Wraps a window's output features (M, ...) with its sites, extent, stride and level."""
    old = unfold_stride(x.stride)
    stride = simplify_stride((old[0] * window.stride[0], old[1] * window.stride[1], old[2] * window.stride[2]))
    if x.padding != Padding() and window.stride != (1, 1, 1):
        coords = coords.clone()  # not the object that up-sampling traces back: what was padded has no finer sites
    out = x.derive(features, coords=coords, spatial_shape=shape, stride=stride, padding=Padding())
    return out if level is None else out.with_plan(level=level)


def convolve(features: Tensor, weight: Tensor, kmap: KernelMap, groups: int) -> Tensor:
    """Applies (C_out, kz, ky, kx, C_in / groups) weights over a kernel map: (N_in, C_in) -> (N_out, C_out)."""
    taps = weight.flatten(1, 3)  # (C_out, K, C_in / groups)
    if groups > 1 and taps.shape[2] == 1:
        multiplier = taps.shape[0] // groups
        if multiplier > 1:
            features = features.repeat_interleave(multiplier, dim=1)
        result: Tensor = _DepthwiseConvolution.apply(features, taps.squeeze(2).t(), kmap)
        return result
    engine = find_engine(features.device) if groups == 1 else None
    if engine is not None:
        return convolve_by_engine(engine, features, weight, kmap)
    axis = _repeated_axis(features, weight, kmap)
    if axis is not None:
        along, kmap = kmap.split(axis)
        ones = features.new_ones((1, 1)).expand(len(along.taps), features.shape[1])
        features = _DepthwiseConvolution.apply(features, ones, along)
    out: Tensor = _Convolution.apply(features, taps, kmap, groups)
    return out


def _repeated_axis(features: Tensor, weight: Tensor, kmap: KernelMap) -> int | None:
    """The axis along which a weight without gradient repeats, as average and copy leave it, if it pays to sum there first."""
    if not has_kernel(features) or (weight.requires_grad and torch.is_grad_enabled()):
        return None
    for axis in range(3):
        if weight.shape[1 + axis] > 1 and _repeats(weight, axis):
            along, plane = kmap.split(axis)
            cost = plane.num_pairs + along.num_pairs * _SUM_COST / weight.shape[0]
            return axis if cost < kmap.num_pairs else None
    return None


def _repeats(weight: Tensor, axis: int) -> bool:
    """Whether a (C_out, kz, ky, kx, C_in / groups) weight is the same at every place along an axis."""
    bounds = chunk_bounds(len(weight), minimum=1)
    differs = np.zeros(len(bounds), np.bool_)
    run_chunks(_columns.find_differences, bounds, weight.detach().contiguous().numpy(), axis, differs)
    return not differs.any()


def _autocast(features: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    device = features.device.type
    if not torch.is_autocast_enabled(device) or features.dtype == torch.float64:
        return features, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return features.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _grouped(rows: Tensor, groups: int) -> Tensor:
    blocks: Tensor = rows.unflatten(1, (groups, -1))
    return blocks.transpose(0, 1)  # (groups, n, C / groups)


def _project(rows: Tensor, weight: Tensor, groups: int) -> Tensor:
    """(n, C_in) times a tap's (C_out, C_in / groups): (n, C_out)."""
    if groups == 1:
        return rows @ weight.t()
    blocks = weight.unflatten(0, (groups, -1))  # (groups, C_out / groups, C_in / groups)
    return torch.bmm(_grouped(rows, groups), blocks.transpose(1, 2)).transpose(0, 1).flatten(1)


def _project_back(gradient: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The input gradient of `_project`: (n, C_out) -> (n, C_in)."""
    if groups == 1:
        return gradient @ weight
    blocks = weight.unflatten(0, (groups, -1))
    return torch.bmm(_grouped(gradient, groups), blocks).transpose(0, 1).flatten(1)


def _correlate(gradient: Tensor, rows: Tensor, groups: int) -> Tensor:
    """The weight gradient of `_project`: (C_out, C_in / groups)."""
    if groups == 1:
        return gradient.t() @ rows
    return torch.bmm(_grouped(gradient, groups).transpose(1, 2), _grouped(rows, groups)).flatten(0, 1)


class _Convolution(torch.autograd.Function):
    """Dense or grouped channels: features (N_in, C_in), weight (C_out, K, C_in / groups)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kmap: KernelMap, groups: int) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kmap, ctx.groups = kmap, groups
        used = find_used_taps(weight, kmap)
        ctx.used = used
        if has_kernel(features):
            if _has_few_rows(kmap, features, groups):
                return multiply_few_rows(features, weight, kmap, used)
            return multiply_rows(features, weight, kmap.taps, kmap.table, used, groups)
        out = features.new_zeros((kmap.num_outputs, weight.shape[0]))
        for (tap, inputs, outputs), counts in zip(kmap.pairs, used.tolist(), strict=True):
            if counts:
                rows = features if inputs is None else features.index_select(0, inputs)
                _add_rows(out, outputs, _project(rows, weight[:, tap], groups))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, weight = ctx.saved_tensors
        kmap, groups = ctx.kmap, ctx.groups
        grad_features = grad_weight = None
        if ctx.needs_input_grad[0] and has_kernel(features) and _has_few_rows(kmap, gradient, groups):
            grad_features = multiply_few_rows_back(gradient, weight, kmap, ctx.used)
        elif ctx.needs_input_grad[0] and has_kernel(features):
            blocks = weight.unflatten(0, (groups, -1))  # (groups, C_out / groups, K, C_in / groups)
            transposed = blocks.permute(0, 3, 2, 1).flatten(0, 1)
            grad_features = multiply_rows(gradient, transposed, kmap.taps, kmap.transposed, ctx.used, groups)
        elif ctx.needs_input_grad[0]:
            grad_features = torch.zeros_like(features)
            for (tap, inputs, outputs), counts in zip(kmap.pairs, ctx.used.tolist(), strict=True):
                if counts:
                    part = gradient if outputs is None else gradient.index_select(0, outputs)
                    _add_rows(grad_features, inputs, _project_back(part, weight[:, tap], groups))
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            if has_kernel(features):
                grad_weight[:, kmap.taps] = correlate_rows(features, gradient, kmap.table, groups)
            else:
                for tap, inputs, outputs in kmap.pairs:
                    part = gradient if outputs is None else gradient.index_select(0, outputs)
                    rows = features if inputs is None else features.index_select(0, inputs)
                    grad_weight[:, tap] = _correlate(part, rows, groups)
        return grad_features, grad_weight, None, None


def _has_few_rows(kmap: KernelMap, rows: Tensor, groups: int) -> bool:
    """Whether so few rows are multiplied by each tap that laying its weights out anew for them does not pay."""
    return groups == 1 and kmap.num_pairs < len(kmap.taps) * rows.shape[1] * _ROWS_A_CHANNEL


def _add_rows(out: Tensor, rows: Tensor | None, values: Tensor) -> None:
    if rows is None:
        out += values
    else:
        out.index_add_(0, rows, values)


def find_used_taps(weight: Tensor, kmap: KernelMap) -> Tensor:
    """(K,) bool: which of the map's taps of a (C_out, K, C_in / groups) weight are not all zero; elsewhere than the CPU all."""
    used = torch.ones(len(kmap.taps), dtype=torch.bool)
    if has_kernel(weight):
        arrays = (weight.detach().numpy(), np.array(kmap.taps, np.int64), used.numpy())
        run_chunks(_matrix.find_used_taps, chunk_bounds(len(used), minimum=1), *arrays)
    return used


def multiply_few_rows(features: Tensor, weight: Tensor, kmap: KernelMap, used: Tensor) -> Tensor:
    """`multiply_rows` of a (C_out, all taps, C_in) weight without groups, faster where few rows are multiplied by each tap."""
    out = features.new_zeros((kmap.num_outputs, weight.shape[0]))
    rows, flat = features.detach().contiguous().numpy(), weight.detach().contiguous().flatten(1).numpy()
    arrays = (rows, kmap.table.numpy(), np.array(kmap.taps, dtype=np.int64), flat, used.numpy(), out.numpy())
    run_chunks(_dot_products.multiply_few_rows, chunk_bounds(-(-len(flat) // _dot_products.CHANNELS), minimum=1), *arrays)
    return out


def multiply_few_rows_back(gradient: Tensor, weight: Tensor, kmap: KernelMap, used: Tensor) -> Tensor:
    """The (N_in, C_in) feature gradient of `multiply_few_rows`."""
    panels = -(-weight.shape[2] // (_matrix.PANEL_BYTES // weight.element_size()))
    bounds = chunk_bounds(panels, minimum=1)
    out = gradient.new_zeros((kmap.num_inputs + len(bounds), weight.shape[2]))
    rows, taps = gradient.detach().contiguous().numpy(), weight.detach().contiguous().numpy()
    arrays = (rows, kmap.transposed.numpy(), taps, np.array(kmap.taps, np.int64), used.numpy(), out.numpy())
    run_chunks(_matrix.multiply_few_rows_back, bounds, *arrays)
    return out[: kmap.num_inputs]


def multiply_rows(features: Tensor, weight: Tensor, numbers: list[int], table: Tensor, used: Tensor, groups: int) -> Tensor:
    """Sums features[table[k, o]] times tap numbers[k] of a (C_out, all taps, C_in / groups) weight, into (N_out, C_out).

    Taps that are not `used` (K,) cost nothing, and what stands on their voxels, a NaN too, does not matter.
    """
    width = _matrix.PANEL_BYTES // features.element_size()
    outputs, _, depth = weight.shape
    taps = len(table)
    panels = groups * -(-(outputs // groups) // width)
    packed = features.new_empty((taps, panels, depth, width))
    arrays = (packed.numpy(), used.numpy(), groups)
    bounds = chunk_bounds(taps, minimum=1)
    read = np.array(numbers, np.int64)
    run_chunks(_matrix.pack_weight, bounds, weight.detach().numpy(), read, groups, used.numpy(), packed.numpy())
    bounds = chunk_bounds(table.shape[1], minimum=32)
    out = features.new_zeros((table.shape[1] + len(bounds), outputs))
    rows = features.detach().contiguous().numpy()
    run_chunks(_matrix.multiply_rows, bounds, rows, table.numpy(), *arrays, out.numpy())
    return out[: table.shape[1]]


def correlate_rows(features: Tensor, gradient: Tensor, table: Tensor, groups: int) -> Tensor:
    """The (C_out, K, C_in / groups) weight gradient of `multiply_rows`."""
    inputs, outputs = features.shape[1] // groups, gradient.shape[1] // groups
    out = features.new_zeros((groups * outputs, len(table), inputs))
    left = _at_least(gradient, _matrix.TILE_ROWS)
    right = _at_least(features, _matrix.PANEL_BYTES // features.element_size())
    tiles = groups * -(-outputs // _matrix.TILE_ROWS)
    arrays = (right.numpy(), left.numpy(), table.numpy(), groups, inputs, outputs, out.flatten(1).numpy())
    run_chunks(_matrix.correlate_rows, chunk_bounds(tiles, minimum=1), *arrays)
    return out


def _at_least(rows: Tensor, width: int) -> Tensor:
    """(N, C) contiguous, with columns of zeros behind where C is less than `width`."""
    missing = max(width - rows.shape[1], 0)
    return torch.nn.functional.pad(rows.detach(), (0, missing)).contiguous()


class _DepthwiseConvolution(torch.autograd.Function):
    """One filter a channel: features (N_in, C), weight (K, C)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kmap = kmap
        return depthwise(features, _weight_of_taps(weight, kmap), kmap)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        kmap: KernelMap = ctx.kmap
        grad_features = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_features = depthwise(gradient, _weight_of_taps(weight, kmap), kmap, transposed=True)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            grad_weight[kmap.taps] = depthwise_weight_gradient(features, gradient, kmap)
        return grad_features, grad_weight, None


def _weight_of_taps(weight: Tensor, kmap: KernelMap) -> Tensor:
    """A (K, C) weight's rows of the taps that read anything."""
    return weight if len(kmap.taps) == len(weight) else weight[kmap.taps]


def has_kernel(tensor: Tensor) -> bool:
    """Whether the numba kernels take a tensor: float32 or float64 on the CPU."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def depthwise(features: Tensor, weight: Tensor, kmap: KernelMap, *, transposed: bool = False) -> Tensor:
    """out[o] = sum over o's pairs of features[source] * weight[tap]: (N_in, C), (K, C) -> (N_out, C); transposed, back."""
    if has_kernel(features):
        pairs = kmap.pairs_by_input if transposed else kmap.pairs_by_output
        out = features.new_empty((len(pairs.ends), features.shape[1]))
        weight = weight.detach().contiguous()
        rows = features.detach().contiguous()
        arrays = (rows.numpy(), *pairs, weight.numpy(), out.numpy())
        run_chunks(_depthwise.depthwise_forward, chunk_bounds(len(out)), *arrays)
        return out
    table = kmap.transposed if transposed else kmap.table
    if features.is_cuda and _has_triton():
        from i2p_zoo.sparse.kernels import depthwise_triton

        return depthwise_triton.forward(features, weight, table)
    out = features.new_zeros((table.shape[1], features.shape[1]))
    for row, (_, inputs, outputs) in zip(weight, kmap.pairs, strict=True):
        source, target = (outputs, inputs) if transposed else (inputs, outputs)
        if source is None or target is None:
            out += features * row
        else:
            out.index_add_(0, target, features.index_select(0, source) * row)
    return out


def depthwise_weight_gradient(features: Tensor, gradient: Tensor, kmap: KernelMap) -> Tensor:
    """The (K, C) weight gradient of `depthwise`; chunks are summed in order, so the bits depend on the thread count only."""
    if has_kernel(features):
        bounds = chunk_bounds(len(gradient))
        partial = features.new_zeros((len(bounds), len(kmap.taps), features.shape[1]))
        rows, upstream = features.detach().contiguous(), gradient.detach().contiguous()
        arrays = (rows.numpy(), *kmap.pairs_by_output, upstream.numpy(), partial.numpy())
        run_chunks(_depthwise.depthwise_weight_gradient, bounds, *arrays)
        return partial.sum(0)
    if features.is_cuda and _has_triton():
        from i2p_zoo.sparse.kernels import depthwise_triton

        return depthwise_triton.weight_gradient(features, gradient, kmap.table)
    products = []
    for _, inputs, outputs in kmap.pairs:
        left = gradient if outputs is None else gradient.index_select(0, outputs)
        right = features if inputs is None else features.index_select(0, inputs)
        products.append((left * right).sum(0))
    return torch.stack(products) if products else features.new_zeros((0, features.shape[1]))
