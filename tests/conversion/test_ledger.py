"""The workshop's ledger: what is recorded of an architecture, and that a run is taken up where it stood."""

from __future__ import annotations

import json
import multiprocessing
import threading
from concurrent.futures.process import BrokenProcessPool

import pytest
import timm
from click.testing import CliRunner
from torch import nn

from conversion import __main__ as workshop
from conversion import ledger
from conversion.ledger import MEMORY, MemoryBudget, archetype, measure, measure_responses, peak_memory, reason, update_ledger
from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.networks.timm_models import example_images
from i2p_zoo.zoo.certificate import TOLERANCES
from tests.helpers import random_cloud


def test_certified_architecture_is_recorded_with_its_figures():
    record = measure("test_resnet")
    source = timm.create_model("test_resnet")
    tensors = source.state_dict()
    assert record["class"] == "ResNet"
    assert record["parameters"] == sum(p.numel() for p in source.parameters())
    assert record["inflated"] == sum(t.ndim == 4 for t in tensors.values())
    assert record["copied"] == sum(t.ndim != 4 for t in tensors.values())
    assert (record["mapped"], record["unmapped"]) == (len(tensors), 0)
    assert record["seen"] == sum(t.is_floating_point() for t in tensors.values())
    assert record["unseen"] == []
    assert record["images"] == [1, 3, 128, 128]
    assert 0 < record["float64"] <= TOLERANCES["float64"]
    assert 0 < record["float32"] <= TOLERANCES["float32"]
    assert record["passed"] is True


def test_network_of_tokens_is_certified_at_its_own_size_and_tells_positions_apart():
    record = measure("vit_tiny_patch16_224")
    assert (record["images"], record["unmapped"], record["unseen"]) == ([1, 3, 224, 224], 0, [])
    assert record["float64"] <= TOLERANCES["float64"]
    assert record["float32"] <= TOLERANCES["float32"]
    assert min(record["response"], record["shift"]) > 1e-2
    assert record["passed"] is True
    assert "cut" not in record


def test_network_of_tokens_that_takes_any_size_is_measured_at_its_own():
    assert measure("mobilevit_xxs")["images"] == [1, 3, 256, 256]


@pytest.mark.parametrize("name", ["efficientvit_m0", "vit_tiny_patch16_224"])
def test_records_are_the_same_each_time(name):
    first, second = measure(name), measure(name)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_convolutional_network_that_forgets_images_is_measured_with_centred_statistics(monkeypatch):
    forgets = measure("test_resnet")
    monkeypatch.setattr(ledger, "LEAST_RESPONSE", 2 * forgets["response"])
    centred = measure("test_resnet")
    assert centred["response"] > forgets["response"]
    assert centred["passed"] is True


def test_refused_architecture_is_recorded_with_the_first_line_of_the_reason(monkeypatch):
    def refuse(name):
        raise UnsupportedError("no meaning on sites:\n  and more")

    monkeypatch.setattr(ledger, "create_random_model", refuse)
    record = measure("test_resnet")
    assert "passed" not in record
    assert record["refused"] == "no meaning on sites"


def test_response_and_shift_tell_how_far_images_and_their_places_move_the_outputs():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4, bias=False))
    images = example_images(linear)
    assert min(measure_responses(linear, images).values()) > 0.5
    constant = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    responses = measure_responses(constant, images)
    assert responses["response"] > 1e-3
    assert responses["shift"] < 1e-5
    nn.init.zeros_(constant[0].weight)
    assert measure_responses(constant, images) == {"response": 0, "shift": 0}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet50"])
def test_network_that_does_not_fit_is_cut_and_marked(monkeypatch, name):
    whole = timm.create_model(name)
    monkeypatch.setattr(ledger, "MEMORY", 1000)
    record = measure(name)
    assert record["cut"] is True
    assert record["parameters"] == sum(p.numel() for p in whole.parameters())
    assert record["mapped"] < len(whole.state_dict())
    assert record["float64"] <= TOLERANCES["float64"]
    assert record["passed"] is True


def test_peak_memory_counts_both_networks_and_a_copy_of_the_larger():
    source = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False))
    assert peak_memory(source) == 4 * (54 + 162) + 8 * 162


def test_memory_is_shared_and_who_wants_more_than_is_free_waits():
    memory = MemoryBudget(10, multiprocessing.get_context("spawn"))
    order = []

    def work(name, size):
        with memory.reserve(size):
            order.append(name)

    with memory.reserve(7):
        large, small = (threading.Thread(target=work, args=a) for a in (("large", 99), ("small", 3)))
        large.start()
        small.start()
        small.join(timeout=60)
        assert order == ["small"]
    large.join(timeout=60)
    assert order == ["small", "large"]
    with pytest.raises(KeyError), memory.reserve(10):
        raise KeyError
    with memory.reserve(10):
        pass


REASONS = {
    "two lines": (UnsupportedError("no layer:\n  and more"), "no layer"),
    "a tensor": (UnsupportedError(f"`f` of {random_cloud(3)!r} by 2"), "`f` of a sparse tensor by 2"),
    "not ours": (KeyError("x"), "KeyError: 'x'"),
}


@pytest.mark.parametrize(("error", "text"), REASONS.values(), ids=REASONS.keys())
def test_reason_is_the_first_line_without_figures(error, text):
    assert reason(error) == text


def test_small_images_that_have_no_counterpart_give_way_to_those_of_timm(monkeypatch):
    monkeypatch.setattr(ledger, "create_random_model", lambda name: timm.create_model("vgg11_bn", mlp_ratio=0.01).eval())
    record = measure("vgg11_bn")
    assert record["images"] == [1, 3, 224, 224]
    assert record["passed"] is True


