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
from i2p_zoo.data.scenes import IGNORED, Scene, SceneSet, check_scenes, hold_out_scenes
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.run_folder import execute
from i2p_zoo.experiments.run_options import RunOptions, describe_run
from i2p_zoo.experiments.setup import Setup, architecture_of, set_trained_, structure_of
from i2p_zoo.finetune import Options, ParameterCount
from i2p_zoo.inflation.volumes import draw_volumes_
from i2p_zoo.modules import set_class_names_
from i2p_zoo.segmentation.crops import Cropping
from i2p_zoo.segmentation.pretrained_unet import PRESET_DROPOUT, create_unet
from i2p_zoo.segmentation.task import Segmentation, score
from i2p_zoo.segmentation.voting import segment

LEARNING_RATES = {"adamw": 0.01, "sgd": 0.2}
"""Peak of the learning rate by optimizer, for batches of 8 to 16 crops."""
CLASS_COLORS = np.array(
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


def build_unet(
    setup: Setup, classes: tuple[str, ...], seed: int = 0, codes: tuple[int, ...] | None = None, **kwargs: Any
) -> tuple[Any, ParameterCount]:
    """Creates the U-Net of a setup, frozen as its mode says.

    Args:
        setup: of the encoder and the voxels.
        classes: their names, which the network notes.
        seed: of the new weights.
        codes: what files call the classes, which the network notes; None for 0 and on.
        kwargs: as `i2p_zoo.segmentation.create_unet`.

    Raises:
        I2PError: as `create_unet` and `set_trained_`.
    """
    structure = structure_of(setup)
    if not setup.scratch:
        structure = {key: structure.get(key) for key in ("inflation", "axis", "preset")}
    name = architecture_of(setup.model) if setup.scratch else setup.model
    arguments = {"pretrained": not setup.scratch, **structure, **setup.voxel_arguments, **kwargs}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = create_unet(name, len(classes), **arguments)
        if setup.scratch:
            draw_volumes_(unet.encoder)
        count = set_trained_(unet, setup)
    set_class_names_(unet, classes, codes or ())
    return unet, count


def run_segmentation(
    setup: Setup,
    train_set: SceneSet,
    test_set: SceneSet,
    options: Options,
    folder: str | os.PathLike[str],
    run_options: RunOptions | None = None,
    *,
    blocks: Blocks | None = None,
    loss: str = "both",
    dropout: float | None = None,
) -> dict[str, Any]:
    """Trains a U-Net and measures it on the test scenes, once, with the weights at the end.

    Args:
        setup: the encoder.
        train_set, test_set: the scenes.
        options: of the training.
        folder: gets metrics.json, curves.png, confusion.png, scene.png and the network.
        run_options: what is monitored, kept and shown; None for the defaults.
        blocks: how scenes are cut; None for whole scenes.
        loss: as `segmentation_loss`.
        dropout: before the classifier; None for none, and with a preset for the preset's.

    Returns:
        What metrics.json holds, in every process: `test` with miou, accuracy, mean_accuracy and per_class, `history` by step,
        `evaluations` on the way, `trained` and `total` parameters, and the settings of the run.

    Raises:
        InvalidInputError: a device that is not here, or as `describe_run`, `check_scenes` and `execute`.
        I2PError, OSError: as the parts.
    """
    folder, blocks, run_options = Path(folder), blocks or Blocks(), run_options or RunOptions()
    options = run_options.resolve_precision(options)
    if dropout is None:
        dropout = PRESET_DROPOUT if setup.preset else 0.0
    settings = {"blocks": dataclasses.asdict(blocks), "loss": loss, "dropout": dropout}
    described = describe_run(setup, train_set, test_set, options, run_options, "scenes", _fingerprint, **settings)
    train_set, test_set = train_set.reading(setup.features), test_set.reading(setup.features)
    for scenes, split in ((train_set, "training"), (test_set, "test")):
        check_scenes(scenes, progress=None if run_options.progress is None else f"{split} scenes")

    def measure(model: Any, accelerator: Any) -> tuple[dict[str, Any], Any]:
        label = None if run_options.progress is None or not accelerator.is_main_process else "testing"
        scores = score(model, test_set, blocks.extent, blocks.overlap, progress=label, accelerator=accelerator)
        return {key: value for key, value in scores.to_dict().items() if key != "confusion"}, scores.confusion

    def draw(model: Any) -> None:
        draw_scene(folder / "scene.png", model, test_set.scene(0), blocks, train_set.classes)

    trained, monitored = run_options.divide(train_set, test_set, hold_out_scenes, options.seed)
    task = Segmentation(trained, monitored, blocks.crop, loss, extent=blocks.extent, overlap=blocks.overlap)
    build = functools.partial(build_unet, setup, train_set.classes, options.seed, train_set.codes, dropout=dropout)
    return execute(folder, described, options, task, build, measure, run_options, draw)


def _fingerprint(scenes: SceneSet) -> bytes:
    """Hashes the names of scenes, their classes, and the first and the last scene: all of them seldom fit into memory."""
    codes = () if scenes.codes is None else (scenes.codes,)
    digest = hashlib.sha256(repr((scenes.names, scenes.classes, *codes)).encode())
    for number in sorted({0, len(scenes) - 1}) if len(scenes) else ():
        for key, values in sorted(scenes.scene(number).items()):
            digest.update(f"{key} {values.dtype} {values.shape}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.digest()


def draw_scene(path: Path, model: Any, scene: Scene, blocks: Blocks, classes: Sequence[str]) -> None:
    """Draws a scene's classes as they are and as a U-Net sees them, as PNG; raises as `segment`."""
    predicted = segment(model, scene, blocks.extent, blocks.overlap).argmax(1)
    shown = {"truth": color_classes(scene["labels"]), "predicted": color_classes(predicted)}
    labels = np.union1d(scene["labels"], predicted)
    names = {classes[label] if label != IGNORED else "no class": color_classes(np.array([label]))[0] for label in labels}
    pictures.draw_scenes(path, scene["points"], shown, names)


def color_classes(labels: Any) -> Any:
    """Returns (N, 3) uint8 colours of classes; black for points of none."""
    colors = CLASS_COLORS[labels % len(CLASS_COLORS)]
    return np.where((labels == IGNORED)[:, None], np.uint8(0), colors)
