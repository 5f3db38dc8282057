"""A series of runs whose figures are compared, a folder each; one that is finished is not run again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2p_zoo.data import CloudSet
from i2p_zoo.experiments.run_folder import write_json, write_text
from i2p_zoo.experiments.run_options import RunOptions
from i2p_zoo.experiments.runs import run
from i2p_zoo.experiments.setup import Setup
from i2p_zoo.finetune import Options


@dataclass(frozen=True)
class Series:
    """What the runs of a series have in common.

    Attributes:
        setup, train_set, test_set, options: as `i2p_zoo.experiments.run`; what a run changes of them, it says.
        folder: gets a folder a run, and the figures of all.
        progress: show progress bars.
        device, votes: as `RunOptions`.
    """

    setup: Setup
    train_set: CloudSet
    test_set: CloudSet
    options: Options
    folder: str | os.PathLike[str]
    progress: bool = False
    device: str = "auto"
    votes: int = 1

    def run(
        self,
        name: str,
        label: str,
        setup: Setup,
        options: Options,
        train_set: CloudSet | None = None,
        unlabelled: CloudSet | None = None,
        **monitoring: Any,
    ) -> dict[str, Any]:
        """Returns the metrics of a run, which keeps no network.

        Args:
            name: of its folder.
            label: of its progress bar.
            setup, options, train_set: of this run; None for the train_set of all.
            unlabelled: clouds for a setup that takes such.
            monitoring: `held_out` or `monitor_test` of `RunOptions`.

        Raises:
            I2PError, OSError: as `i2p_zoo.experiments.run`.
        """
        progress = label if self.progress else None
        run_options = RunOptions(save=None, resume=True, progress=progress, device=self.device, votes=self.votes, **monitoring)
        clouds = self.train_set if train_set is None else train_set
        others = unlabelled if setup.unlabelled else None
        return run(setup, clouds, self.test_set, options, self.path(name), run_options, others)

    def path(self, name: str) -> Path:
        """Returns the path of a file or folder of the series."""
        return Path(self.folder) / name

    def write(self, name: str, figures: Any, table: str | None = None) -> None:
        """Writes the figures as NAME.json and, where there is one, their table as NAME.md."""
        write_json(self.path(f"{name}.json"), figures)
        if table is not None:
            write_text(self.path(f"{name}.md"), table)
