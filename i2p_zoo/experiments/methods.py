"""Ways to a classifier of labelled clouds, each with what differs from a given setup and the rates that suit it best."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from i2p_zoo.data import CloudSet
from i2p_zoo.errors import DivergedError, InvalidInputError, MissingExtraError
from i2p_zoo.experiments.nearest_neighbour import run_nearest_neighbour
from i2p_zoo.experiments.series import Series
from i2p_zoo.experiments.setup import Setup, check_folder, stem_of
from i2p_zoo.experiments.views import VIEW_VOXEL
from i2p_zoo.finetune import Options
from i2p_zoo.wording import join_words


@dataclasses.dataclass(frozen=True)
class Method:
    """One way.

    Attributes:
        setup: fields of `Setup` that it changes.
        options: fields of `Options` that it changes; a learning rate that is not among them is the setup's default.
    """

    setup: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_PYRAMID = {"stem": "image", "readout": "pyramid", "classifier": "ridge"}
_BOTH = {**_PYRAMID, "readout": "pyramid+views"}
_VIEWS = {"network": "views", "voxel_size": VIEW_VOXEL}
_VIEW_MAPS = {"network": "views", "readout": "pyramid", "classifier": "ridge"}
METHODS: dict[str, Method | None] = {
    "all": Method({"mode": "all"}),
    "io+bn": Method({"mode": "io+bn"}),
    "io+stats": Method({"mode": "io+stats"}),
    "io": Method({"mode": "io"}),
    "lora": Method({"mode": "lora"}),
    "probe": Method({"mode": "head", "stem": "image"}),
    "ridge": Method({"mode": "head", "stem": "image", "classifier": "ridge"}, {"steps": 0}),
    "ridge on the clouds' statistics": Method(
        {"mode": "head", "stem": "image", "statistics": "clouds", "classifier": "ridge"}, {"steps": 0}
    ),
    "pyramid, ridge": Method({"mode": "head", **_PYRAMID}, {"steps": 0}),
    "pyramid, ridge on the clouds' statistics": Method({"mode": "head", "statistics": "clouds", **_PYRAMID}, {"steps": 0}),
    "pyramid and views, ridge": Method({"mode": "head", **_BOTH}, {"steps": 0}),
    "pyramid and views, ridge on the clouds' statistics": Method(
        {"mode": "head", "statistics": "clouds", **_BOTH}, {"steps": 0}
    ),
    "pyramid and views, ridge with unlabelled clouds": Method({"mode": "head", "unlabelled": True, **_BOTH}, {"steps": 0}),
    "pyramid": Method({"mode": "all", **_PYRAMID}, {"learning_rate": 0.02}),
    "scratch": Method({"mode": "all", "scratch": True}),
    "frozen random, io+bn": Method({"mode": "io+bn", "scratch": True}),
    "frozen random, io+stats": Method({"mode": "io+stats", "scratch": True}),
    "frozen random, io": Method({"mode": "io", "scratch": True}),
    "frozen random, pyramid, ridge": Method({"mode": "head", "scratch": True, **_PYRAMID}, {"steps": 0}),
    "frozen random, pyramid, ridge on the clouds' statistics": Method(
        {"mode": "head", "scratch": True, "statistics": "clouds", **_PYRAMID}, {"steps": 0}
    ),
    "frozen random, pyramid and views, ridge": Method({"mode": "head", "scratch": True, **_BOTH}, {"steps": 0}),
    "scratch, pyramid": Method({"mode": "all", "scratch": True, **_PYRAMID}, {"learning_rate": 0.02}),
    "views": Method({"mode": "all", **_VIEWS}),
    "views, probe": Method({"mode": "head", **_VIEWS}),
    "views, ridge": Method({"mode": "head", "classifier": "ridge", **_VIEWS}, {"steps": 0}),
    "views by all maps, ridge": Method({"mode": "head", **_VIEW_MAPS}, {"steps": 0}),
    "frozen random, views, ridge": Method({"mode": "head", "scratch": True, "classifier": "ridge", **_VIEWS}, {"steps": 0}),
    "frozen random, views by all maps, ridge": Method({"mode": "head", "scratch": True, **_VIEW_MAPS}, {"steps": 0}),
    "chamfer": None,
}
"""By name; None is the nearest cloud's class by Chamfer distance, which has no network.