def test_an_unforeseen_error_is_recorded_as_a_failure(monkeypatch):
    def broken(name):
        raise KeyError("layer")

    monkeypatch.setattr(ledger, "create_random_model", broken)
    record = measure("test_resnet")
    assert record["passed"] is False
    assert record["error"] == "KeyError: 'layer'"


def test_archetype_tells_structures_apart_and_sizes_not():
    names = {name: archetype(timm.create_model(name)) for name in ("resnet18", "resnet34", "resnetblur18", "test_efficientnet")}
    assert names["resnet18"] == names["resnet34"]
    assert len(set(names.values())) == 3


@pytest.fixture
def measured(monkeypatch):
    """The names measured; `measure` is replaced, so that no process starts."""
    names = []

    def measure_all(unmeasured, processes, memory):
        for name in unmeasured:
            if name == "broken":
                raise OSError("the machine went down")
            if name == "too large":
                raise BrokenProcessPool
            names.append(name)
            yield name, {"passed": True, "number": len(names)}

    monkeypatch.setattr(ledger, "_measure_all", measure_all)
    return names


def test_interrupted_run_is_taken_up_where_it_stood(tmp_path, measured):
    path = tmp_path / "zoo.json"
    with pytest.raises(OSError, match="went down"):
        update_ledger(["b", "a", "broken", "c"], path)
    assert list(json.loads(path.read_text())["models"]) == ["a", "b"]
    update_ledger(["a", "b", "c"], path)
    assert measured == ["b", "a", "c"]
    assert list(json.loads(path.read_text())["models"]) == ["a", "b", "c"]
    assert [p.name for p in tmp_path.iterdir()] == ["zoo.json"]


def test_a_process_that_the_system_ends_is_told_in_one_sentence_and_the_rest_is_kept(tmp_path, measured):
    path = tmp_path / "zoo.json"
    with pytest.raises(InvalidInputError, match=r"2 of them shared memory=20 GiB.*keeps what was measured.*--memory"):
        update_ledger(["a", "too large", "b"], path)
    assert list(json.loads(path.read_text())["models"]) == ["a"]


def test_fresh_measures_again_and_keeps_the_rest(tmp_path, measured):
    path = tmp_path / "zoo.json"
    update_ledger(["a", "b"], path)
    found = update_ledger(["a"], path, fresh=True)
    assert {name: r["number"] for name, r in found["models"].items()} == {"a": 3, "b": 2}


def test_ledger_of_another_timm_is_begun_anew_for_every_architecture_alone(tmp_path, measured):
    path = tmp_path / "zoo.json"
    path.write_text(text := json.dumps({"timm": "0.0.1", "models": {"old": {"passed": True}}}))
    with pytest.raises(InvalidInputError, match=rf"1 architecture of timm '0\.0\.1', and timm '{timm.__version__}'.*--all"):
        update_ledger(["a"], path, fresh=True)
    assert (path.read_text(), measured) == (text, [])
    assert update_ledger(["a"], path, everything=True) == {
        "timm": timm.__version__,
        "models": {"a": {"passed": True, "number": 1}},
    }


def test_processes_measure_side_by_side(tmp_path):
    found = update_ledger(["test_resnet", "test_vit"], tmp_path / "zoo.json", processes=2)
    assert found["models"]["test_resnet"]["passed"] is True
    assert found["models"]["test_vit"]["passed"] is True


@pytest.fixture
def asked(monkeypatch):
    """What the command hands on; nothing is measured or written."""
    found = []
    record = {"timm": timm.__version__, "models": {}}
    monkeypatch.setattr(workshop, "update_ledger", lambda names, **options: found.append((names, options)) or record)
    monkeypatch.setattr(workshop, "write_facts", lambda names: None)
    return found


@pytest.mark.parametrize(("arguments", "everything"), [(["resnet18"], False), (["--all"], True)])
def test_command_begins_anew_with_all_alone(asked, arguments, everything):
    assert CliRunner().invoke(workshop.main, ["certify", *arguments]).exit_code == 0
    ((names, options),) = asked
    assert names == (timm.list_models() if everything else ["resnet18"])
    assert options == {"processes": 2, "memory": MEMORY, "fresh": False, "everything": everything}


@pytest.mark.parametrize("error", [InvalidInputError("two\nlines"), OSError("two\nlines")], ids=["ours", "the system's"])
def test_command_tells_an_error_in_one_line(monkeypatch, error):
    def broken(names, **options):
        raise error

    monkeypatch.setattr(workshop, "update_ledger", broken)
    result = CliRunner().invoke(workshop.main, ["certify", "resnet18"])
    assert (result.exit_code, result.stderr) == (2, "python -m conversion: two lines\n")
    result = CliRunner().invoke(workshop.main, ["--debug", "certify", "resnet18"])
    assert "Traceback (most recent call last)" in result.stderr


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_command_ends_with_an_error_where_a_certificate_does_not_hold(monkeypatch, passed, code):
    written = []

    def update(names, **options):
        return {"timm": timm.__version__, "models": {"resnet18": {"passed": passed}, "vit": {"refused": "why"}}}

    monkeypatch.setattr(workshop, "update_ledger", update)
    monkeypatch.setattr(workshop, "write_facts", lambda names: written.append(list(names)))
    result = CliRunner().invoke(workshop.main, ["certify", "resnet1?"])
    assert result.exit_code == code
    assert written == [["resnet18"] if passed else []]
    assert ("resnet18" in result.stderr) is not passed


def test_pattern_that_matches_nothing_is_a_usage_error():
    result = CliRunner().invoke(workshop.main, ["certify", "no_such_*"])
    assert result.exit_code == 2
    assert "no_such_*" in result.stderr
