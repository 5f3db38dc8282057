"""The report: each tensor of a network once, by the rule that made it."""

from __future__ import annotations

import json
from math import prod

import pytest
import timm
from torch import nn

from i2p_zoo import InflationReport, create_model, inflate
from i2p_zoo.inflation.report import RULES, ParameterRecord
from i2p_zoo.networks.models import Adaptation, adapt_

EXAMPLE = InflationReport(
    [
        ParameterRecord("stem.weight", (8, 3, 3, 3), (8, 3, 3, 3, 3), "inflated", "center"),
        ParameterRecord("stem.bias", (8,), (8,), "copied"),
        ParameterRecord("norm.num_batches_tracked", (), (), "copied"),
        ParameterRecord("head.weight", (5, 8), None, "dropped", "no classifier"),
        ParameterRecord("new.weight", None, (2, 8), "replaced", "new head"),
    ]
)


def rules(report):
    return {record.key: (record.rule, record.reason) for record in report.records}


def live_keys(report):
    return [record.key for record in report.records if record.rule != "dropped"]


def check_describes(model):
    """Each tensor of the state dict is in the report exactly once, with the shape it has."""
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    live = [record for record in model.report.records if record.rule != "dropped"]
    assert sorted(record.key for record in live) == sorted(shapes)
    assert {record.key: record.shape_3d for record in live} == shapes
    everything = [record.key for record in model.report.records]
    assert len(everything) == len(set(everything))


def test_counts_and_sizes_are_by_rule():
    assert EXAMPLE.counts() == {"copied": 2, "inflated": 1, "replaced": 1, "dropped": 1}
    assert EXAMPLE.sizes() == {"copied": 8 + 1, "inflated": 8 * 27 * 3, "replaced": 16, "dropped": 40}


def test_empty_report_has_zero_counts_and_no_lines():
    empty = InflationReport([])
    assert empty.counts() == empty.sizes() == dict.fromkeys(RULES, 0)
    assert (empty.summary(), empty.table()) == ("", "")


def test_dict_is_json_with_a_record_a_tensor():
    found = json.loads(json.dumps(EXAMPLE.to_dict()))
    assert found.keys() == {"counts", "sizes", "totals", "parameters"}
    assert found["totals"] == {
        "tensors_2d": 4,
        "values_2d": 8 * 9 * 3 + 8 + 1 + 40,
        "tensors_3d": 4,
        "values_3d": 648 + 8 + 1 + 16,
    }
    assert found["counts"]["inflated"] == 1
    assert found["sizes"]["inflated"] == 648
    assert found["parameters"][0] == {
        "key": "stem.weight",
        "shape_2d": [8, 3, 3, 3],
        "shape_3d": [8, 3, 3, 3, 3],
        "rule": "inflated",
        "reason": "center",
    }
    assert [record["shape_3d"] for record in found["parameters"]][3] is None


def test_table_has_a_line_a_tensor_in_order():
    lines = [line.split() for line in EXAMPLE.table().splitlines()]
    assert lines == [
        ["stem.weight", "8x3x3x3", "->", "8x3x3x3x3", "inflated", "center"],
        ["stem.bias", "8", "->", "8", "copied"],
        ["norm.num_batches_tracked", "scalar", "->", "scalar", "copied"],
        ["head.weight", "5x8", "->", "-", "dropped", "no", "classifier"],
        ["new.weight", "-", "->", "2x8", "replaced", "new", "head"],
    ]
    assert len({line.index("->") for line in EXAMPLE.table().splitlines()}) == 1, "columns are aligned"
    assert not any(line.endswith(" ") for line in EXAMPLE.table().splitlines())


def test_summary_has_a_line_for_each_rule_in_use():
    lines = [line.replace(",", "").split() for line in EXAMPLE.summary().splitlines()]
    assert lines == [
        ["copied:", "2", "tensors", "9", "values"],
        ["inflated:", "1", "tensors", "648", "values"],
        ["replaced:", "1", "tensors", "16", "values"],
        ["dropped:", "1", "tensors", "40", "values"],
        ["total:", "4", "tensors", "673", "values", "from", "4", "with", "265", "in", "2D"],
    ]
    assert "dropped" not in InflationReport(EXAMPLE.records[:3]).summary()


def test_changed_replaces_drops_and_adds_under_a_prefix_and_leaves_the_rest():
    report = EXAMPLE.changed("stem.", "replaced", "point stem", {"stem.weight": (8, 3, 3, 3, 6), "stem.gain": (8,)})
    assert rules(report) == {
        "stem.weight": ("replaced", "point stem"),
        "stem.bias": ("dropped", "point stem"),
        "norm.num_batches_tracked": ("copied", ""),
        "head.weight": ("dropped", "no classifier"),
        "new.weight": ("replaced", "new head"),
        "stem.gain": ("replaced", "point stem"),
    }
    shapes = {record.key: (record.shape_2d, record.shape_3d) for record in report.records}
    assert shapes["stem.weight"] == ((8, 3, 3, 3), (8, 3, 3, 3, 6))
    assert shapes["stem.bias"] == ((8,), None)
    assert shapes["stem.gain"] == (None, (8,))
    assert rules(EXAMPLE)["stem.weight"] == ("inflated", "center"), "the report it was called on stays as it is"


