"""Networks that leave the laboratory: export, and what `predict` does with an exported one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from i2p_zoo._extras import require
from i2p_zoo.cli import shared_options as shared
from i2p_zoo.cli.checkpoint_folders import load_network
from i2p_zoo.errors import InvalidInputError

_SUFFIX = ".onnx"


@click.command()
@click.argument("model")
@click.option("--out", required=True, type=shared.FILE, help="File to write, such as model.onnx.")
def export(model: str, out: Path) -> None:
    """Write MODEL, a folder or a name, as an ONNX file: points in, logits out, for onnxruntime without torch.

    Example: i2p-zoo export run/model --out model.onnx
    """
    require("onnxscript", extra="onnx")  # before the network is loaded
    from i2p_zoo.export.onnx_file import export_onnx

    export_onnx(load_network(model, "cpu"), out)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@dataclass
class Classifier:
    """What `predict` asks of a network, exported or not.

    Attributes:
        normalization: of the clouds that it was trained on.
        voxel_size: of the network.
        classify: returns the likeliest classes of a cloud with their probabilities.
    """

    normalization: str
    voxel_size: float
    classify: Callable[[Mapping[str, Any], int], dict[str, float]]


def load_classifier(model: str, device: str) -> Classifier:
    """Loads a classifier from an exported file, which runs on the CPU, a checkpoint's folder or by name.

    Raises:
        InvalidInputError: an exported file is to run on another device; or as `load_network` and `OnnxNetwork`.
    """
    from i2p_zoo.experiments import classification

    if model.lower().endswith(_SUFFIX):
        from i2p_zoo.experiments.exported import classify_exported
        from i2p_zoo.export.runtime import OnnxNetwork

        if device not in ("auto", "cpu"):
            raise InvalidInputError(f"--device {device}: exported files run on the CPU; leave the option out.")
        exported = OnnxNetwork(model)
        noted = exported.metadata
        return Classifier(noted.normalization, noted.voxel_size, lambda cloud, top: classify_exported(exported, cloud, top))
    network = load_network(model, device)
    classification.check_classifier(network)
    settings = network.settings
    return Classifier(
        settings.normalization, settings.voxel_size, lambda cloud, top: classification.classify(network, cloud, top)
    )