Methods that read what the image network sees, without training it, keep the image stem, which a new one would blind.
"""

_EVERY_METHODS_EXTRA = "finetune"


def plan_method(name: str, setup: Setup, options: Options, learning_rate: float | None = None) -> tuple[Setup, Options] | None:
    """Returns the setup and options of a method's runs, or None for one without a network.

    Args:
        name: of `METHODS`.
        setup, options: what the method does not change.
        learning_rate: in place of the method's.

    Raises:
        InvalidInputError: no such method, AdamW at a rate that is SGD's, or a folder whose network lost the image stem that the
            method keeps.
        I2PError: as `check_folder`.
    """
    if name not in METHODS:
        raise InvalidInputError(f"Methods are {join_words(METHODS, most=len(METHODS))}; got {name!r}.")
    method = METHODS[name]
    if method is None:
        return None
    planned = _plan_setup(name, method, setup)
    changes = dict(method.options)
    if changes.get("steps") != 0:
        changes["learning_rate"] = choose_rate(planned, options, learning_rate, changes.get("learning_rate"))
    return planned, dataclasses.replace(options, **changes)


def find_impossible(setup: Setup) -> dict[str, str]:
    """Returns the methods that a setup cannot have where all clouds are labelled, by name, each with why not.

    Raises:
        CheckpointError: a damaged folder.
    """
    reasons = {}
    for name, method in METHODS.items():
        try:
            if method is not None and _plan_setup(name, method, setup).unlabelled:
                reasons[name] = "All training clouds are labelled: see `i2p-zoo fewshot`."
        except InvalidInputError as error:
            reasons[name] = str(error)
    return reasons


def _plan_setup(name: str, method: Method, setup: Setup) -> Setup:
    """Returns a setup as a method changes it; raises InvalidInputError where there is no such network."""
    planned = dataclasses.replace(setup, **method.setup)
    if planned.network == "voxels" and planned.stem == "image" and stem_of(setup.model) not in (None, "image"):
        raise InvalidInputError(
            f"{setup.model} has a {stem_of(setup.model)} stem, and the method {name!r} reads the image stem: leave {name} out "
            "of the methods, or give the name of a zoo network."
        )
    check_folder(planned)
    return planned


def choose_rate(setup: Setup, options: Options, learning_rate: float | None, tuned: float | None = None) -> float:
    """Returns a learning rate: the given one, or else the method's, or else the setup's default, which are SGD's.

    Raises:
        InvalidInputError: AdamW would train at a default rate.
    """
    if learning_rate is not None:
        return learning_rate
    if options.optimizer == "adamw":
        raise InvalidInputError("Give a learning rate with optimizer='adamw': the default ones are SGD's.")
    return setup.learning_rate if tuned is None else tuned


def run_method(
    series: Series,
    folder: str,
    label: str,
    planned: tuple[Setup, Options] | None,
    clouds: CloudSet,
    unlabelled: CloudSet | None = None,
    **monitoring: Any,
) -> dict[str, Any]:
    """Trains on clouds as planned.

    A training that diverges counts as the guess of one class, and is told; so is a method whose extra is not installed.

    Args:
        series: what all runs have in common.
        folder, label: of the run.
        planned: by `plan_method`.
        clouds: to train on.
        unlabelled: for methods that take such.
        monitoring: as `Series.run`.

    Returns:
        Metrics, as `i2p_zoo.experiments.run`'s; with `diverged`, the message, where training did. Or `skipped` alone, the
        message that names the extra.

    Raises:
        MissingExtraError: what every method needs is not installed.
        I2PError, OSError: as `Series.run`.
    """
    if planned is None:
        return run_nearest_neighbour(clouds, series.test_set, series.path(folder), label if series.progress else None)
    try:
        return series.run(folder, label, *planned, clouds, unlabelled, **monitoring)
    except DivergedError as error:
        chance = 1 / len(clouds.classes)
        return {"test": {"top1": chance, "mean_class": chance}, "diverged": str(error), "evaluations": []}
    except MissingExtraError as error:
        if error.extra == _EVERY_METHODS_EXTRA:
            raise
        return {"skipped": str(error)}
