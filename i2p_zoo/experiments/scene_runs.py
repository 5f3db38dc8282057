"""One segmentation run, from an encoder and scenes to a folder with the network, its scores and its pictures."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from i2p_zoo import pictures
from i2p_zoo.checkpoints.adapters import save_adapter
from i2p_zoo.checkpoints.saving import save_pretrained
from i2p_zoo.data.files.ply import write_colored_ply
from i2p_zoo.data.scenes import IGNORED, Scene, SceneSet, hold_out_scenes
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.run_folder import execute
from i2p_zoo.experiments.runs import check_choice
from i2p_zoo.experiments.setup import Setup, architecture_of, check_folder, structure_of, weights_of
from i2p_zoo.finetune import Options, ParameterCount, freeze
from i2p_zoo.finetune.tasks import check_classes
from i2p_zoo.segmentation.crops import Cropping
from i2p_zoo.segmentation.pretrained_unet import create_unet
from i2p_zoo.segmentation.task import Segmentation, score
from i2p_zoo.segmentation.voting import segment

LEARNING_RATES = {"adamw": 0.01, "sgd": 0.2}
"""Peak of the learning rate by optimizer, for batches of 8 to 16 crops."""
_COLORS = np.array(
    [
        (127, 127, 127), (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75),
        (227, 119, 194), (188, 189, 34), (23, 190, 207), (174, 199, 232), (255, 187, 120), (152, 223, 138), (255, 152, 150),
        (197, 176, 213), (196, 156, 148), (247, 182, 210), (219, 219, 141), (158, 218, 229), (57, 59, 121),
    ],
    np.uint8,
)  # fmt: skip


@dataclass(frozen=True)
class Blocks:
    """How scenes are cut.

    Attributes:
        crop: of training crops.
        extent: edge of the blocks in which test scenes are segmented, in their unit; None for whole scenes.
        overlap: fraction that a block shares with the next.

    Raises:
        InvalidInputError: edges that are not positive, or another overlap.
    """

    crop: Cropping = dataclasses.field(default_factory=Cropping)
    extent: Any = None
    overlap: float = 0.25

    def __post_init__(self) -> None:
        for extent in (self.crop.extent, self.extent):
            if extent is not None and not (np.asarray(extent, np.float64) > 0).all():
                raise InvalidInputError(f"The edge of a block or crop must be positive; got {extent}.")
        if not 0 <= self.overlap < 1:
            raise InvalidInputError(f"`overlap` must be at least 0 and less than 1; got {self.overlap}.")


def build_unet(setup: Setup, classes: tuple[str, ...], seed: int = 0, **kwargs: Any) -> tuple[Any, ParameterCount]:
    """Creates the U-Net of a setup, frozen as its mode says; `kwargs` as `i2p_zoo.networks.unet.create_unet`.

    Raises:
        I2PError: as `create_unet` and `i2p_zoo.finetune.freeze`.
    """
    structure = structure_of(setup)
    if not setup.scratch:
        structure = {key: structure[key] for key in ("inflation", "axis")}
    name = architecture_of(setup.model) if setup.scratch else setup.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = create_unet(
            name,
            len(classes),
            pretrained=not setup.scratch,
            **structure,
            in_chans=setup.in_chans,
            stem=setup.stem,
            skip_downsamples=setup.skip_downsamples,
            voxel_size=setup.voxel_size,
            features=setup.features,
            **kwargs,
        )
    unet.pretrained_cfg = {**unet.pretrained_cfg, "label_names": list(classes)}
    return unet, freeze(unet, setup.mode)


def run_segmentation(
    setup: Setup,
    train_set: SceneSet,
    test_set: SceneSet,
    options: Options,
    folder: str | os.PathLike[str],
    *,
    blocks: Blocks | None = None,
    loss: str = "both",
    dropout: float = 0.0,
    held_out: float | None = None,
    monitor_test: bool = False,
    resume: bool = False,
    save: str = "model",
    tensorboard: bool = False,
    progress: str | None = None,
    place: bool = False,
) -> dict[str, Any]:
    """Trains a U-Net and measures it on the test scenes, once, with the weights at the end.

    Args:
        setup: the encoder.
        train_set, test_set: the scenes.
        options: of the training.
        folder: gets metrics.json, curves.png, confusion.png, scene.png and the network.
        blocks: how scenes are cut; by default whole.
        loss: as `segmentation_loss`.
        dropout: before the classifier.
        held_out: fraction of the training scenes that is not trained on but monitored, to choose the best weights or to stop.
        save: "model" or "adapter".
        monitor_test, resume, tensorboard, progress, place: as `i2p_zoo.experiments.run`.

    Returns:
        What metrics.json holds, in every process: `test` with miou, accuracy, mean_accuracy and per_class, `history` by step,
        `evaluations` on the way, `trained` and `total` parameters, and the settings of the run.

    Raises:
        InvalidInputError: weights are to be chosen by the test split, the model's folder holds a U-Net or a network without
            its image stem, or `folder` holds a run already.
        I2PError, OSError: as the parts.
    """
    folder, blocks = Path(folder), blocks or Blocks()
    check_choice(options, held_out, monitor_test)
    check_folder(setup, segmented=True)
    check_classes(train_set.classes, test_set.classes)
    if save == "adapter" and setup.scratch:
        raise InvalidInputError("An adapter needs image weights; a network from scratch is saved whole.")
    chosen, held = (train_set, None) if held_out is None else hold_out_scenes(train_set, held_out, options.seed)
    described = {
        "setup": setup.to_dict(),
        "options": options.to_dict(),
        "weights": weights_of(setup.model),
        "scenes": {"train": len(train_set), "test": len(test_set)},
        "sha256": {"train": _fingerprint(train_set), "test": _fingerprint(test_set)},
        "classes": list(train_set.classes),
        "blocks": dataclasses.asdict(blocks),
        "loss": loss,
        "dropout": dropout,
        "held_out": held_out,
        "monitored": "test" if monitor_test else "held-out" if held_out is not None else None,
        "saved": save,
    }

    def measure(model: Any, accelerator: Any) -> tuple[dict[str, Any], Any]:
        label = None if progress is None or not accelerator.is_main_process else "testing"
        scores = score(model, test_set, blocks.extent, blocks.overlap, progress=label, accelerator=accelerator)
        return {key: value for key, value in scores.to_dict().items() if key != "confusion"}, scores.confusion

    def write(model: Any) -> None:
        (save_adapter if save == "adapter" else save_pretrained)(model, folder / save)

    def draw(model: Any) -> None:
        draw_scene(folder / "scene.png", model, test_set.scene(0), blocks, train_set.classes)

    monitor = test_set if monitor_test else held
    task = Segmentation(chosen, monitor, blocks.crop, loss, extent=blocks.extent, overlap=blocks.overlap)
    build = functools.partial(build_unet, setup, train_set.classes, options.seed, dropout=dropout)
    how: dict[str, Any] = {"resume": resume, "tensorboard": tensorboard, "progress": progress, "place": place, "draw": draw}
    return execute(folder, described, options, task, build, measure, write, **how)


def _fingerprint(scenes: SceneSet) -> str:
    """Hashes the names of scenes, their classes, and the first and the last scene: all of them seldom fit into memory."""
    digest = hashlib.sha256(repr((scenes.names, scenes.classes)).encode())
    for number in sorted({0, len(scenes) - 1}) if len(scenes) else ():
        for key, values in sorted(scenes.scene(number).items()):
            digest.update(f"{key} {values.dtype} {values.shape}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def draw_scene(path: Path, model: Any, scene: Scene, blocks: Blocks, classes: Sequence[str]) -> None:
    """Draws a scene's classes as they are and as a network sees them.

    Args:
        path: of the PNG.
        model: a U-Net.
        scene: points and labels.
        blocks: how the scene is cut.
        classes: their names, for the legend.

    Raises:
        I2PError, OSError: as `segment`, or where the picture cannot be written.
    """
    predicted = segment(model, scene, blocks.extent, blocks.overlap).argmax(1)
    shown = {"truth": color_classes(scene["labels"]), "predicted": color_classes(predicted)}
    found = np.union1d(scene["labels"], predicted)
    names = {classes[label] if label != IGNORED else "no class": color_classes(np.array([label]))[0] for label in found}
    pictures.draw_scenes(path, scene["points"], shown, names)


def color_classes(labels: Any) -> Any:
    """Returns (N, 3) uint8 colours of classes; black for points of none."""
    colors = _COLORS[labels % len(_COLORS)]
    return np.where((labels == IGNORED)[:, None], np.uint8(0), colors)


def write_classes(path: Path, scene: Scene, labels: Any) -> None:
    """Writes a scene as a .ply file coloured by class; raises OSError where it cannot be written."""
    write_colored_ply(path, scene["points"][:, :3], color_classes(labels))
