"""Oracles of a function beside `check_on_plane`: channels last, tokens, a cloud's samples, and a plane's sites only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i2p_zoo import SparseTensor, image_to_plane, inflate
from i2p_zoo.sparse.geometry import Padding
from i2p_zoo.sparse.tokens.densification import spread_on_canvas
from tests.helpers import check_on_plane, random_cloud, relative_error, seeded


def last(x):
    """(B, C, ..., H, W) as (B, H, W, C, ...)."""
    return x.permute(0, x.ndim - 2, x.ndim - 1, *range(1, x.ndim - 2))


def first(x):
    """(B, H, W, C, ...) as (B, C, ..., H, W)."""
    return x.permute(0, *range(3, x.ndim), 1, 2)


def check_channels_last(function, images: Tensor, *dense: Tensor, axis: str = "z", tolerance: float = 1e-12) -> None:
    """`check_on_plane` of a function of (B, H, W, C) tensors; the shapes of its results count in that layout."""
    shapes = []

    def from_front_to_front(x, *dense):
        results = function(last(x), *dense)
        results = results if isinstance(results, tuple | list) else (results,)
        shapes.append([tuple(result.shape) for result in results])
        return [first(result) if result.ndim > 2 else result for result in results]

    check_on_plane(from_front_to_front, images, *dense, axis=axis, tolerance=tolerance)
    assert shapes[0] == shapes[1]


def check_on_samples(function, x: SparseTensor, *, of_image=None, tolerance: float = 1e-12) -> None:
    """Asserts that `function` of a cloud gives values and gradients of each sample's voxels, an image one pixel wide.

    `function` may return sparse tensors on the same sites, in either layout, or dense rows, one a sample.
    """
    features = x.features.detach().clone().requires_grad_()
    samples = [(x.coords[:, 0] == sample).nonzero().squeeze(1) for sample in range(x.batch_size)]
    images = [features[rows].movedim(0, -1)[None, ..., None] for rows in samples]  # (1, C, ..., n, 1)
    outputs = [function(x.derive(features)), *map(of_image or function, images)]
    for found, *truths in zip(*(output if isinstance(output, tuple) else (output,) for output in outputs), strict=True):
        if isinstance(found, SparseTensor):
            assert found.coords is x.coords
            rows = [t[0, :, 0] if found.channels_last else t[0, ..., 0].movedim(-1, 0) for t in truths]
            value, truth = found.features, torch.cat(rows)[torch.cat(samples).argsort()]
        else:
            value, truth = found, torch.cat(truths)
        assert relative_error(value, truth) < tolerance
        cotangent = torch.randn(truth.shape, generator=seeded(6), dtype=truth.dtype)
        gradients = [torch.autograd.grad(v, features, cotangent, retain_graph=True)[0] for v in (value, truth)]
        assert relative_error(*gradients) < tolerance


def check_at_sites(function, images: Tensor, axis: str, of_image=None, tolerance: float = 1e-12) -> None:
    """Asserts that `function` of a plane has the image's extent, and its values and gradients at the sites there are."""
    inputs = images.clone().requires_grad_()
    found, truth = function(image_to_plane(inputs, axis)), (of_image or function)(inputs)
    assert found.shape == tuple(truth.shape)
    assert found.padding == Padding()
    sample, height, width = found.coords[:, [0, *(1 + a for a in found.plan.plane)]].long().unbind(1)
    expected = truth[sample, :, height, width]
    expected = expected.masked_fill(expected.isinf(), 0)  # an empty window is 0
    assert relative_error(found.features, expected) < tolerance
    cotangent = torch.randn(expected.shape, generator=seeded(5), dtype=torch.float64)
    gradients = [torch.autograd.grad(value, inputs, cotangent)[0] for value in (found.features, expected)]
    assert relative_error(*gradients) < tolerance


def unequal_cloud(channels: int) -> SparseTensor:
    """Unsorted voxels of three samples, a few of the first, many of the second."""
    x = random_cloud(channels, voxels=90, batch_size=3)
    number, sample = torch.arange(len(x.coords)), x.coords[:, 0]
    kept = (sample == 1) | (number < 12) | ((sample == 2) & (number < 40))
    x = SparseTensor(x.features[kept], x.coords[kept], batch_size=3)
    few, many, some = x.sample_counts.tolist()
    assert 2 < few < some < many
    return x


def randomised(module: nn.Module) -> nn.Module:
    """Gives every parameter standard normal values, in place."""
    random = seeded(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=parameter.dtype))
    return module


def inflated(leaf: nn.Module, axis: str = "z", inflation: str = "center", depth: int | None = None):
    """The 3D layer of a 2D leaf, with its inflated weights."""
    return inflate(nn.Sequential(leaf), inflation, axis, depth)[0]


def as_dense(x):
    """What stands for a tensor of an image, as that tensor: sites, tokens or a dense tensor."""
    return x if isinstance(x, Tensor) else spread_on_canvas(x)


def check_as_image(function, images: Tensor, *dense: Tensor, of_image=None, axis: str = "z", tolerance: float = 1e-12) -> None:
    """`check_on_plane` of a function that may return tokens too: shapes, values and gradients are the image's."""

    def spread(results):
        return [as_dense(result) for result in results] if isinstance(results, tuple | list) else as_dense(results)

    shapes = []

    def watched(*inputs):
        results = function(*inputs)
        shapes.append([tuple(r.shape) for r in (results if isinstance(results, tuple | list) else [results])])
        return spread(results)

    check_on_plane(watched, images, *dense, of_image=of_image or watched, axis=axis, tolerance=tolerance)
    assert of_image is not None or shapes[0] == shapes[1]
