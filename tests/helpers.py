"""What several test files share: random clouds, dense oracles and networks with live normalisation."""

from __future__ import annotations

import itertools
from contextvars import ContextVar

import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo import SparseTensor, image_to_plane
from i2p_zoo.sparse.geometry import Window

# The same examples in every run and no file on disk; the first example pays for compilation, hence no deadline.
property_test = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def seeded(seed: int = 0) -> torch.Generator:
    """A random generator of its own, so that no test depends on another's draws."""
    return torch.Generator().manual_seed(seed)


def random_cloud(
    channels: int,
    *,
    voxels: int = 40,
    batch_size: int = 2,
    extent: int = 6,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    low: int | None = None,
    spatial_shape: tuple[int, int, int] | None = None,
) -> SparseTensor:
    """Unsorted random voxels of `batch_size` samples; coordinates start at `low`, by default below zero."""
    random = seeded(seed)
    low = -(extent // 2) if low is None else low
    total = batch_size * extent**3
    cells = torch.randperm(total, generator=random)[: min(voxels, total)]
    cells[0] = total - 1  # the last sample always has a voxel
    cells = cells.unique()
    cells = cells[torch.randperm(len(cells), generator=random)]
    columns = [cells // extent**3, cells // extent**2 % extent + low, cells // extent % extent + low, cells % extent + low]
    features = torch.randn(len(cells), channels, generator=random, dtype=torch.float64).to(dtype)
    coords = torch.stack(columns, 1).int()
    return SparseTensor(features, coords, batch_size=batch_size, spatial_shape=spatial_shape)


def make_window(
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    dilation: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] | None = None,
) -> Window:
    """A window with the new axis along z, centred unless `padding` says otherwise."""
    if padding is None:
        padding = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True))
    return Window(kernel=kernel, stride=stride, before=padding, after=padding, dilation=dilation)


def strided_sites(coords: Tensor, stride: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """The sorted distinct rows (batch, floor(c / stride)), by Python's integers."""
    return sorted({(row[0], *(c // s for c, s in zip(row[1:], stride, strict=True))) for row in coords.tolist()})


def dense_convolution(
    features: Tensor, coords: Tensor, out_coords: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> Tensor:
    """The values of a dense conv3d over zeros with the features put in, at o * s - p + k * d for each output site o.

    Differentiable in features, weight (C_out, kz, ky, kx, C_in / groups) and bias; all (N, C).
    """
    stride = torch.tensor(window.stride)
    first_tap = out_coords[:, 1:].long() * stride - torch.tensor(window.before)
    span = torch.tensor([(k - 1) * d for k, d in zip(window.kernel, window.dilation, strict=True)])
    everything = torch.cat([coords[:, 1:].long(), first_tap, first_tap + span])
    low, high = torch.aminmax(everything, dim=0)
    batch = int(coords[:, 0].max()) + 1
    volume = features.new_zeros((batch, *(high - low + 1).tolist(), features.shape[1]))
    z, y, x = (coords[:, 1:].long() - low).unbind(1)
    volume = volume.index_put((coords[:, 0].long(), z, y, x), features).permute(0, 4, 1, 2, 3)
    dense = F.conv3d(volume, weight.permute(0, 4, 1, 2, 3), bias, dilation=window.dilation, groups=groups)
    z, y, x = (first_tap - low).unbind(1)
    return dense.permute(0, 2, 3, 4, 1)[out_coords[:, 0].long(), z, y, x]


def plane_values(x: SparseTensor) -> Tensor:
    """A plane's features as an image (B, C, ..., H, W): the dense tensor without its axis of length 1."""
    dense = x.dense()
    first = dense.ndim - 3
    assert dense.shape[first + x.plan.axis] == 1, f"not a plane: {x!r}"
    return dense.squeeze(first + x.plan.axis)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest expected value."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def randomise_norms_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every BatchNorm statistics and affine parameters that are not those of the identity, in place."""
    random = seeded(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                module.running_mean.copy_(torch.randn(module.num_features, generator=random) * 0.2)
                module.running_var.copy_(torch.rand(module.num_features, generator=random) + 0.5)
                module.weight.copy_(torch.rand(module.num_features, generator=random) + 0.5)
                module.bias.copy_(torch.randn(module.num_features, generator=random) * 0.2)
    return model


def force_torch_path(monkeypatch) -> None:
    """Runs what devices without Triton run: no numba kernels, and kernel maps by binary search."""
    from i2p_zoo.sparse import device_path

    monkeypatch.setattr(device_path, "_forced", ContextVar("device_path", default=True))
    monkeypatch.setattr(device_path, "has_triton", lambda: False)


def random_images(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal float64 images of a shape (B, C, H, W)."""
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def check_on_plane(function, images: Tensor, *dense: Tensor, of_image=None, axis: str = "z", tolerance: float = 1e-12) -> None:
    """Asserts that `function(x, *dense)` of an image's plane has the image's shape, values and gradients.

    `of_image`, by default `function` itself, is what torch computes on the image. Either may return several tensors.
    """
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (images, *dense)]
    expected = (of_image or function)(*inputs)
    found = function(image_to_plane(inputs[0], axis), *inputs[1:])
    several = isinstance(expected, tuple | list)
    pairs = list(zip(found, expected, strict=True)) if several else [(found, expected)]
    for value, truth in pairs:
        assert tuple(value.shape) == tuple(truth.shape)
        values = plane_values(value) if isinstance(value, SparseTensor) else value
        assert relative_error(values, truth) < tolerance
        cotangent = torch.randn(truth.shape, generator=seeded(5), dtype=truth.dtype)
        gradients = [torch.autograd.grad(v, inputs, cotangent, allow_unused=True, retain_graph=True) for v in (values, truth)]
        for gradient, true_gradient in zip(*gradients, strict=True):
            assert (gradient is None) == (true_gradient is None)
            assert gradient is None or relative_error(gradient, true_gradient) < tolerance


def window_rows(coords: Tensor, out_coords: Tensor, window: Window) -> list[list[int]]:
    """For each output site o the input row that each tap k reads at o * s - p + k * d, or -1, by Python's integers."""
    row_of = {tuple(site): row for row, site in enumerate(coords.tolist())}
    geometry = list(zip(window.stride, window.before, window.dilation, strict=True))
    taps = list(itertools.product(*map(range, window.kernel)))

    def read(site: list[int], tap: tuple[int, ...]) -> int:
        at = [o * s - p + k * d for o, k, (s, p, d) in zip(site[1:], tap, geometry, strict=True)]
        return row_of.get((site[0], *at), -1)

    return [[read(site, tap) for tap in taps] for site in out_coords.tolist()]


def small_net():
    """One of every kind of leaf that a 2D network usually has, in the order of a classifier."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.PReLU(6),
        nn.Conv2d(6, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    return randomise_norms_(net)
