"""Single layers: dense-channel convolution against the raw matrix product, depthwise against gather and scatter-add."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.peers import exact_convolution, gather_scatter, spconv_convolution
from benchmarks.shapes import real_surface
from benchmarks.timing import Result, compare, take_turns
from i2p_zoo import SparseTensor
from i2p_zoo.sparse.geometry import Window
from i2p_zoo.sparse.kernel_maps import KernelMap, window_sites
from i2p_zoo.sparse.sparse_convolution import convolve

WINDOW = Window(kernel=(3, 3, 3), before=(1, 1, 1), after=(1, 1, 1))


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())


def _check(name: str, found: Tensor, exact: Tensor) -> None:
    error = _error(found, exact)
    if not error < 1e-5:
        raise RuntimeError(f"{name} is wrong by {error:.1e}, so it is not timed.")


def _random(voxels: int, channels: int, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, a 3x3x3 weight of `depth` input channels a group, and an upstream gradient."""
    random = torch.Generator().manual_seed(0)
    shapes = ((voxels, channels), (channels, 3, 3, 3, depth), (voxels, channels))
    features, weight, upstream = (torch.randn(shape, generator=random) for shape in shapes)
    return features, weight, upstream


def _training_step(features: Tensor, weight: Tensor, upstream: Tensor, kmap: KernelMap, groups: int) -> Callable[[], Tensor]:
    """Returns forward and both gradients, which gives the weight's."""
    features, weight = features.clone().requires_grad_(), weight.clone().requires_grad_()

    def step() -> Tensor:
        out = convolve(features, weight, kmap, groups)
        gradients = torch.autograd.grad(out, [features, weight], upstream)
        return gradients[1]

    return step


def dense(quick: bool = False) -> Iterator[Result]:
    """3x3x3 convolutions of 64 to 512 channels on real surfaces, against one torch.mm of the same FLOPs."""
    for voxels in (2_500,) if quick else (2_500, 6_500, 15_000):
        x = real_surface(voxels)
        for channels in (64,) if quick else (64, 128, 256, 512):
            yield from _dense_case(x, channels)


def _dense_case(x: SparseTensor, channels: int) -> Iterator[Result]:
    features, weight, upstream = _random(len(x.coords), channels, channels)
    _, _, kmap = window_sites(x.cache, x.coords, None, WINDOW)
    spconv = spconv_convolution(x.derive(features), weight)
    exact = exact_convolution(features, weight.flatten(1, 3), kmap)

    def ours() -> Tensor:
        return convolve(features, weight, kmap, 1)

    def one_thread() -> Tensor:
        with threadpool_limits(1, user_api="openmp"):
            return spconv()

    _check("ours", ours(), exact)
    _check("spconv with one thread", one_thread(), exact)
    rows, square = torch.randn((kmap.num_pairs, channels)), torch.randn((channels, channels))
    products, rows_back, square_back = torch.empty_like(rows), torch.empty_like(rows), torch.empty_like(square)

    def product() -> None:
        torch.mm(rows, square, out=products)

    def three_products() -> None:
        torch.mm(rows, square, out=products)
        torch.mm(products, square.t(), out=rows_back)
        torch.mm(rows.t(), products, out=square_back)

    case = f"{len(x.coords)} voxels, {channels} channels"
    notes = {"pairs": kmap.num_pairs, "error of spconv": _error(spconv(), exact)}
    times = take_turns({"ours": ours, "GEMM": product, "spconv": spconv, "spconv, 1 thread": one_thread})
    yield compare("dense forward", case, times, "GEMM", "ours", 0.85, **notes)
    yield compare("dense forward", case, times, "spconv", "ours", 1.0, **notes)
    yield compare("dense forward", case, times, "spconv, 1 thread", "ours", **notes)
    step = _training_step(features, weight, upstream, kmap, 1)
    times = take_turns({"ours": step, "GEMM": three_products})
    yield compare("dense training step", case, times, "GEMM", "ours", 0.75)


def depthwise(quick: bool = False) -> Iterator[Result]:
    """3x3x3 depthwise convolutions of 96 to 1,152 channels on a real surface, against gather and scatter-add in torch."""
    x = real_surface(2_500 if quick else 6_500)
    for channels in (96,) if quick else (96, 384, 1152):
        yield from _depthwise_case(x, channels)


def _depthwise_case(x: SparseTensor, channels: int) -> Iterator[Result]:
    features, weight, upstream = _random(len(x.coords), channels, 1)
    _, _, kmap = window_sites(x.cache, x.coords, None, WINDOW)
    exact = exact_convolution(features, weight.flatten(1, 3), kmap)

    def ours() -> Tensor:
        return convolve(features, weight, kmap, channels)

    def reference() -> Tensor:
        with gather_scatter():
            return ours()

    _check("ours", ours(), exact)
    _check("gather-scatter", reference(), exact)
    case = f"{len(x.coords)} voxels, {channels} channels"
    times = take_turns({"ours": ours, "gather-scatter": reference})
    yield compare("depthwise forward", case, times, "gather-scatter", "ours", 15)
    step = _training_step(features, weight, upstream, kmap, channels)

    def reference_step() -> Tensor:
        with gather_scatter():
            return step()

    if _error(step(), reference_step().double()) > 1e-5:
        raise RuntimeError("The weight gradients differ: not timed.")
    times = take_turns({"ours": step, "gather-scatter": reference_step})
    yield compare("depthwise training step", case, times, "gather-scatter", "ours", 10)
