"""The zoo's finetuned networks: trained by the command of their recipe, and what was measured, finetuned.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from i2p_zoo.checkpoints.card import write_card
from i2p_zoo.checkpoints.config import CONFIG, read_config
from i2p_zoo.checkpoints.loading import describe_weights
from i2p_zoo.checkpoints.saving import note_run
from i2p_zoo.cli import main
from i2p_zoo.cli.training_recipes import RECIPES
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.staging import replacing

RECORDS = Path(__file__).with_name("finetuned.json")
LARGEST_ADAPTER = 1_000_000  # bytes
NETWORKS = {recipe.network: name for name, recipe in RECIPES.items() if recipe.network}
"""Names of the recipes by those of the networks that the zoo has of them."""
_LEFT_OUT = ("history", "evaluations")


def finetune(network: str, work: Path, records: Path = RECORDS) -> Path:
    """Trains a network by its recipe's command, a run that was stopped from where it was, and notes what was measured.

    Args:
        network: of `NETWORKS`.
        work: gets a folder of the run, named after the network.
        records: the file of what was measured.

    Returns:
        The adapter's folder, which can be published.

    Raises:
        InvalidInputError: the adapter is larger than `LARGEST_ADAPTER`.
        SystemExit: the command failed and said why.
        I2PError, OSError: a folder cannot be read or written.
    """
    recipe, run = NETWORKS[network], work / network
    main(
        [*RECIPES[recipe].command.split(), "--recipe", recipe, "--out", str(run), "--resume"],
        prog_name="i2p-zoo",
        standalone_mode=False,
    )
    adapter = run / "adapter"
    size = sum(file["bytes"] for file in describe_weights(adapter))
    if size > LARGEST_ADAPTER:
        raise InvalidInputError(f"{adapter}: has {size:,d} bytes; expected at most {LARGEST_ADAPTER:,d}. Train less of it.")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    note_run(adapter, metrics, network)
    record = {
        "config": read_config(adapter / CONFIG),
        "run": {key: value for key, value in metrics.items() if key not in _LEFT_OUT},
        "bytes": size,
    }
    with replacing(records) as temporary:
        text = json.dumps({**load_finetuned(records), network: record}, indent=1, sort_keys=True) + "\n"
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return adapter


def load_finetuned(records: Path = RECORDS) -> dict[str, Any]:
    """Returns what was measured of each finetuned network by its name: its config, its run, the bytes of its adapter."""
    return dict(json.loads(records.read_text(encoding="utf-8"))) if records.exists() else {}


def card_of_finetuned(network: str, record: dict[str, Any]) -> str:
    """Returns the card of a finetuned network by its record, which is the one in its folder."""
    return write_card(record["config"], record["run"]["total"], run=record["run"], name=network)
