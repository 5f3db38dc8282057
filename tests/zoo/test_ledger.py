"""The ledger of certified architectures."""

from __future__ import annotations

import timm

import i2p_zoo
from i2p_zoo.zoo import ledger as zoo

LEDGER = {"timm": "1.0", "models": {"resnet50": {"passed": True}, "broken": {"passed": False}, "resnet18": {"passed": True}}}


def test_ledger_names_architectures_of_timm():
    ledger = zoo.load_ledger()
    assert isinstance(ledger["timm"], str)
    assert all(timm.is_model(name) for name in ledger["models"])
    assert set(zoo.certified_models()) <= set(ledger["models"])


def test_certified_models_are_those_that_passed_in_order(monkeypatch):
    monkeypatch.setattr(zoo, "load_ledger", lambda: LEDGER)
    assert zoo.certified_models() == ["resnet18", "resnet50"]


def test_list_models_takes_wildcards_with_and_without_the_prefix(monkeypatch):
    monkeypatch.setattr(zoo, "load_ledger", lambda: LEDGER)
    assert i2p_zoo.list_models() == ["i2p-resnet18", "i2p-resnet50"]
    for pattern in ("resnet1*", "i2p-resnet1*"):
        assert i2p_zoo.list_models(pattern) == ["i2p-resnet18"]
    assert i2p_zoo.list_models("broken") == []


def test_record_has_the_keys_of_a_certificate_beside_its_own():
    record = {"inflated": 20, "copied": 102, "float32": 1e-7, "float64": None, "passed": True}
    certificate = zoo.certificate_of(record)
    assert certificate == {**record, "errors": {"float32": 1e-7, "float64": None}, "weights": "random"}
    assert zoo.certificate_of({"refused": "why"}) == {"refused": "why"}
