"""Checkpoints that version 0.1.0 wrote, one of each kind, load bit for bit.

`tests/data/checkpoints-0.1.tar.xz` holds a folder a kind (converted, plain, compact, sharded, finetuned, half, adapter, U-Net
and its adapter, presets) and facts.json, what that version read of them. It is never written again.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from pathlib import Path

import pytest

import i2p_zoo
from i2p_zoo.modules import class_names
from tests.conftest import fingerprint

ARCHIVE = Path(__file__).parents[1] / "data" / "checkpoints-0.1.tar.xz"
with tarfile.open(ARCHIVE) as _archive:
    FACTS = json.load(_archive.extractfile("checkpoints/facts.json"))
BASES = {"adapter": "whole", "unet-adapter": "whole"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "checkpoints"


def as_json(value):
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("kind", FACTS)
def test_checkpoint_of_an_older_version_loads_bit_for_bit(folders, kind):
    facts = FACTS[kind]
    place = {"base": folders / BASES[kind]} if kind in BASES else {}
    model = i2p_zoo.from_pretrained(folders / kind, **place)
    assert fingerprint(model) == facts["state"]
    structure = re.sub(
        r"affine=(\w+)\b(?!, bias)", r"affine=\1, bias=\1", repr(model)
    )  # which older versions of torch do not say
    assert hashlib.sha256(structure.encode()).hexdigest() == facts["structure"]
    assert type(model).__name__ == facts["class"]
    # what they do not note has its old meaning: colours as fractions, and no word of how clouds were normalised
    added = {"rgb_mean": None, "rgb_std": None, "normalization": "", "canvas": None}
    assert model.settings.to_dict() == {**facts["settings"], **added}
    assert (model.in_chans, model.num_classes, model.architecture) == tuple(
        facts[key] for key in ("in_chans", "num_classes", "architecture")
    )
    assert as_json(model.model_args) == facts["model_args"]
    assert as_json(model.source) == facts["source"]
    assert {**model.base, "name": ""} == facts["base"]
    assert list(class_names(model)) == (facts["label_names"] or [])


@pytest.mark.parametrize("kind", sorted(set(FACTS) - set(BASES)))
def test_saving_it_again_keeps_weights_and_certificate(folders, tmp_path, kind):
    model = i2p_zoo.from_pretrained(folders / kind)
    model.save_pretrained(tmp_path)
    before, after = (json.loads((folder / "config.json").read_text())["i2p"] for folder in (folders / kind, tmp_path))
    assert after["certificate"] == before["certificate"]
    assert after["source"] == before["source"]
    assert fingerprint(i2p_zoo.from_pretrained(tmp_path)) == FACTS[kind]["state"]
