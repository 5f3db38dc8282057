"""facts.json: what is described once is kept, and what another timm described is not."""

from __future__ import annotations

import json

import timm

from conversion import facts
from conversion.facts import describe_tags, write_facts
from i2p_zoo.zoo.ledger import certified_models


def test_tags_hold_what_differs_from_the_default():
    described = describe_tags("convnext_nano")
    assert described["num_classes"] == 1000
    tags = described["tags"]
    assert next(iter(tags)) == timm.get_pretrained_cfg("convnext_nano").tag
    assert tags["in12k"]["num_classes"] == timm.get_pretrained_cfg("convnext_nano.in12k").num_classes
    assert "certificate" not in described


def test_known_facts_are_kept_and_others_made(tmp_path, monkeypatch):
    path = tmp_path / "facts.json"
    made = []
    monkeypatch.setattr(facts, "describe_tags", lambda name: made.append(name) or {"name": name})
    write_facts(["resnet18"], path)
    write_facts(["resnet50", "resnet18"], path)
    assert made == ["resnet18", "resnet50"]
    assert json.loads(path.read_text()) == {
        "timm": timm.__version__,
        "models": {"resnet18": {"name": "resnet18"}, "resnet50": {"name": "resnet50"}},
    }
    path.write_text(path.read_text().replace(timm.__version__, "0.9"))
    write_facts(["resnet18"], path)
    assert made == ["resnet18", "resnet50", "resnet18"]
    assert list(json.loads(path.read_text())["models"]) == ["resnet18"]


def test_every_certified_network_is_described():
    described = json.loads(facts.FACTS.read_text(encoding="utf-8"))["models"]
    assert list(described) == certified_models()
