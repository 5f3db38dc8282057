"""One finetuning run, from a setup and clouds to a folder with the network, its figures and its pictures."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from i2p_zoo.data import CloudSet, hold_out
from i2p_zoo.data.clouds import join_clouds
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.run_folder import execute
from i2p_zoo.experiments.run_options import RunOptions, describe_run
from i2p_zoo.experiments.setup import Setup, build_model
from i2p_zoo.finetune import Classification, Options, ParameterCount, adapt_statistics_, evaluate, fit_ridge_
from i2p_zoo.wording import count_of


def run(
    setup: Setup,
    train_set: CloudSet,
    test_set: CloudSet,
    options: Options,
    folder: str | os.PathLike[str],
    run_options: RunOptions | None = None,
    unlabelled: CloudSet | None = None,
) -> dict[str, Any]:
    """Trains a network and measures it on the test split, once, with the weights at the end.

    Args:
        setup: the network.
        train_set, test_set: the clouds.
        options: of the training.
        folder: gets metrics.json, curves.png, confusion.png and the network; while it trains, the state of the run.
        run_options: what is monitored, kept and shown; None for the defaults.
        unlabelled: more clouds, whose labels are not looked at, for a setup that takes them.

    Returns:
        What metrics.json holds, in every process: `test` with top1, mean_class and per_class as fractions, `history` by step,
        `evaluations` on the way, `trained` and `total` parameters, and the settings of the run.

    Raises:
        InvalidInputError: a device that is not here, a feature that the clouds do not have, unlabelled clouds that the setup
            does not take or that are missing, or as `describe_run` and `execute`.
        I2PError, OSError: as the parts.
    """
    run_options = run_options or RunOptions()
    options = run_options.resolve_precision(options)
    if setup.unlabelled != bool(unlabelled):
        raise InvalidInputError(
            f"A setup with unlabelled={setup.unlabelled} got {count_of(len(unlabelled or ()), 'unlabelled cloud')}: they go "
            "together, and where all clouds are labelled there are none."
        )
    for clouds in (train_set, test_set, *([unlabelled] if unlabelled else [])):
        clouds.require_features(setup.features)
    more = {"unlabelled": {"clouds": len(unlabelled), "sha256": unlabelled.fingerprint().hex()}} if unlabelled else {}
    described = describe_run(
        setup, train_set, test_set, options, run_options, "clouds", CloudSet.fingerprint, votes=run_options.votes, **more
    )

    def measure(model: Any, accelerator: Any) -> tuple[dict[str, Any], Any]:
        accuracy = evaluate(model, test_set, accelerator=accelerator, votes=run_options.votes)
        return accuracy.to_dict(), accuracy.confusion

    task = Classification(*run_options.divide(train_set, test_set, hold_out, options.seed), votes=run_options.votes)
    build = functools.partial(_build, setup, task.clouds, unlabelled, options.seed)
    return execute(Path(folder), described, options, task, build, measure, run_options)


def _build(setup: Setup, clouds: CloudSet, unlabelled: CloudSet | None, seed: int) -> tuple[Any, ParameterCount]:
    """The network before its first step, with what it takes from the clouds without training."""
    model, count = build_model(setup, clouds.classes, seed)
    if setup.statistics == "clouds":
        adapt_statistics_(model, clouds if unlabelled is None else join_clouds(clouds, unlabelled))
    if setup.classifier == "ridge":
        fit_ridge_(model, clouds, unlabelled=unlabelled)
    return model, count
