"""What `i2p-zoo info` says without building a network is what a network that is built says."""

from __future__ import annotations

import json

import pytest
import timm

import i2p_zoo
from i2p_zoo.checkpoints.folder_files import CARD, CONFIG
from i2p_zoo.zoo import facts
from i2p_zoo.zoo.facts import read_facts
from i2p_zoo.zoo.ledger import certified_models
from i2p_zoo.zoo.pretrained import describe

NAMES = [
    "resnet18",
    "i2p-test_resnet",
    "test_efficientnet.r160_in1k",
    "convnext_atto",
    "convnext_nano.in12k",  # of other classes than timm's default
    "nf_regnet_b0",  # of no tag
    "densenet121.tv_in1k",
    "test_vit",
]


@pytest.mark.parametrize("name", NAMES)
def test_facts_of_a_name_are_those_of_the_network_that_is_built(name):
    assert read_facts(name) == json.loads(json.dumps(describe(name)))


def test_every_certified_network_has_facts_for_each_tag_of_timm():
    known = json.loads((facts.resources.files("i2p_zoo.zoo") / "facts.json").read_text())
    assert known["timm"] == timm.__version__
    assert sorted(known["models"]) == certified_models()
    for name, record in known["models"].items():
        default = timm.get_pretrained_cfg(name)
        tags = {tag.partition(".")[2] for tag in timm.list_pretrained(f"{name}.*")} | {default.tag or ""}
        assert set(record["tags"]) == tags, name
        assert next(iter(record["tags"])) == (default.tag or "")
        assert record["tags"][default.tag or ""] == {}
        assert record["input_size"] == list(default.input_size)


@pytest.mark.parametrize("name", ["resnet999", "resnet18.no_such_tag", "", "acme/net", "./nothing"])
def test_what_is_not_known_is_left_to_the_network(name):
    assert read_facts(name) is None


def test_facts_of_another_timm_are_not_told(monkeypatch):
    monkeypatch.setattr(facts.metadata, "version", lambda name: "0.0.0")
    assert read_facts("resnet18") is None


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A network, one of other classes, a feature extractor, a U-Net and an adapter, each in its folder."""
    root = tmp_path_factory.mktemp("folders")
    i2p_zoo.create_model("test_resnet").save_pretrained(root / "network")
    i2p_zoo.create_model("test_resnet", num_classes=3, stem="point", in_chans=6, skip_downsamples=1).save_pretrained(
        root / "own"
    )
    i2p_zoo.create_model("test_resnet", features_only=True).save_pretrained(root / "extractor")
    unet = i2p_zoo.segmentation.create_unet("test_resnet", 4, pretrained=False)
    unet.save_pretrained(root / "unet")
    adapted = i2p_zoo.from_pretrained(root / "network", num_classes=3)
    i2p_zoo.save_adapter(adapted, root / "adapter")
    return root


@pytest.mark.parametrize("name", ["network", "own", "unet", "adapter"])
def test_facts_of_a_folder_are_those_of_the_network_that_is_loaded(folders, name):
    assert read_facts(str(folders / name)) == json.loads(json.dumps(describe(str(folders / name))))


def test_a_feature_extractor_is_loaded_for_its_class(folders):
    assert read_facts(str(folders / "extractor")) is None


DAMAGES = {
    "edited card": lambda folder: (folder / CARD).write_text((folder / CARD).read_text().replace("parameters", "params")),
    "card of another number": lambda folder: (folder / CARD).write_text((folder / CARD).read_text().replace("| 1", "| 2")),
    "no card": lambda folder: (folder / CARD).unlink(),
    "cut config": lambda folder: (folder / CONFIG).write_text((folder / CONFIG).read_text()[:-9]),
    "config of another": lambda folder: (folder / CONFIG).write_text("[]"),
    "config without settings": lambda folder: (folder / CONFIG).write_text(
        json.dumps({**(c := json.loads((folder / CONFIG).read_text())), "i2p": {"weights": c["i2p"]["weights"], "unet": None}})
    ),
    "altered weights": lambda folder: (folder / "model.safetensors").write_bytes(b"0" * 99),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_folder_that_is_not_as_it_was_saved_is_left_to_loading(tmp_path, damage):
    i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path)
    assert read_facts(str(tmp_path)) is not None
    damage(tmp_path)
    assert read_facts(str(tmp_path)) is None
