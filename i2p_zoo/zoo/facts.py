"""What is known of networks without building them: of a certified one by its name, and of a checkpoint by its files."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from i2p_zoo.checkpoints.folder_files import read_files
from i2p_zoo.names import PREFIX
from i2p_zoo.zoo.ledger import certificate_of, load_ledger


def read_facts(name: str) -> dict[str, Any] | None:
    """Returns what `i2p_zoo.zoo.pretrained.describe` finds of a network, by its zoo or timm name or its checkpoint's folder.

    None where that is not known without building it: of another name, with another version of timm than the one that the
    networks were certified with, or of a folder that is not as `save_pretrained` left it.
    """
    return _facts_of_folder(Path(name)) if os.path.isdir(name) else _facts_of_name(name)


def _facts_of_name(name: str) -> dict[str, Any] | None:
    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    known = _load_facts()
    if architecture not in known["models"] or known["timm"] != metadata.version("timm"):
        return None
    facts = dict(known["models"][architecture])
    tags = facts.pop("tags")  # what differs by tag from timm's default
    if tag and tag not in tags:
        return None
    return {**facts, **tags.get(tag, {}), "certificate": certificate_of(load_ledger()["models"][architecture])}


def _facts_of_folder(folder: Path) -> dict[str, Any] | None:
    files = read_files(folder)
    if files is None:
        return None
    config, parameters = files
    with contextlib.suppress(LookupError, TypeError, AttributeError):  # a config that somebody edited
        i2p, known = config["i2p"], _load_facts()["models"][config["architecture"].removeprefix(PREFIX)]
        if i2p["unet"] is not None or not config["model_args"].get("features_only"):  # which timm makes a class of its own
            return {
                "name": config["architecture"],
                "class": known["class"] if i2p["unet"] is None else "UNet",
                "parameters": parameters,
                **{key: config[key] for key in ("num_classes", "num_features")},
                **{key: i2p[key] for key in ("in_chans", "settings", "source", "certificate")},
            }
    return None


@functools.cache
def _load_facts() -> dict[str, Any]:
    """Returns what `python -m conversion certify` wrote: timm's version, and the facts of each architecture."""
    text = resources.files("i2p_zoo.zoo").joinpath("facts.json").read_text(encoding="utf-8")
    facts: dict[str, Any] = json.loads(text)
    return facts
