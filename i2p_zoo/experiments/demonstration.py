"""The demonstration: a real network is converted, proven on photographs, finetuned on real shapes, and drawn."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from i2p_zoo import finetune, pictures
from i2p_zoo.choices import INFLATIONS
from i2p_zoo.data import CloudSet, load_npz
from i2p_zoo.downloading import HubOptions
from i2p_zoo.experiments import RunOptions, Setup, run
from i2p_zoo.experiments.intervals import format_percent
from i2p_zoo.experiments.photographs import load_photographs, preprocess, top_classes
from i2p_zoo.experiments.run_folder import write_json
from i2p_zoo.finetune import Options
from i2p_zoo.finetune.devices import find_device
from i2p_zoo.layers.kernel_inflation import inflate_weight
from i2p_zoo.sparse.voxelization import image_to_plane
from i2p_zoo.wording import count_of
from i2p_zoo.zoo.certificate import certify
from i2p_zoo.zoo.conversion import convert
from i2p_zoo.zoo.pretrained import from_pretrained
from i2p_zoo.zoo.sources import load_source

ARCHITECTURE = "tf_efficientnet_lite0"
# Kind: its setup; the checkpoint is inflated by "center", which the proof on photographs is about.
RUNS: dict[str, dict[str, Any]] = {
    "ALL, image weights": {"mode": "all", "inflation": "average"},
    "IO+BN, image weights": {"mode": "io+bn", "inflation": "average"},
    "ALL, from scratch": {"scratch": True, "inflation": "average"},
}


def run_demo(
    data_file: Path, out: Path, steps: int, seeds: int, say: Callable[[str], None] = print, device: str = "auto"
) -> dict[str, Any]:
    """Runs the demonstration.

    Args:
        data_file: labelled clouds, as `i2p_zoo.data.load_npz` reads them.
        out: folder for the network, the pictures and metrics.json.
        steps: of each training run.
        seeds: runs of each kind.
        say: prints a line.
        device: where to train, as `RunOptions`; the proof runs on the CPU.

    Returns:
        For each kind of run its accuracies and parameter counts, as in metrics.json.

    Raises:
        InvalidInputError: a device that is not here.
        I2PError, OSError: as `i2p_zoo.zoo.conversion.convert` and `i2p_zoo.experiments.run`.
    """
    find_device(device)  # before anything is converted
    train_set, test_set = load_npz(data_file)
    out.mkdir(parents=True, exist_ok=True)
    folder = out / f"i2p-{ARCHITECTURE}"
    say(f"1. Convert timm's {ARCHITECTURE} with its ImageNet weights")
    model = convert(ARCHITECTURE, folder)
    say(model.report.summary())
    say(f"   saved in {folder}")
    say("2. Prove it on photographs, each pixel a voxel on the plane z = 0")
    show_photographs(folder, out, say)
    shapes = f"{count_of(len(train_set), 'real shape')} of {count_of(len(train_set.classes), 'class')}"
    say(f"3. Finetune on {shapes}, {count_of(steps, 'step')}, {count_of(seeds, 'seed')}")
    metrics, best = compare_runs(folder, train_set, test_set, steps, seeds, out, device)
    for name, figures in metrics.items():
        top1, mean_class = format_percent(figures["top1"]), 100 * np.mean(figures["mean_class"])
        counts = f"{figures['trained']:>9,d} of {figures['total']:,d} parameters trained"
        say(f"   {name:<21} top-1 {top1} %, mean over classes {mean_class:5.1f} %, {counts}")
    write_json(out / "metrics.json", metrics)
    show_clouds(best, test_set, out)
    say(f"4. Pictures in {out}: photographs.png, kernels.png, clouds.png, curves.png; figures in metrics.json")
    return metrics


def show_photographs(folder: Path, out: Path, say: Callable[[str], None]) -> None:
    """Prints the certificate on real photographs and both networks' top five, and draws the planes and kernels."""
    source, _ = load_source(ARCHITECTURE, "", HubOptions(), [])
    model = from_pretrained(folder)
    photographs = load_photographs()
    images = preprocess(list(photographs.values()), source)
    say(f"   certificate {certify(source, model, images)}")
    with torch.no_grad():
        flat, solid = top_classes(source(images)), top_classes(model(image_to_plane(images)))
    for name, left, right in zip(photographs, flat, solid, strict=True):
        say(f"   {name}")
        for (class_2d, value_2d), (class_3d, value_3d) in zip(left, right, strict=True):
            say(f"     2D {value_2d:.4f} {class_2d:<24} 3D {value_3d:.4f} {class_3d}")
    shown = {name: image * 0.5 + 0.5 for name, image in zip(photographs, images, strict=True)}
    pictures.draw_planes(out / "photographs.png", shown, dict(zip(photographs, solid, strict=True)))
    filters = source.get_parameter("conv_stem.weight")
    strongest = filters.abs().sum((1, 2, 3)).argmax()
    kernel = filters[strongest : strongest + 1, :1]
    pictures.draw_kernels(out / "kernels.png", {name: inflate_weight(kernel, name)[0, ..., 0] for name in INFLATIONS})


def compare_runs(
    folder: Path, train_set: CloudSet, test_set: CloudSet, steps: int, seeds: int, out: Path, device: str = "auto"
) -> tuple[dict[str, Any], Any]:
    """Trains each kind of run with each seed; returns the figures and the first network from image weights."""
    metrics: dict[str, Any] = {}
    curves: dict[str, list[list[float]]] = {}
    folders = []
    for name, changes in RUNS.items():
        setup = Setup(str(folder), **changes)
        runs = []
        for seed in range(seeds):
            run_folder = out / "runs" / f"{name.lower().replace(', ', '-').replace(' ', '-')}-{seed}"
            folders.append(run_folder)
            shutil.rmtree(run_folder, ignore_errors=True)  # of an earlier demonstration
            options = Options(steps=steps, learning_rate=setup.learning_rate, seed=seed)
            run_options = RunOptions(progress=f"{name}, seed {seed}", device=device)
            runs.append(run(setup, train_set, test_set, options, run_folder, run_options))
        metrics[name] = {key: [figures["test"][key] for figures in runs] for key in ("top1", "mean_class")}
        metrics[name] |= {key: runs[-1][key] for key in ("trained", "total")}
        curves[name] = [[step["loss"] for step in figures["history"]] for figures in runs]
    pictures.draw_curves(out / "curves.png", curves)
    return metrics, from_pretrained(folders[0] / "model").to(find_device(device))


def show_clouds(model: Any, test_set: CloudSet, out: Path, count: int = 15) -> None:
    """Draws test clouds with the classes that a network names, spread evenly over the split."""
    chosen = np.linspace(0, len(test_set) - 1, count).astype(int)
    subset = test_set.subset(chosen)
    predicted = finetune.evaluate(model, subset).predictions
    truth = [test_set.classes[label] for label in subset.labels]
    pictures.draw_clouds(out / "clouds.png", list(subset.points), truth, [test_set.classes[p] for p in predicted])
