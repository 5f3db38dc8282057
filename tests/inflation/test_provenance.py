"""Provenance: each change is a copy, and the original stays."""

from __future__ import annotations

import copy
import dataclasses

import pytest
from torch import nn

from i2p_zoo import InflationReport, InvalidInputError
from i2p_zoo.inflation.provenance import Provenance
from i2p_zoo.inflation.report import ParameterRecord
from i2p_zoo.inflation.settings import Settings

REPORT = InflationReport(
    [
        ParameterRecord("stem.weight", (8, 3, 3, 3), (8, 3, 3, 3, 3), "inflated", "center"),
        ParameterRecord("head.weight", (5, 8), (5, 8), "copied"),
        ParameterRecord("head.bias", (5,), (5,), "copied"),
    ]
)


@pytest.fixture
def provenance():
    source = {"repo": "timm/net", "license": "mit"}
    return Provenance(Settings("average", "y"), "resnet18", {"drop_rate": 0.1}, 4, REPORT, source)


@pytest.fixture(autouse=True)
def original(provenance):
    """Whatever a test makes of it, the original has its values and its parts afterwards."""
    before, parts = copy.deepcopy(provenance), dict(vars(provenance))
    yield
    assert provenance == before
    assert all(getattr(provenance, name) is part for name, part in parts.items())


def values(provenance, *without):
    return {name: value for name, value in vars(provenance).items() if name not in without}


def test_changed_copy_has_the_new_values_and_keeps_the_others(provenance):
    changed = provenance.changed(in_chans=6, base={"name": "i2p-resnet18"})
    assert (changed.in_chans, changed.base) == (6, {"name": "i2p-resnet18"})
    assert values(changed, "in_chans", "base") == values(provenance, "in_chans", "base")


def test_unknown_field_is_not_changed(provenance):
    with pytest.raises(TypeError, match="colour"):
        provenance.changed(colour="red")


def test_copy_with_other_settings_keeps_the_rest_of_them_and_all_else(provenance):
    changed = provenance.with_settings(stem="point", voxel_size=0.2)
    assert changed.settings == Settings("average", "y", stem="point", voxel_size=0.2)
    assert values(changed, "settings") == values(provenance, "settings")
    with pytest.raises(InvalidInputError, match="'trunk'"):
        provenance.with_settings(stem="trunk")


def test_copy_with_a_new_module_reports_each_of_its_tensors(provenance):
    changed = provenance.with_replaced("head.", "new classes", nn.Linear(8, 7))
    assert changed.report.records == [
        REPORT.records[0],
        ParameterRecord("head.weight", (5, 8), (7, 8), "replaced", "new classes"),
        ParameterRecord("head.bias", (5,), (7,), "replaced", "new classes"),
    ]
    assert values(changed, "report") == values(provenance, "report")


def test_copy_with_a_new_tensor_reports_its_shape(provenance):
    changed = provenance.with_replaced("stem.weight", "point stem", {"stem.weight": (8, 3, 3, 3, 6)})
    record = ParameterRecord("stem.weight", (8, 3, 3, 3), (8, 3, 3, 3, 6), "replaced", "point stem")
    assert changed.report.records == [record, *REPORT.records[1:]]


def test_where_there_is_no_report_none_is_made():
    loaded = Provenance(architecture="resnet18")
    assert loaded.with_replaced("head.", "new classes", nn.Linear(8, 7)) == loaded
    assert loaded.report is None


def test_provenance_cannot_be_assigned_to_and_defaults_are_not_shared(provenance):
    with pytest.raises(dataclasses.FrozenInstanceError):
        provenance.in_chans = 5
    first, second = Provenance(), Provenance()
    assert first == second
    assert first.source is not second.source
    assert first.model_args is not second.model_args
