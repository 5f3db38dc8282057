"""Model cards: their metadata, their figures, and when one counts as edited."""

from __future__ import annotations

import json

import numpy as np
import pytest
from huggingface_hub import ModelCard

import i2p_zoo
from i2p_zoo.checkpoints.card import is_edited, write_card
from i2p_zoo.checkpoints.saving import describe_model

SOURCE = {"repo": "timm/test_resnet.r160_in1k", "commit": "c" * 40, "sha256": "5" * 64, "license": "apache-2.0"}
CERTIFICATE = {"errors": {"float32": 1.25e-7, "float64": 3e-16}, "inflation": "center", "passed": True}


BASE = {"name": "acme/base", "commit": "d" * 40, "weights": {"model.safetensors": "1" * 64}}
WEIGHTS = {"model.safetensors": "0" * 64}


def make_card(
    source=None, certificate=None, pretrained=None, base=None, weights=WEIGHTS, picture=None, name="test_resnet", **kwargs
):
    model = i2p_zoo.create_model(name, **kwargs)
    model.source = {**(source or {}), "certificate": certificate}
    config = describe_model(model)
    config["pretrained_cfg"].update(pretrained or {})
    config["i2p"] |= {"base": base, "weights": weights}
    return write_card(json.loads(json.dumps(config)), sum(p.numel() for p in model.parameters()), picture)


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
    "licence that the Hub does not know": ({"source": {**SOURCE, "license": "my-license"}}, "license", "other"),
    "its name": ({"source": {**SOURCE, "license": "my-license"}}, "license_name", "my-license"),
    "words of YAML": ({"source": {**SOURCE, "license": "yes: #1 'quoted'\n- no"}}, "license_name", "yes: #1 'quoted'\n- no"),
    "no name of a repository": ({"source": {**SOURCE, "repo": "acme/网络"}}, "base_model", None),
    "adapter": ({"base": BASE}, "base_model", "acme/base"),
    "adapter on a folder": ({"base": {**BASE, "name": "/somewhere/base"}}, "base_model", None),
    "adapter on a converted network": (
        {"source": SOURCE, "base": {**BASE, "name": "i2p-test_resnet", "commit": None}},
        "base_model",
        "timm/test_resnet.r160_in1k",
    ),
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
        [
            "| stem | point, 6 channels |",
            "| voxel size | 0.2, in the clouds' unit |",
            "| voxel features | xyz,rgb |",
            "axis y |",
        ],
    ),
    "average": ({"inflation": "average", "certificate": CERTIFICATE}, ["3.0e-16 (its center-inflated twin) |"]),
    "finetuned": (
        {"certificate": {**CERTIFICATE, "finetuned": True}},
        ["| float32 1.2e-07, float64 3.0e-16 (of the network it was finetuned from) |"],
    ),
    "not finetuned": ({"certificate": {**CERTIFICATE, "finetuned": False}}, ["| float32 1.2e-07, float64 3.0e-16 |"]),
    "measured whole": (
        {"certificate": {**CERTIFICATE, "mapped": 122, "mismatched": [], "unproven": [], "seen": 102, "unseen": []}},
        ["3.0e-16; all 122 tensors are their 2D sources' bit for bit; the outputs depend on all 102 of floating point |"],
    ),
    "no source": ({}, ["| source of the 2D weights | not stated |", "| not measured |"]),
    "wheel": (
        {"source": {"package": "net-model", "version": "0.1.0", "sha256": "7" * 64}},
        [f"| net-model at 0.1.0, sha256 {'7' * 64} |"],
    ),
    "no licence": ({"pretrained": {"license": None}}, ["| licence of the source | not stated |"]),
    "adapter": ({"base": BASE}, [f"its base, `acme/base` at {'d' * 40}.", "# Adapter of i2p-test_resnet"]),
    "non-commercial": ({"source": {**SOURCE, "license": "cc-by-nc-4.0"}}, ["> **Not for commercial use**"]),
    "picture": ({"picture": "kernels.png"}, ["![Inflated kernels](kernels.png)"]),
    "not converted yet": (
        {"source": SOURCE, "certificate": CERTIFICATE, "weights": {}},
        ["are filled in on publishing |", "with random weights; measured with the real ones on publishing |"],
    ),
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
    model.save_pretrained("my-model")
    use, finetune = [
        part.split("```")[0] for part in (tmp_path / "my-model" / "README.md").read_text().split("```python\n")[1:]
    ]
    names = {}
    exec(use, names)
    assert names["logits"].shape == (1, 10)
    points = np.random.default_rng(0).random((8, 60, 3), dtype=np.float32)
    np.savez("clouds.npz", points=points, label=np.arange(8) % 2, split=np.arange(8) // 4, classes=np.array(["a", "b"]))
    assert "steps=300" in finetune
    exec(finetune.replace("steps=300", "steps=1"), names)
    assert names["model"].num_classes == 2


NAMES = {  # a network, and the name that its card loads
    "of the zoo": ({"source": SOURCE}, "i2p-test_resnet"),
    "of the zoo, from a wheel": ({"source": {"package": "net-model", "version": "0.1.0"}}, "i2p-test_resnet"),
    "of a tag that this timm does not have": ({"source": SOURCE, "pretrained": {"tag": "none_such"}}, "my-model"),
    "other classes": ({"source": SOURCE, "num_classes": 40}, "my-model"),
    "other channels": ({"source": SOURCE, "in_chans": 1, "features": "ones"}, "my-model"),
    "other stem": ({"source": SOURCE, "stem": "point"}, "my-model"),
    "other inflation": ({"source": SOURCE, "inflation": "average"}, "my-model"),
    "other voxels": ({"source": SOURCE, "voxel_size": 0.1}, "my-model"),
    "other arguments": ({"source": SOURCE, "features_only": True}, "my-model"),
    "adapter": ({"source": SOURCE, "base": BASE}, "my-model"),
    "own weights": ({"source": {"file": "mine.pth", "license": "unknown"}}, "my-model"),
    "no source": ({}, "my-model"),
}


@pytest.mark.parametrize(("kwargs", "name"), NAMES.values(), ids=NAMES.keys())
def test_only_an_unchanged_network_of_the_zoo_is_loaded_by_its_zoo_name(kwargs, name):
    assert f'from_pretrained("{name}")' in make_card(**kwargs)


@pytest.mark.parametrize(
    ("features", "in_chans"), [("xyz", 3), ("ones", 1), ("xyz,rgb", 6), ("normals", 3), ("xyz,extra", 4), ("xyz, rgb,extra", 8)]
)
def test_cloud_of_the_card_fits_the_voxel_features(features, in_chans):
    text = make_card(features=features, in_chans=in_chans, stem="point", num_classes=5)
    cloud = text.split("model([")[1].split("])")[0]
    model = i2p_zoo.create_model("test_resnet", features=features, in_chans=in_chans, stem="point", num_classes=5).eval()
    assert model([eval(cloud)]).shape == (1, 5)
    assert ("## Finetune" in text) == (features in ("xyz", "ones"))


@pytest.mark.parametrize("kwargs", [{}, {"features_only": True}], ids=["classifier", "features"])
def test_picture_stands_between_table_and_code(kwargs):
    text = make_card(picture="my kernels.png", **kwargs)
    assert text.index("| certificate") < text.index("![Inflated kernels](my%20kernels.png)") < text.index("## Use")
    assert "![" not in make_card(**kwargs)


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


@pytest.mark.parametrize("stem", ["image", "point"])
def test_card_of_a_transformer_says_what_it_takes_a_cloud_for_and_trains_it_as_transformers_are(stem):
    card = make_card(name="test_vit", num_classes=10, stem=stem)
    assert "a cloud passes for an image of 160 x 160 pixels" in card
    assert 'finetune.train(model, train_set, steps=300, optimizer="adamw", learning_rate=0.0005, progress="finetuning")' in card
    assert ('inflation="average", stem="point", voxel_size=0.1' in card) == (stem == "image")
    assert "skip_downsamples=" not in card
    assert ModelCard(card).data.to_dict()["tags"] == ["point-cloud", "3d", "timm"]


def test_card_of_a_convolutional_network_has_no_canvas(card):
    assert "canvas" not in card
    assert "passes for an image" not in card
    assert "$" not in card
