"""What finetuning did to a network: its features beside those of the 2D network and of what it began as."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from i2p_zoo.analysis import StageSimilarity, measure_similarity
from i2p_zoo.data import CloudSet
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.run_folder import METRICS, read_json
from i2p_zoo.experiments.setup import Setup, build_model
from i2p_zoo.experiments.views import VIEW_VOXEL, build_view_network
from i2p_zoo.zoo.pretrained import from_pretrained


def compare_run(folder: str | os.PathLike[str], clouds: CloudSet) -> StageSimilarity:
    """Compares a run's network with what it began as, and with timm's 2D network on depth images of the clouds.

    A run from scratch is compared with a 2D network of random weights of its own, drawn with the run's seed.

    Args:
        folder: of a finished run that kept its network.
        clouds: to compare them on.

    Raises:
        InvalidInputError: no finished run with a network, or one of a folder's network, whose 2D weights nobody knows.
        CheckpointError: its metrics.json cannot be read.
        I2PError: as `build_model` and `measure_similarity`.
    """
    path = Path(folder)
    if not (path / METRICS).is_file():
        raise InvalidInputError(f"{path} holds no finished run: `i2p-zoo finetune --out {path}` makes one.")
    metrics = read_json(path / METRICS)
    setup = Setup(**metrics["setup"])
    if metrics["saved"] is None or setup.network != "voxels" or os.path.isdir(setup.model):
        raise InvalidInputError(
            f"{path} must hold the network of a name of the zoo; its run saved {metrics['saved']!r} of {setup.network} of "
            f"{setup.model}."
        )
    before, _ = build_model(replace(setup, mode="none"), tuple(metrics["classes"]), metrics["options"]["seed"])
    after = from_pretrained(path / metrics["saved"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(metrics["options"]["seed"])
        image = build_view_network(setup.model, len(metrics["classes"]), setup.scratch, VIEW_VOXEL)
    return measure_similarity(image, before, after, clouds)
