"""The demonstration: a real network is converted, proven on photographs, finetuned on real shapes, and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from i2p_zoo import finetune, pictures
from i2p_zoo.certificate import certify
from i2p_zoo.data import CloudSet, load_npz
from i2p_zoo.hub import convert, from_pretrained
from i2p_zoo.hub_files import HubOptions
from i2p_zoo.models import create_model
from i2p_zoo.photographs import load_photographs, preprocess, top_classes
from i2p_zoo.sources import load_source
from i2p_zoo.voxelization import image_to_plane
from i2p_zoo.weights import INFLATIONS, inflate_weight

ARCHITECTURE = "tf_efficientnet_lite0"
NETWORK: dict[str, Any] = {"stem": "point", "skip_downsamples": 2}
# Kind: image weights or not, mode of `freeze`, peak learning rate (each the best on a quarter held out of the training split).
RUNS = {
    "ALL, image weights": (True, "all", 0.1),
    "IO+BN, image weights": (True, "io+bn", 0.4),
    "ALL, from scratch": (False, "all", 0.05),
}
Say = Callable[[str], None]


def run_demo(data_file: Path, out: Path, steps: int, seeds: int, say: Say = print) -> dict[str, Any]:
    """Runs the demonstration.

    Args:
        data_file: labelled clouds, as `i2p_zoo.data.load_npz` reads them.
        out: folder for the network, the pictures and metrics.json.
        steps: of each training run.
        seeds: runs of each kind.
        say: prints a line.

    Returns:
        For each kind of run its accuracies and parameter counts, as in metrics.json.
    """
    train_set, test_set = load_npz(data_file)
    out.mkdir(parents=True, exist_ok=True)
    folder = out / f"i2p-{ARCHITECTURE}"
    say(f"1. Convert timm's {ARCHITECTURE} with its ImageNet weights")
    model = convert(ARCHITECTURE, folder)
    say(model.report.summary())
    say(f"   saved in {folder}")
    say("2. Prove it on photographs, each pixel a voxel on the plane z = 0")
    show_photographs(folder, out, say)
    say(f"3. Finetune on {len(train_set)} real shapes of {len(train_set.classes)} classes, {steps} steps, {seeds} seed(s)")
    metrics, best = compare_runs(folder, train_set, test_set, steps, seeds, out)
    for name, run in metrics.items():
        spread = f" +- {100 * np.std(run['top1']):.1f}" if seeds > 1 else ""
        say(
            f"   {name:<21} top-1 {100 * np.mean(run['top1']):5.1f} %{spread}, mean over classes "
            f"{100 * np.mean(run['mean_class']):5.1f} %, {run['trained']:>9,d} of {run['total']:,d} parameters trained"
        )
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    show_clouds(best, test_set, out)
    say(f"4. Pictures in {out}: photographs.png, kernels.png, clouds.png, curves.png; figures in metrics.json")
    return metrics


def show_photographs(folder: Path, out: Path, say: Say) -> None:
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
    folder: Path, train_set: CloudSet, test_set: CloudSet, steps: int, seeds: int, out: Path
) -> tuple[dict[str, Any], Any]:
    """Trains each kind of run with each seed; returns the figures and the first network from image weights."""
    metrics: dict[str, Any] = {}
    curves: dict[str, list[list[float]]] = {}
    best = None
    for name, (pretrained, mode, rate) in RUNS.items():
        metrics[name] = {"top1": [], "mean_class": []}
        curves[name] = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            classes = len(train_set.classes)
            if pretrained:
                model = from_pretrained(folder, num_classes=classes, **NETWORK)
            else:
                model = create_model(ARCHITECTURE, num_classes=classes, **NETWORK)
            count = finetune.freeze(model, mode)
            label = f"{name}, seed {seed}"
            history = finetune.train(model, train_set, steps=steps, learning_rate=rate, seed=seed, progress=label)
            accuracy = finetune.evaluate(model, test_set)
            metrics[name]["top1"].append(accuracy.top1)
            metrics[name]["mean_class"].append(accuracy.mean_class)
            metrics[name].update(trained=count.trained, total=count.total)
            curves[name].append([step.loss for step in history])
            best = best or model
    pictures.draw_curves(out / "curves.png", curves)
    return metrics, best


def show_clouds(model: Any, test_set: CloudSet, out: Path, count: int = 15) -> None:
    """Draws test clouds with the classes that a network names, spread evenly over the split."""
    chosen = np.linspace(0, len(test_set) - 1, count).astype(int)
    subset = CloudSet(test_set.points[chosen], test_set.labels[chosen], test_set.classes)
    predicted = finetune.evaluate(model, subset).predictions
    truth = [test_set.classes[label] for label in subset.labels]
    pictures.draw_clouds(out / "clouds.png", list(subset.points), truth, [test_set.classes[p] for p in predicted])
