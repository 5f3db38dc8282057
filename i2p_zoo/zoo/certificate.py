"""The certificate: on images laid on a plane of voxels, a 3D network computes its 2D source's function."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.networks.point_cloud_model import PointCloudModel, inflate
from i2p_zoo.networks.timm_models import create_random_model, example_images
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.voxelization import image_to_plane

TOLERANCES = {"float32": 1e-5, "float64": 1e-9}


@dataclass(frozen=True)
class Certificate:
    """How far a 3D network's outputs on images are from its 2D source's.

    Attributes:
        errors: for "float32" and "float64" the largest |3D - 2D| over an image's outputs, divided by that image's largest
            |2D|, maximum over images.
        images: shape (B, C, H, W) of the images measured on.
        agreement: fraction of images for which both name the same top class.
    """

    errors: dict[str, float]
    images: tuple[int, ...]
    agreement: float

    @property
    def max_relative_error(self) -> float:
        """The largest error over the dtypes measured."""
        return float(np.max(list(self.errors.values())))  # NaN where any is; `max` passes over one that does not come first

    @property
    def passed(self) -> bool:
        """Whether every error is within `TOLERANCES` (NaN is not)."""
        return all(error <= TOLERANCES[dtype] for dtype, error in self.errors.items())

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as JSON types."""
        return {"errors": self.errors, "images": list(self.images), "agreement": self.agreement, "passed": self.passed}

    def __str__(self) -> str:
        figures = ", ".join(f"{dtype} {error:.2e} (<= {TOLERANCES[dtype]:.0e})" for dtype, error in self.errors.items())
        return f"{'passed' if self.passed else 'FAILED'}: relative error {figures} on images {self.images}"


def certify(
    model_2d: nn.Module,
    model_3d: nn.Module,
    images: Tensor | None = None,
    dtypes: Sequence[str] = ("float32", "float64"),
) -> Certificate:
    """Measures a 3D network against its 2D source on images, both in eval mode; neither is changed.

    Exact for "center" and "copy" inflation; "average" divides each kernel by its length, of which a plane meets one slice.
    Taps off the plane meet nothing, so the certificate says nothing of their values.

    Args:
        model_2d: the 2D network.
        model_3d: its inflation, with the image stem and every stride in place.
        images: (B, C, H, W) floating point; by default seeded noise of timm's input size for the model, B = 1.
        dtypes: the precisions to measure in.

    Returns:
        The figures; `.passed` compares them with `TOLERANCES`.

    Raises:
        InvalidInputError: no networks or images, a 3D network whose stem or strides were changed, an unknown dtype, or outputs
            of unequal shapes.

    Example:
        >>> from torch import nn
        >>> from i2p_zoo import inflate
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> certify(net, inflate(net), torch.rand(2, 3, 8, 8)).passed
        True
    """
    for model in (model_2d, model_3d):
        if not isinstance(model, nn.Module):
            raise InvalidInputError(f"`certify` takes a 2D network and its inflation; got {type(model).__name__}.")
    axis = "z"
    if isinstance(model_3d, PointCloudModel):
        settings = model_3d.settings
        axis = settings.axis
        if settings.stem != "image" or settings.skip_downsamples:
            raise InvalidInputError(
                f"A certificate needs the whole image network; this one has stem={settings.stem!r} and "
                f"skip_downsamples={settings.skip_downsamples}."
            )
    unknown = [dtype for dtype in dtypes if dtype not in TOLERANCES]
    if unknown or not dtypes:
        raise InvalidInputError(f"`dtypes` must be some of {list(TOLERANCES)}; got {list(dtypes)}.")
    images = example_images(model_2d) if images is None else images
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        shown = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InvalidInputError(f"`images` must be a floating point (B, C, H, W) tensor; got {shown}.")
    errors, agreement = {}, 1.0
    for name in dtypes:
        dtype = getattr(torch, name)
        flat_2d = _outputs(model_2d, images.to(dtype), axis=None)
        flat_3d = _outputs(model_3d, images.to(dtype), axis=axis)
        if [t.shape for t in flat_2d] != [t.shape for t in flat_3d]:
            raise InvalidInputError(
                f"The networks' outputs differ in shape: {[tuple(t.shape) for t in flat_2d]} in 2D, "
                f"{[tuple(t.shape) for t in flat_3d]} in 3D. Certify before changing the classifier."
            )
        errors[name] = float(np.max([_relative_error(a, b) for a, b in zip(flat_2d, flat_3d, strict=True)]))
        agreement = min(agreement, float((flat_2d[-1].argmax(1) == flat_3d[-1].argmax(1)).double().mean()))
    return Certificate(errors, tuple(images.shape), agreement)


def certify_architecture(name: str, axis: str = "z", depth: int | None = None) -> Certificate:
    """Certifies the center inflation of a timm architecture with seeded random parameters (`create_random_model`).

    Args:
        name: a timm or zoo name.
        axis, depth: as `i2p_zoo.inflate`.

    Raises:
        NotFoundError, UnsupportedError: no such architecture, or no sparse counterpart.
    """
    model = create_random_model(name)
    return certify(model, inflate(model, axis=axis, depth=depth))


def _relative_error(expected: Tensor, actual: Tensor) -> float:
    """The largest error of an image relative to its largest value; both (B, K)."""
    difference = (expected - actual).abs().amax(1)
    scale = expected.abs().amax(1)
    ratio = torch.where(difference == 0, 0.0, difference / scale)
    return float(ratio.max()) if bool(torch.isfinite(ratio).all()) else float("nan")


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor, axis: str | None) -> list[Tensor]:
    """Runs a model, or a copy in eval mode and the images' dtype; returns its outputs as (B, K) tensors."""
    ready = not any(m.training for m in model.modules()) and all(p.dtype == images.dtype for p in model.parameters())
    twin = model if ready else _copy_as(model, images.dtype).eval()
    device = next((p.device for p in twin.parameters()), images.device)
    images = images.to(device)
    with _FullPrecision():
        result = twin(images if axis is None else image_to_plane(images, axis=axis))
    outputs = list(result) if isinstance(result, list | tuple) else [result]
    return [(o.dense() if isinstance(o, SparseTensor) else o).flatten(1) for o in outputs]


class _FullPrecision(TorchFunctionMode):
    """Leaves float64 tensors as they are where a network's own code rounds to float32 on the way (timm's EvoNorm does)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        casts = func is Tensor.float or (func is Tensor.to and any(a is torch.float32 for a in args))
        if casts and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))


def _copy_as(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copies a model with its floating-point tensors cast, without a second copy of them in their own dtype."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to(dtype, copy=True), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to(dtype if buffer.is_floating_point() else buffer.dtype, copy=True)
    return copy.deepcopy(model, memo)
