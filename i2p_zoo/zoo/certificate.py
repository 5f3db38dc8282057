"""The certificate: a 3D network is its 2D source's inflation, and computes its function on images laid on a plane of voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from i2p_zoo.checkpoints.certificate_text import describe_coverage
from i2p_zoo.checkpoints.rebuilding import find_changed_modules
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.inflation.provenance import Provenance
from i2p_zoo.inflation.state import find_differences, inflate_state, inflate_tensor, named_tensors
from i2p_zoo.inflation.structure import inflate_structure
from i2p_zoo.networks.point_cloud_model import inflate
from i2p_zoo.networks.timm_models import create_random_model, example_images
from i2p_zoo.zoo.measurement import copy_with, device_of, live_copy, outputs_of, relative_error
from i2p_zoo.zoo.sensitivity import measure_sensitivity

TOLERANCES = {"float32": 1e-5, "float64": 1e-9}
_MARGIN = 10  # a tensor whose noise moves the outputs by no more tolerances than this might be wrong and pass


@dataclass(frozen=True)
class Certificate:
    """How far a 3D network's outputs on images are from its 2D source's, and which of its tensors that says something of.

    Attributes:
        errors: for "float32" and "float64" the largest |3D - 2D| over an image's outputs, divided by that image's largest
            |2D|, maximum over images.
        images: shape (B, C, H, W) of the images measured on.
        agreement: fraction of images for which both name the same top class.
        live_errors: the same, of both networks with the same random tensors in which every branch is alive; empty where the
            outputs depend on every tensor as it is.
        mapped: how many tensors are, bit for bit, what the rule of inflation makes of their 2D source.
        mismatched: names of the tensors that are not.
        unproven: those of them that differ in elements which the outputs do not depend on, so that no error is measured.
        seen: how many floating-point tensors the outputs depend on, with the network's own weights and on these images: noise
            of a tensor's own size in its place moves them by more than ten times the tolerance.
        unseen: names of the floating-point tensors that they do not depend on.
        unmeasured: those of them that the outputs with live random tensors do not depend on either, as on a bias before a
            softmax: their bits alone are known.
        changed_modules: in words, the modules that are of another type, or of other numbers, than the 2D network's inflate to:
            an activation that differs only where no image that was measured on takes it, or a dropout.
    """

    errors: dict[str, float]
    images: tuple[int, ...]
    agreement: float
    live_errors: dict[str, float] = field(default_factory=dict)
    mapped: int = 0
    mismatched: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()
    seen: int = 0
    unseen: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()
    changed_modules: tuple[str, ...] = ()

    @property
    def max_relative_error(self) -> float:
        """The largest error over the dtypes measured, with the network's own weights and with random ones."""
        errors = [*self.errors.values(), *self.live_errors.values()]
        return float(np.max(errors))  # NaN where any is; `max` passes over one that does not come first

    @property
    def passed(self) -> bool:
        """Whether every error is within `TOLERANCES` (NaN is not), and no tensor is unproven."""
        errors = [*self.errors.items(), *self.live_errors.items()]
        return all(error <= TOLERANCES[dtype] for dtype, error in errors) and not self.unproven

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as JSON types."""
        lists = {key: list(value) for key, value in asdict(self).items() if isinstance(value, tuple)}
        return {**asdict(self), **lists, "passed": self.passed}

    def __str__(self) -> str:
        figures = ", ".join(f"{dtype} {error:.2e} (<= {TOLERANCES[dtype]:.0e})" for dtype, error in self.errors.items())
        measured = f"{'passed' if self.passed else 'FAILED'}: relative error {figures} on images {self.images}"
        return "; ".join([measured, *describe_coverage(self.to_dict())])


def certify(
    model_2d: nn.Module,
    model_3d: nn.Module,
    images: Tensor | None = None,
    dtypes: Sequence[str] = ("float32", "float64"),
) -> Certificate:
    """Proves that a 3D network is a 2D one's inflation and computes its function on images, both in eval mode.

    Every tensor is compared, bit for bit, with what the rule of inflation makes of its 2D source, taps off the plane included.
    The outputs are compared on the images as the networks are; where those do not depend on every tensor (residual branches
    that start at zero, a classifier of zeros), also on noise with live random tensors in copies of both, so that the
    structure is seen whatever the weights. Neither network is changed.

    "center" and "copy" inflation can pass; "triangle" and "average" divide each kernel, of which a plane meets a share. A
    finetuned network is another than its source: the tensors that changed are named, and it fails.

    Args:
        model_2d: the 2D network.
        model_3d: its inflation, with the image stem and every stride in place.
        images: (B, C, H, W) floating point; by default seeded noise of timm's input size for the model, B = 1.
        dtypes: the precisions to measure in. Live random tensors are measured in the finest alone, since they are about the
            structure, and rounding is about the weights.

    Returns:
        The figures and what they say nothing of; `.passed` sums them up.

    Raises:
        InvalidInputError: no networks or images, a 3D network that is no inflation or whose stem or strides were changed, an
            unknown dtype, or outputs of unequal shapes.

    Example:
        >>> from torch import nn
        >>> from i2p_zoo import inflate
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> certify(net, inflate(net), torch.rand(2, 3, 8, 8)).passed
        True
    """
    axis = _check_networks(model_2d, model_3d)
    images = example_images(model_2d) if images is None else images
    _check_measurement(images, dtypes)
    errors, agreement = {}, 1.0
    for name in dtypes:
        flat_2d, flat_3d = _measure_both(model_2d, model_3d, images.to(getattr(torch, name)), axis)
        errors[name] = relative_error(flat_2d, flat_3d)
        agreement = min(agreement, float((flat_2d[-1].argmax(1) == flat_3d[-1].argmax(1)).double().mean()))
    finest = min(dtypes, key=lambda dtype: TOLERANCES[dtype])
    sensitivity = measure_sensitivity(model_2d, images.to(getattr(torch, dtypes[0])))
    unseen = _find_unseen(sensitivity, finest)
    differences = find_differences(named_tensors(model_2d), model_3d)
    live_errors, unseen_live = {}, unseen
    if unseen:
        live_errors[finest] = float("nan")  # where there are no tensors that both networks take
        if None not in differences.values():
            live_errors[finest], unseen_live = _measure_live(model_2d, model_3d, images, finest, axis)
    return Certificate(
        errors,
        tuple(images.shape),
        agreement,
        live_errors,
        mapped=len(named_tensors(model_3d).keys() - differences.keys()),
        mismatched=tuple(differences),
        unproven=tuple(
            key for key, mask in differences.items() if key in unseen or not _is_seen(model_3d, key, mask, sensitivity)
        ),
        seen=len(sensitivity) - len(unseen),
        unseen=unseen,
        unmeasured=tuple(key for key in unseen if key in unseen_live),
        changed_modules=_describe_changed_modules(model_2d, model_3d),
    )


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


def _check_networks(model_2d: nn.Module, model_3d: nn.Module) -> str:
    """Returns the axis that an inflated network has beyond its 2D source; raises InvalidInputError where it is none."""
    for model in (model_2d, model_3d):
        if not isinstance(model, nn.Module):
            raise InvalidInputError(f"`certify` takes a 2D network and its inflation; got {type(model).__name__}.")
    provenance = getattr(model_3d, "provenance", None)
    if not isinstance(provenance, Provenance):
        raise InvalidInputError(
            "`certify` takes a 2D network and its inflation, from `i2p_zoo.inflate` or `from_pretrained`; "
            f"got {type(model_3d).__name__}, which is no inflated network."
        )
    settings = provenance.settings
    if settings.stem != "image" or settings.skip_downsamples:
        raise InvalidInputError(
            f"A certificate needs the whole image network; this one has stem={settings.stem!r} and "
            f"skip_downsamples={settings.skip_downsamples}."
        )
    return settings.axis


def _check_measurement(images: Any, dtypes: Sequence[str]) -> None:
    """Raises InvalidInputError unless images and precisions can be measured with."""
    unknown = [dtype for dtype in dtypes if dtype not in TOLERANCES]
    if unknown or not dtypes:
        raise InvalidInputError(f"`dtypes` must be some of {list(TOLERANCES)}; got {list(dtypes)}.")
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        shown = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InvalidInputError(f"`images` must be a floating point (B, C, H, W) tensor; got {shown}.")


def _measure_both(model_2d: nn.Module, model_3d: nn.Module, images: Tensor, axis: str) -> tuple[list[Tensor], list[Tensor]]:
    flat_2d = outputs_of(model_2d, images, axis=None)
    flat_3d = outputs_of(model_3d, images, axis=axis)
    if [t.shape for t in flat_2d] != [t.shape for t in flat_3d]:
        raise InvalidInputError(
            f"The networks' outputs differ in shape: {[tuple(t.shape) for t in flat_2d]} in 2D, "
            f"{[tuple(t.shape) for t in flat_3d]} in 3D. Certify before changing the classifier."
        )
    return flat_2d, flat_3d


def _measure_live(
    model_2d: nn.Module, model_3d: nn.Module, images: Tensor, dtype: str, axis: str
) -> tuple[float, tuple[str, ...]]:
    """The error of copies of both networks with the same live random tensors, on noise of the images' size; what is unseen."""
    precision = getattr(torch, dtype)
    noise = torch.randn(1, *images.shape[1:], generator=torch.Generator().manual_seed(0))
    noise = noise.to(device_of(model_2d, images.device))
    live = live_copy(model_2d, noise)
    unseen = _find_unseen(measure_sensitivity(live, noise), dtype)
    twin_2d = copy_with(live, {}, precision)
    del live  # networks can be as large as a machine's memory
    expected = outputs_of(twin_2d, noise.to(precision), axis=None)
    state, _ = inflate_state(twin_2d.state_dict(), model_3d)
    del twin_2d
    actual = outputs_of(copy_with(model_3d, state, precision), noise.to(precision), axis)
    return relative_error(expected, actual), unseen


def _describe_changed_modules(model_2d: nn.Module, model_3d: Any) -> tuple[str, ...]:
    structure = inflate_structure(model_2d, model_3d.provenance.settings)
    differences = find_changed_modules(model_3d, structure)
    return tuple(text for name, text in differences.items() if name)  # the network itself has another class


def _find_unseen(sensitivity: dict[str, Tensor], dtype: str) -> tuple[str, ...]:
    """The tensors that outputs measured in this precision do not show."""
    return tuple(key for key, moves in sensitivity.items() if not float(moves.norm()) > _MARGIN * TOLERANCES[dtype])


def _is_seen(model_3d: Any, key: str, difference: Tensor | None, sensitivity: dict[str, Tensor]) -> bool:
    """Whether the outputs depend on every element that differs from the rule; on a plane of voxels, only those on the plane."""
    if difference is None or key not in sensitivity:
        return False
    moves = (sensitivity[key] != 0).to(sensitivity[key].dtype)
    on_plane = inflate_tensor(model_3d, key, moves, "center")
    return not bool((difference & ((moves if on_plane is None else on_plane) == 0).to(difference.device)).any())
