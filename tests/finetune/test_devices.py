"""The device and the precision of a run, on machines with and without GPUs, launched and not."""

from __future__ import annotations

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from i2p_zoo import InvalidInputError
from i2p_zoo.finetune.devices import find_device, make_accelerator, resolve_precision
from tests.finetune.conftest import shapes, state_of, tiny, train

CPU = torch.device("cpu")


@pytest.fixture
def gpus(monkeypatch):
    """Has torch see so many GPUs, of which it can use no bit."""

    def set_up(count, has_bf16=True):
        monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda number: "NVIDIA X1")
        monkeypatch.setattr("torch.cuda.device", lambda device: torch.autograd.profiler.record_function("none"))
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: has_bf16 or including_emulation)

    return set_up


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


FOUND = {
    "auto without a GPU": (0, {}, "auto", "cpu"),
    "auto with one": (1, {}, "auto", "cuda"),
    "the CPU though there is a GPU": (1, {}, "cpu", "cpu"),
    "the first": (2, {}, "cuda", "cuda"),
    "one of several": (2, {}, "cuda:1", "cuda:1"),
    "auto in a launched process": (2, {"LOCAL_RANK": "1"}, "auto", "cuda:1"),
    "the sort of device that the launcher chose": (2, {"LOCAL_RANK": "1"}, "cuda", "cuda:1"),
    "more processes than GPUs": (2, {"LOCAL_RANK": "3"}, "auto", "cuda:1"),
    "launched on the CPU by --cpu": (1, {"ACCELERATE_USE_CPU": "true"}, "auto", "cpu"),
    "torchrun without a GPU": (0, {"LOCAL_RANK": "1"}, "auto", "cpu"),
    "launched as before, the CPU not forced": (1, {"ACCELERATE_USE_CPU": "False"}, "auto", "cuda"),
}


@pytest.mark.parametrize(("count", "environment", "name", "expected"), FOUND.values(), ids=FOUND)
def test_a_word_names_a_device(gpus, monkeypatch, count, environment, name, expected):
    gpus(count)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert find_device(name) == torch.device(expected)


REFUSED = {
    "no GPU": (0, {}, "cuda", r"There is no device cuda: torch has cpu\. This torch \(.*\) is built for "),
    "a number too many": (2, {}, "cuda:2", r"no device cuda:2: torch has cpu, cuda:0 \(NVIDIA X1\) and cuda:1 \(NVIDIA X1\)\."),
    "another word": (1, {}, "gpu", r"must be 'auto', 'cpu', 'cuda' or 'cuda:0' and so on; got 'gpu'"),
    "no number": (1, {}, "cuda:", "got 'cuda:'"),
    "another than launched": (2, {"LOCAL_RANK": "0"}, "cuda:1", r"cuda:1 contradicts `accelerate launch`, .* cuda:0\. Leave"),
    "the CPU in a process for a GPU": (2, {"LOCAL_RANK": "0"}, "cpu", r"cpu contradicts `accelerate launch`.*`--cpu`"),
    "a GPU in a process for the CPU": (2, {"ACCELERATE_USE_CPU": "1"}, "cuda", r"cuda contradicts `accelerate launch`"),
}


@pytest.mark.parametrize(("count", "environment", "name", "words"), REFUSED.values(), ids=REFUSED)
def test_a_device_that_is_not_there_or_not_launched_is_refused(gpus, monkeypatch, count, environment, name, words):
    gpus(count)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(InvalidInputError, match=words):
        find_device(name)


PRECISIONS = {
    "on a CPU": ("auto", "cpu", True, None, "no"),
    "on a GPU": ("auto", "cuda:1", True, None, "bf16"),
    "on a GPU that would emulate it": ("auto", "cuda", False, None, "no"),
    "launched with one": ("auto", "cpu", True, "fp16", "fp16"),
    "launched without one": ("auto", "cuda", True, "no", "bf16"),
    "none, whatever was launched": ("no", "cuda", True, "bf16", "no"),
    "asked for": ("bf16", "cpu", True, None, "bf16"),
}


@pytest.mark.parametrize(("precision", "device", "has_bf16", "launched", "expected"), PRECISIONS.values(), ids=PRECISIONS)
def test_a_precision_follows_the_device(gpus, monkeypatch, precision, device, has_bf16, launched, expected):
    gpus(2, has_bf16)
    if launched is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert resolve_precision(precision, torch.device(device)) == expected


def test_a_later_run_in_the_process_has_its_own_device_and_precision():
    for precision in ("no", "bf16", "no"):
        accelerator = make_accelerator(precision, CPU)
        assert (accelerator.device.type, accelerator.mixed_precision) == ("cpu", precision)
    for state in (AcceleratorState, PartialState):
        state._shared_state["device"] = torch.device("cuda")  # as a run on a GPU leaves them
    assert make_accelerator("no", CPU).device.type == "cpu"


class FirstStepError(Exception):
    """Ends a run before it."""


@pytest.fixture
def moves(monkeypatch):
    """Notes where networks are sent, which stay, and ends their runs there."""
    seen = []

    def note(module, device):
        seen.append(str(device))
        raise FirstStepError

    monkeypatch.setattr("torch.nn.Module.to", note)
    monkeypatch.setattr("accelerate.state.PartialState.default_device", torch.device("cuda"))
    return seen


def test_a_network_on_the_cpu_goes_to_the_gpu_and_one_that_is_told_to_stays(gpus, moves):
    model = tiny()
    gpus(1)
    with pytest.raises(FirstStepError):
        train(model, shapes())
    with pytest.raises(FirstStepError):
        train(model, shapes(), device="cpu")
    assert moves == ["cuda", "cpu"]


def test_a_network_that_is_on_a_device_stays_there(gpus, moves, monkeypatch):
    model = tiny()
    gpus(2)
    monkeypatch.setattr(torch.nn.Parameter, "device", torch.device("cuda:1"), raising=False)
    with pytest.raises(FirstStepError):
        train(model, shapes())
    assert moves == ["cuda:1"]


def test_a_device_and_an_accelerator_of_another_are_refused_before_anything_changes(gpus):
    model = tiny()
    before = state_of(model)
    accelerator = make_accelerator("no", CPU)
    gpus(1)
    with pytest.raises(InvalidInputError, match="The device is cuda, the accelerator's cpu"):
        train(model, shapes(), device="cuda", accelerator=accelerator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training


def test_the_precision_that_auto_was_is_what_a_state_holds(tmp_path):
    train(tiny(), shapes(), folder=tmp_path, steps=2)
    assert '"precision": "no"' in (tmp_path / "training.json").read_text()
    assert len(train(tiny(), shapes(), folder=tmp_path, steps=2, resume=True, precision="no").steps) == 2
    with pytest.raises(InvalidInputError, match="precision was 'no' and is 'bf16'"):
        train(tiny(), shapes(), folder=tmp_path, steps=2, resume=True, precision="bf16")
