"""Model cards: their metadata, their figures, and when one counts as edited."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub import ModelCard

import i2p_zoo
from i2p_zoo.card import is_edited, write_card
from i2p_zoo.checkpoint import describe_model

SOURCE = {"repo": "timm/test_resnet.r160_in1k", "commit": "c" * 40, "sha256": "5" * 64, "license": "apache-2.0"}
CERTIFICATE = {"errors": {"float32": 1.25e-7, "float64": 3e-16}, "inflation": "center", "passed": True}


def make_card(source=None, certificate=None, pretrained=None, **kwargs):
    model = i2p_zoo.create_model("test_resnet", **kwargs)
    model.source = {**(source or {}), "certificate": certificate}
    config = describe_model(model)
    config["pretrained_cfg"].update(pretrained or {})
    return write_card(json.loads(json.dumps(config)), model.state_dict())


@pytest.fixture(scope="module")
def card():
    return make_card(SOURCE, CERTIFICATE, num_classes=10)


def test_metadata_reads_back_with_the_hub_client(card):
    data = ModelCard(card).data
    assert data.to_dict() == {
        "library_name": "i2p-zoo",
        "license": "apache-2.0",
        "base_model": "timm/test_resnet.r160_in1k",
        "pipeline_tag": "image-classification",
        "tags": ["point-cloud", "3d", "timm", "sparse-convolution"],
    }


METADATA = {  # what a card is made of, a key of its metadata and the value there
    "licence of the source comes first": ({"source": {**SOURCE, "license": "cc-by-nc-4.0"}}, "license", "cc-by-nc-4.0"),
    "licence of timm": ({"pretrained": {"license": "mit"}}, "license", "mit"),
    "no licence": ({"pretrained": {"license": None}}, "license", None),
    "no source": ({}, "base_model", None),
    "wheel": ({"source": {"package": "net-model", "version": "0.1.0"}}, "base_model", None),
    "features": ({"features_only": True}, "pipeline_tag", "image-feature-extraction"),
    "no classifier": ({"num_classes": 0}, "pipeline_tag", "image-feature-extraction"),
    "words of YAML": ({"source": {**SOURCE, "license": "yes: #1 'quoted'\n- no"}}, "license", "yes: #1 'quoted'\n- no"),
    "not ASCII": ({"source": {**SOURCE, "repo": "acme/网络"}}, "base_model", "acme/网络"),
}


@pytest.mark.parametrize(("kwargs", "key", "value"), METADATA.values(), ids=METADATA.keys())
def test_metadata_follows_the_model(kwargs, key, value):
    text = make_card(**kwargs)
    assert ModelCard(text).data.to_dict().get(key) == value
    assert not is_edited(text)


ROWS = {  # a model, and rows of its card's table
    "plain": (
        {"num_classes": 10, "source": SOURCE, "certificate": CERTIFICATE},
        [
            "| classes | 10 |",
            "| stem | image, 3 channels |",
            "| inflation | center, axis z |",
            f"| source of the 2D weights | timm/test_resnet.r160_in1k at {'c' * 40}, sha256 {'5' * 64} |",
            "| licence of the source | apache-2.0 |",
            "| certificate (relative error to the 2D network on images) | float32 1.2e-07, float64 3.0e-16 |",
        ],
    ),
    "point stem": (
        {"stem": "point", "in_chans": 6, "voxel_size": 0.2, "features": "xyz,rgb", "axis": "y"},
        ["| stem | point, 6 channels |", "| voxel size | 0.2 |", "| voxel features | xyz,rgb |", "axis y |"],
    ),
    "average": ({"inflation": "average", "certificate": CERTIFICATE}, ["3.0e-16 (its center-inflated twin) |"]),
    "random weights": ({}, ["| none: random weights |", "| not measured |"]),
    "wheel": (
        {"source": {"package": "net-model", "version": "0.1.0", "sha256": "7" * 64}},
        [f"| net-model at 0.1.0, sha256 {'7' * 64} |"],
    ),
    "no licence": ({"pretrained": {"license": None}}, ["| licence of the source | not stated |"]),
}


@pytest.mark.parametrize(("kwargs", "rows"), ROWS.values(), ids=ROWS.keys())
def test_table_states_how_the_network_was_made(kwargs, rows):
    text = make_card(**kwargs)
    for row in rows:
        assert row in text


def test_number_of_parameters_is_the_networks(card):
    model = i2p_zoo.create_model("test_resnet", num_classes=10)
    assert f"| parameters | {sum(p.numel() for p in model.parameters()):,d} |" in card


def test_code_of_the_card_runs(tmp_path, monkeypatch):
    model = i2p_zoo.create_model("test_resnet", num_classes=10)
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("i2p-test_resnet")
    code = (tmp_path / "i2p-test_resnet" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names = {"points": torch.rand(50, 3).numpy()}
    exec(code, names)
    assert names["logits"].shape == (1, 40)


def test_card_says_what_to_cite(card):
    assert "@inproceedings{xu2022image2point," in card
    assert "@misc{rw2019timm," in card
    assert card.count("{") == card.count("}")


def test_same_network_gives_the_same_card(card):
    assert make_card(SOURCE, CERTIFICATE, num_classes=10) == card
    assert not is_edited(card)


MARK = "<!-- Written by i2p-zoo"
EDITS = {
    "text at the end": lambda t: t + "\n## My notes\n",
    "a word at the end": lambda t: t.rstrip("\n") + " mine\n",
    "text at the start": lambda t: "My notes\n" + t,
    "text before the mark": lambda t: t.replace(MARK, "My notes\n" + MARK),
    "a letter changed": lambda t: t.replace("point clouds", "Point clouds", 1),
    "a figure changed": lambda t: t.replace("float32 1.2e-07", "float32 1.2e-09"),
    "a line removed": lambda t: t.replace("| classes | 10 |\n", ""),
    "a space added": lambda t: t.replace("## Citation\n", "## Citation \n"),
    "metadata changed": lambda t: t.replace("license: apache-2.0", "license: mit"),
    "mark removed": lambda t: t[: t.index(MARK)],
    "mark's digest changed": lambda t: t.replace("i2p-zoo, text ", "i2p-zoo, text 0"),
    "mark's digest removed": lambda t: t[: t.index(MARK)] + MARK + " -->\n",
    "mark's words changed": lambda t: t.replace("is never overwritten", "is overwritten"),
    "mark moved to the start": lambda t: t[t.index(MARK) :] + t[: t.index(MARK)],
    "card twice": lambda t: t + t,
    "empty": lambda t: "",
    "another text": lambda t: "# My card\n",
    "only the mark": lambda t: t[t.index(MARK) :],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_every_edit_is_noticed(card, edit):
    edited = edit(card)
    assert edited != card
    assert is_edited(edited)
