"""What is known of a network before it is used."""

from __future__ import annotations

import os
from typing import Any

from i2p_zoo.checkpoints.config import make_config
from i2p_zoo.errors import NotFoundError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.structure import inflate_structure
from i2p_zoo.names import split_name
from i2p_zoo.networks.timm_models import create_timm_model
from i2p_zoo.zoo.ledger import load_ledger
from i2p_zoo.zoo.pretrained import from_pretrained


def describe(name: str) -> dict[str, Any]:
    """Returns facts of a network by zoo or timm name, or by checkpoint folder, as JSON types.

    Raises:
        NotFoundError, UnsupportedError, CheckpointError: no such architecture, no sparse counterpart, a damaged folder.
    """
    if os.path.isdir(name):
        model = from_pretrained(name)
        config = model.to_config()
        facts = {key: config["i2p"][key] for key in ("settings", "source", "certificate")}
    elif os.sep in name:
        raise NotFoundError(f"{name}: no such folder.")
    else:
        architecture, _ = split_name(name)
        model = inflate_structure(create_timm_model(architecture), Settings())
        model.provenance = model.provenance.changed(architecture=architecture, in_chans=3)
        config = make_config(model)
        facts = {key: config["pretrained_cfg"].get(key) for key in ("input_size", "license")}
        facts["certificate"] = load_ledger()["models"].get(architecture, "not measured")
    return {
        "name": config["architecture"],
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "num_classes": config["num_classes"],
        "num_features": config["num_features"],
        "in_chans": config["i2p"]["in_chans"],
        **facts,
    }
