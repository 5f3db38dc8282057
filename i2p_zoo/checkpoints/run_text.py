"""What a card says of the run that trained its network: data, what was trained, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult

from i2p_zoo.wording import count_of

_METRICS = {"top1": ("accuracy", "accuracy"), "mean_class": ("mean over classes", "mean_class_accuracy")}
_POINT_METRICS = {"miou": ("mean IoU", "mean_iou"), "accuracy": ("accuracy of points", "accuracy")}
"""Scores of test clouds and of points of test scenes: what a card calls them, and the Hub."""

_READOUTS = {
    "pyramid": ", the classifier on all feature maps by octants",
    "pyramid+views": ", the classifier on all feature maps by octants and those that the 2D network has of six depth images",
}


def describe_run(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Returns the facts of a run by the names of the card's template.

    Args:
        metrics: what metrics.json holds.
    """
    options, recipe, samples = metrics["options"], metrics.get("recipe") or {}, _samples(metrics)
    steps = len(metrics["history"]) if "history" in metrics else options["steps"]  # fewer where a target ended it
    unlabelled = f" and {metrics['unlabelled']['clouds']:,d} without labels" if "unlabelled" in metrics else ""
    counts = f"{metrics[samples]['train']:,d} {samples} to train on{unlabelled}, {metrics[samples]['test']:,d} to test"
    readout = _READOUTS.get(metrics["setup"].get("readout", "last"), "")
    weights = "random weights" if metrics["setup"]["scratch"] else "image weights"
    parameters = f"{metrics['trained']:,d} of {metrics['total']:,d} parameters"
    scores = ", ".join(f"{words} {100 * metrics['test'][key]:.1f} %" for key, (words, _) in _names(metrics).items())
    return {
        "data": f"{recipe['data']}: {counts}" if recipe.get("data") else counts,
        "data_license": recipe.get("license") or ("the data set's own terms" if recipe.get("data") else "not stated"),
        "trained": f"from {weights} in mode {metrics['setup']['mode']}{readout}, {parameters}, "
        f"{count_of(steps, 'step')} of {options['batch_size']} {samples}, seed {options['seed']}",
        "scores": f"{scores}, measured once, with the weights at the end",
        "command": recipe.get("command") or "",
    }


def list_results(metrics: Mapping[str, Any]) -> list[EvalResult]:
    """Returns the scores as the Hub's metadata have them; none where the data set has no name."""
    recipe = metrics.get("recipe") or {}
    if not recipe.get("data"):
        return []
    task = "image-classification" if _samples(metrics) == "clouds" else "image-segmentation"
    return [
        EvalResult(
            task_type=task,
            dataset_type=recipe["name"],
            dataset_name=recipe["data"],
            metric_type=name,
            metric_value=round(metrics["test"][key], 4),
        )
        for key, (_, name) in _names(metrics).items()
    ]


def _samples(metrics: Mapping[str, Any]) -> str:
    return "clouds" if "clouds" in metrics else "scenes"


def _names(metrics: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return _METRICS if _samples(metrics) == "clouds" else _POINT_METRICS
