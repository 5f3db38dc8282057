"""How a run goes, beside the numbers of its training, and the settings by which its folder knows it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.setup import Setup, check_folder, read_folder_config
from i2p_zoo.finetune import Options
from i2p_zoo.finetune.devices import find_device, resolve_precision
from i2p_zoo.finetune.tasks import check_classes
from i2p_zoo.wording import join_words


@dataclass(frozen=True)
class RunOptions:
    """What a run monitors, keeps and shows.

    Attributes:
        held_out: fraction of the training split that is not trained on but monitored, to choose the best weights or to stop.
        monitor_test: monitor the test split instead, for learning curves; no weights are chosen by it, nor when to stop.
        resume: go on with a run that was stopped; one that is finished is not run again.
        save: "model"; "adapter", for image weights; or None for figures alone.
        tensorboard: write its event files too.
        progress: label of a progress bar.
        device: where to run, as `i2p_zoo.finetune.devices.find_device` takes it.
        recipe: what metrics.json and the card say of the recipe that the run follows, as JSON types: its name, its changes,
            title and licence of the data, the command that runs it.
        votes: of each cloud that is judged by, held-out ones too, as `i2p_zoo.finetune.evaluate`.

    Raises:
        InvalidInputError: a fraction outside 0 to 1, an unknown `save`, both splits are to be monitored, or fewer than 1 vote.
    """

    held_out: float | None = None
    monitor_test: bool = False
    resume: bool = False
    save: str | None = "model"
    tensorboard: bool = False
    progress: str | None = None
    device: str = "auto"
    recipe: Mapping[str, Any] | None = None
    votes: int = 1

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise InvalidInputError(f"`votes` (={self.votes}) must be at least 1.")
        if self.held_out is not None and not 0 < self.held_out < 1:
            raise InvalidInputError(f"The held-out fraction must lie between 0 and 1; got {self.held_out}.")
        if self.save not in ("model", "adapter", None):
            raise InvalidInputError(f"`save` must be 'model', 'adapter' or None; got {self.save!r}.")
        if self.monitor_test and self.held_out is not None:
            raise InvalidInputError(
                "Weights are chosen on what is held out of training, never on the test split: give `held_out` or "
                "`monitor_test`, not both."
            )

    def resolve_precision(self, options: Options) -> Options:
        """Returns the options with the precision that "auto" is on the device; raises as `find_device`."""
        return replace(options, precision=resolve_precision(options.precision, find_device(self.device)))

    def divide(self, train_set: Any, test_set: Any, hold_out: Callable[..., tuple[Any, Any]], seed: int) -> tuple[Any, Any]:
        """Returns what is trained on and what is monitored, or None for that."""
        if self.held_out is not None:
            return hold_out(train_set, self.held_out, seed)
        return train_set, test_set if self.monitor_test else None


def describe_run(
    setup: Setup,
    train_set: Any,
    test_set: Any,
    options: Options,
    run_options: RunOptions,
    samples: str,
    fingerprint: Callable[[Any], bytes],
    **settings: Any,
) -> dict[str, Any]:
    """Checks that the parts of a run fit together, and returns its settings as JSON types.

    Args:
        setup, train_set, test_set, options, run_options: of the run.
        samples: what the sets hold, "clouds" or "scenes".
        fingerprint: hashes a set.
        settings: more of them, of this sort of run.

    Raises:
        InvalidInputError: weights are to be chosen by the test split, which has other classes or nothing in it, or an adapter
            is to be saved of random weights, or any network of views, or scenes cannot have the setup.
        I2PError: as `check_folder`.
    """
    if run_options.monitor_test and (options.keep == "best" or options.target is not None):
        raise InvalidInputError(
            "Which weights to keep and when to stop is chosen on what is held out of training, never on the test split: give "
            f"`held_out` in place of `monitor_test` for keep={options.keep!r}, target={options.target}."
        )
    check_folder(setup, segmented=samples == "scenes")
    check_classes(train_set.classes, test_set.classes)
    starts = (setup.network, setup.statistics, setup.readout, setup.classifier)
    if samples == "scenes" and starts != (Setup.network, Setup.statistics, Setup.readout, Setup.classifier):
        raise InvalidInputError(
            "Views, the clouds' statistics, pyramids and ridge regression are for classes of whole clouds, not of points; got "
            f"network, statistics, readout and classifier {join_words(starts)}."
        )
    if options.steps == 0 and setup.classifier == "random":
        other_way = "" if samples == "scenes" else ", or the classifier ridge, which is solved for without steps"
        raise InvalidInputError(f"No step (steps=0) trains nothing: give at least one{other_way}.")
    if setup.network == "views" and run_options.save is not None:
        raise InvalidInputError(
            f"A network of views is no checkpoint of this package: give save=None, not {run_options.save!r}."
        )
    if not len(test_set) or (run_options.save == "adapter" and setup.scratch):
        raise InvalidInputError(
            f"A run needs test {samples} ({len(test_set)}), and an adapter image weights (scratch={setup.scratch})."
        )
    config = read_folder_config(setup.model)
    return {
        "setup": setup.to_dict(),
        "options": options.to_dict(),
        "weights": config["i2p"]["weights"] if config else None,  # by their hashes a run knows them again
        samples: {"train": len(train_set), "test": len(test_set)},
        "sha256": {"train": fingerprint(train_set).hex(), "test": fingerprint(test_set).hex()},
        "classes": list(train_set.classes),
        **settings,
        "held_out": run_options.held_out,
        "monitored": "test" if run_options.monitor_test else None if run_options.held_out is None else "held-out",
        "saved": run_options.save,
    }