def test_changed_by_a_full_name_leaves_a_longer_name_that_begins_alike():
    report = InflationReport(
        [ParameterRecord("a.weight", (1,), (1,), "copied"), ParameterRecord("a.weight_mask", (1,), (1,), "copied")]
    )
    report = report.changed("a.weight", "replaced", "new", {"a.weight": (2,)})
    assert rules(report) == {"a.weight": ("replaced", "new"), "a.weight_mask": ("copied", "")}


def test_dropped_tensor_that_comes_back_is_listed_once():
    report = EXAMPLE.changed("head.weight", "replaced", "new classifier", {"head.weight": (7, 8)})
    assert rules(report)["head.weight"] == ("replaced", "new classifier")
    assert live_keys(report).count("head.weight") == 1


@pytest.mark.parametrize("inflation", ["center", "average", "copy"])
@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050", "dla34"])
def test_inflated_network_is_described_tensor_by_tensor(name, inflation):
    model = timm.create_model(name)
    net = inflate(model, inflation)
    check_describes(net)
    assert live_keys(net.report) == list(model.state_dict()), "in the order of the state dict"
    convolutions = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    state = model.state_dict()
    for record in net.report.records:
        expected = ("inflated", inflation) if record.key in convolutions else ("copied", "")
        assert (record.rule, record.reason) == expected
        assert record.shape_2d == tuple(state[record.key].shape)
    counts, sizes = net.report.counts(), net.report.sizes()
    assert (counts["inflated"], sum(counts.values())) == (len(convolutions), len(state))
    assert sum(sizes.values()) == sum(value.numel() for value in net.state_dict().values())
    assert sizes["copied"] == sum(prod(value.shape) for key, value in state.items() if key not in convolutions)


@pytest.mark.parametrize("in_chans", [1, 3, 6])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "resnet10t"])
def test_point_stem_is_reported_as_replaced(name, in_chans):
    net = create_model(name, stem="point", in_chans=in_chans)
    check_describes(net)
    replaced = [record for record in net.report.records if record.rule == "replaced"]
    assert replaced
    assert {record.reason for record in replaced} == {"point stem"}
    first = [record.shape_3d for record in replaced if len(record.shape_3d) == 5]
    assert {shape[1:4] for shape in first} <= {(3, 3, 3), (1, 1, 1)}
    assert {shape[4] for shape in first} == {in_chans}
    assert {len(record.shape_2d) for record in replaced if len(record.shape_3d) == 5} == {4}


def test_image_stem_adapted_to_other_channels_is_reported_as_replaced():
    source = timm.create_model("test_resnet")
    net = create_model("test_resnet")
    adapt_(net, Adaptation(in_chans=5), lambda: source)
    check_describes(net)
    assert {key: rule for key, (rule, _) in rules(net.report).items() if rule == "replaced"} == {"conv1.0.weight": "replaced"}
    assert "5 channels" in rules(net.report)["conv1.0.weight"][1]


@pytest.mark.parametrize("stem", ["image", "point"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "dla34", "dpn48b"])
def test_new_classifier_is_reported_as_replaced_and_a_removed_one_as_dropped(name, stem):
    net = create_model(name, stem=stem)
    before = rules(net.report)
    head = {key for key in net.state_dict() if key.startswith(f"{net.pretrained_cfg['classifier']}.")}
    assert head
    for classes, rule in ((7, "replaced"), (0, "dropped"), (5, "replaced"), (9, "replaced")):
        net.reset_classifier(classes)
        check_describes(net)
        after = rules(net.report)
        assert {after[key] for key in head} == {(rule, f"classifier of {classes} classes")}
        assert {key: value for key, value in after.items() if key not in head} == {
            key: value for key, value in before.items() if key not in head
        }


def test_classifier_reset_many_times_is_reported_each_time():
    # A new tensor may stand at the memory address of the old one, which must not make it pass for the old one.
    net = create_model("test_resnet", num_classes=2)
    conv = create_model("dla34", num_classes=2)
    for classes in range(3, 23):
        for model in (net, conv):
            model.reset_classifier(classes)
            new = {record.key for record in model.report.records if record.reason == f"classifier of {classes} classes"}
            assert new == {"fc.weight", "fc.bias"}
            assert model.get_parameter("fc.bias").shape == (classes,)


def test_a_report_is_printed_in_one_line():
    assert repr(inflate(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))).report) == (
        "InflationReport(7 tensors: 6 copied, 1 inflated)"
    )
    assert repr(InflationReport([])) == "InflationReport(0 tensors)"
