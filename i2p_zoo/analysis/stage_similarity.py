"""How like another network's the features of each stage are, and how far training moved each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.data import CloudSet, evaluation_batches
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.modules import eval_mode
from i2p_zoo.pictures import COLORS, make_figure, save_figure
from i2p_zoo.sparse.device_memory import SMALLER_BATCH, explain_memory


@dataclass(frozen=True)
class StageSimilarity:
    """Of a finetuned network, by stage: likeness of features by `linear_cka`, and movement of weights.

    Attributes:
        image_before: of the 2D network's features of views and the inflated network's before training.
        image_after: of the 2D network's and the finetuned network's.
        before_after: of the inflated network's before and after training.
        moved: relative change of the stage's weights, mean over its tensors of two dimensions or more (`measure_movement`).
    """

    image_before: dict[str, float]
    image_after: dict[str, float]
    before_after: dict[str, float]
    moved: dict[str, float]

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Returns the fields as JSON types."""
        return asdict(self)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Measures how alike two networks' features of the same samples are, whatever rotation and scale lies between them.

    Args:
        x: (M, C) floating point.
        y: (M, D) of the same samples.

    Returns:
        |Y'X|^2 / (|X'X| |Y'Y|) of centred features, Frobenius norms: 1 where one is a scaled rotation of the other, near 0
        where they have nothing in common (Kornblith et al. 2019, "Similarity of neural network representations revisited",
        section 3). NaN where one of them is the same for all samples.

    Raises:
        InvalidInputError: features of different numbers of samples.

    Example:
        >>> x = torch.rand(20, 4)
        >>> round(linear_cka(x, 3 * x.flip(1)), 4)
        1.0
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise InvalidInputError(f"CKA compares (M, C) with (M, D) features; got {tuple(x.shape)} and {tuple(y.shape)}.")
    grams = []
    for features in (x.double(), y.double()):
        centred = features - features.mean(0)
        grams.append(centred @ centred.T)
    return float((grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm()))


@torch.no_grad()
def stage_features(model: Any, clouds: CloudSet, batch_size: int = 32) -> dict[str, Tensor]:
    """Returns the mean of each stage's feature map over its sites, in eval mode; every module's mode is put back.

    Args:
        model: a network whose timm network has `feature_info`; one that sees several views of a cloud gives their mean.
        clouds: voxelized by the model's settings.
        batch_size: clouds a batch.

    Returns:
        By the name of the stage's last module, (M, C) on the CPU.

    Raises:
        InvalidInputError: no clouds, or a network that does not say what its stages are.
    """
    core: Any = getattr(model, "network", model)
    names = [entry["module"] for entry in getattr(core, "feature_info", None) or ()]
    if not names or not len(clouds):
        raise InvalidInputError(f"Stages need clouds ({len(clouds)}) and a network with `feature_info` ({len(names)} stages).")
    parts: dict[str, list[Tensor]] = {name: [] for name in dict.fromkeys(names)}
    samples = 1

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            pooled = output.mean((2, 3)) if output.ndim == 4 else output.mean(1)
            parts[name].append(pooled.unflatten(0, (samples, -1)).mean(1).cpu())

        return hook

    handles = [core.get_submodule(name).register_forward_hook(note(name)) for name in parts]
    parameter = next(model.parameters())
    try:
        with eval_mode(model):
            for x in evaluation_batches(clouds, batch_size, model.settings):
                samples = x.batch_size
                with explain_memory(lambda: len(x.coords), SMALLER_BATCH):  # noqa: B023
                    model(x.to(device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(features) for name, features in parts.items()}


def measure_movement(before: nn.Module, after: nn.Module) -> dict[str, float]:
    """Measures how far training moved each weight of two or more dimensions, relative to its norm before.

    Args:
        before, after: networks of the same tensors; those of other shapes, as a new classifier's, are left out.

    Returns:
        |after - before| / |before| by name, in the order of the network; infinity where it was zero and moved.

    Raises:
        InvalidInputError: the networks have no weight in common.
    """
    start = dict(before.named_parameters())
    moved = {}
    for name, parameter in after.named_parameters():
        if parameter.ndim > 1 and name in start and start[name].shape == parameter.shape:
            old, new = start[name].detach().cpu().double(), parameter.detach().cpu().double()
            distance, norm = float((new - old).norm()), float(old.norm())
            moved[name] = distance / norm if norm else (float("inf") if distance else 0.0)
    if not moved:
        raise InvalidInputError(f"{type(before).__qualname__} and {type(after).__qualname__} have no weight in common.")
    return moved


def measure_similarity(image: Any, before: Any, after: Any, clouds: CloudSet, batch_size: int = 32) -> StageSimilarity:
    """Compares a finetuned network with what it was inflated to, and with the 2D network on views of the same clouds.

    Args:
        image: a network that sees views of clouds (`i2p_zoo.experiments.views.ViewNetwork`).
        before: the inflated network.
        after: the same after finetuning.
        clouds: to compare them on; labels are not looked at.
        batch_size: clouds a batch.

    Raises:
        InvalidInputError: as `stage_features` and `measure_movement`, or networks of other stages.
    """
    features = [stage_features(network, clouds, batch_size) for network in (image, before, after)]
    if len({tuple(each) for each in features}) > 1:
        raise InvalidInputError(
            f"The networks must have the same stages; they have {', '.join(str(list(f)) for f in features)}."
        )
    pairs = {"image_before": (0, 1), "image_after": (0, 2), "before_after": (1, 2)}
    alike = {
        key: {name: linear_cka(features[a][name], features[b][name]) for name in features[0]} for key, (a, b) in pairs.items()
    }
    return StageSimilarity(**alike, moved=_mean_by_stage(measure_movement(before, after), list(features[0])))


def _mean_by_stage(moved: Mapping[str, float], stages: list[str]) -> dict[str, float]:
    """Means over the weights up to the end of each stage, in the network's order; before the first the stem, then the head."""
    groups: dict[str, list[float]] = {}
    number = 0
    for name, value in moved.items():
        inside = next((n for n, stage in enumerate(stages) if name.startswith(f"{stage}.")), None)
        number = number if inside is None else inside + 1
        between = "stem" if number == 0 else stages[number] if number < len(stages) else "head"
        key = between if inside is None else stages[inside]
        groups.setdefault(key, []).append(value)
    return {key: sum(values) / len(values) for key, values in groups.items()}


_LABELS = {
    "image_before": "2D views and 3D before",
    "image_after": "2D views and 3D after",
    "before_after": "3D before and after",
}


def draw_similarity(path: Path, measured: StageSimilarity) -> None:
    """Draws likeness and movement by stage.

    Args:
        path: of the PNG.
        measured: of one network.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = make_figure(1, 2, (11, 4.2))
    alike, moved = axes[0]
    for color, (key, label) in zip(COLORS, _LABELS.items(), strict=False):
        values = getattr(measured, key)
        alike.plot(list(values), list(values.values()), color=color, marker="o", label=label)
    alike.set(ylim=(0, 1.05), ylabel="linear CKA", title="How alike features are")
    alike.legend()
    moved.bar(list(measured.moved), list(measured.moved.values()), color=COLORS[0])
    moved.set(ylabel="relative change", title="How far weights moved")
    for axis in (alike, moved):
        axis.tick_params(axis="x", labelrotation=30)
        axis.grid(alpha=0.3)
    save_figure(figure, path)
