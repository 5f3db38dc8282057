"""Checkpoint folders: what is saved comes back bit for bit, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import i2p_zoo
from i2p_zoo import CheckpointError, InvalidInputError
from i2p_zoo.checkpoints import weight_files
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.saving import CARD, describe_model, save_pretrained, sha256_of_tensors
from i2p_zoo.zoo.pretrained import build_network
from tests.checkpoints.conftest import NAMES, SOME_CERTIFICATE, assert_same_bits, bits, make_model, outputs
from tests.helpers import random_cloud

MODELS = {
    "image stem": {},
    "image stem, one channel": {"in_chans": 1},
    "image stem, five channels": {"in_chans": 5},
    "point stem": {"stem": "point"},
    "point stem, six channels": {"stem": "point", "in_chans": 6, "features": "xyz,rgb", "voxel_size": 0.2},
    "other classes": {"num_classes": 7},
    "no classifier": {"num_classes": 0},
    "halvings skipped": {"skip_downsamples": 2},
    "point stem, halvings skipped": {"stem": "point", "skip_downsamples": 2},
    "average": {"inflation": "average"},
    "copy along y": {"inflation": "copy", "axis": "y"},
    "along x": {"axis": "x"},
    "flat": {"depth": 1},
    "arguments of timm": {"global_pool": "max", "act_layer": "silu", "drop_rate": 0.2},
    "features": {"features_only": True, "out_indices": (1, 3)},
    "features, point stem": {"features_only": True, "stem": "point"},
    "efficientnet": {"name": "test_efficientnet"},
    "byobnet, point stem": {"name": "test_byobnet", "stem": "point", "num_classes": 5},
}


@pytest.mark.parametrize("kwargs", MODELS.values(), ids=MODELS.keys())
def test_network_comes_back_bit_for_bit_with_its_outputs(tmp_path, kwargs):
    model = make_model(**kwargs)
    assert model.save_pretrained(tmp_path / "net") == tmp_path / "net"
    loaded = load_folder(tmp_path / "net", build_network)
    assert type(loaded) is type(model)
    assert_same_bits(loaded, model)
    assert loaded.settings == model.settings
    assert json.dumps(describe_model(loaded)) == json.dumps(describe_model(model))
    for found, expected in zip(outputs(loaded), outputs(model), strict=True):
        assert torch.equal(found, expected)
    assert bits(save_pretrained(loaded, tmp_path / "again")) == bits(tmp_path / "net")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stem", ["image", "point"])
def test_other_dtypes_come_back_bit_for_bit(tmp_path, dtype, stem):
    model = make_model(stem=stem).to(dtype)
    loaded = load_folder(save_pretrained(model, tmp_path), build_network)
    assert_same_bits(loaded, model)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    # Half precision takes long on a CPU.
    voxels = 60 if dtype == torch.float64 else 5
    assert torch.equal(outputs(loaded, dtype, voxels)[0], outputs(model, dtype, voxels)[0])


def test_network_after_training_steps_comes_back(tmp_path):
    model = make_model(stem="point").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(2):
        model(random_cloud(3, voxels=60, dtype=torch.float32, seed=seed)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.rsplit(".", 1)[-1] for name in changed} >= {"weight", "running_mean", "running_var", "num_batches_tracked"}
    loaded = load_folder(save_pretrained(model, tmp_path), build_network)
    assert model.training
    assert not loaded.training
    assert_same_bits(loaded, model)
    assert torch.equal(outputs(loaded)[0], outputs(model.eval())[0])


def test_frozen_network_comes_back_ready_to_train(tmp_path):
    model = make_model(stem="point")
    i2p_zoo.finetune.freeze(model, "io+bn")
    assert not all(p.requires_grad for p in model.parameters())
    loaded = load_folder(save_pretrained(model, tmp_path), build_network)
    assert_same_bits(loaded, model)
    assert all(p.requires_grad and p.is_leaf for p in loaded.parameters())
    assert all(m.training for m in loaded.train().modules())


def test_tied_transposed_and_gradient_bearing_weights_are_saved_by_value(tmp_path):
    model = make_model()
    model.fc.weight = nn.Parameter(torch.randn(model.fc.in_features, 10).t())
    model.layer2[0].bn1.bias = model.layer2[0].bn1.weight
    model(random_cloud(3, dtype=torch.float32)).sum().backward()
    loaded = load_folder(save_pretrained(model, tmp_path), build_network)
    assert_same_bits(loaded, model)
    assert loaded.layer2[0].bn1.bias is not loaded.layer2[0].bn1.weight


def test_source_and_certificate_come_back(tmp_path):
    model = make_model()
    model.source = {"repo": "timm/net", "commit": "0" * 40, "sha256": "1" * 64, "license": "mit"}
    loaded = load_folder(save_pretrained(model, tmp_path, certificate=SOME_CERTIFICATE), build_network)
    noted = loaded.source["certificate"]
    assert noted == {**SOME_CERTIFICATE.to_dict(), "tensors": noted["tensors"], "finetuned": False}
    assert loaded.source == {**model.source, "certificate": noted}
    config = json.loads((save_pretrained(loaded, tmp_path / "again") / CONFIG).read_text())
    assert config["i2p"]["source"] == model.source
    assert config["i2p"]["certificate"] == noted


def noted(folder):
    """Whether a checkpoint's certificate is that of the network it was finetuned from, by its config and by its card."""
    certificate = json.loads((folder / CONFIG).read_text())["i2p"]["certificate"]
    assert certificate["finetuned"] == ("(of the network it was finetuned from)" in (folder / CARD).read_text())
    return certificate["finetuned"]


@torch.no_grad()
def test_certificate_is_told_to_be_of_another_network_once_the_weights_were_trained(tmp_path):
    model = make_model()
    certified = {**SOME_CERTIFICATE.to_dict(), "inflation": "center", "tensors": sha256_of_tensors(model)}  # as on conversion
    model.source = {"repo": "timm/net", "certificate": certified}
    first = save_pretrained(model, tmp_path / "first")
    assert not noted(first)
    for options in ({"compact": False}, {"max_shard_size": 200_000}):  # other files of the same tensors
        assert not noted(save_pretrained(load_folder(first, build_network), tmp_path / "again", **options))
    assert noted(save_pretrained(i2p_zoo.from_pretrained(first, num_classes=5), tmp_path / "classes"))
    assert noted(save_pretrained(i2p_zoo.from_pretrained(first, skip_downsamples=1), tmp_path / "finer"))
    assert not noted(save_pretrained(i2p_zoo.from_pretrained(first, voxel_size=0.5), tmp_path / "voxels"))
    loaded = i2p_zoo.from_pretrained(first)
    for trained, name in ((model, "in hand"), (loaded, "loaded")):
        trained.fc.bias[0] += 1
        assert noted(save_pretrained(trained, tmp_path / name))
        assert noted(save_pretrained(load_folder(tmp_path / name, build_network), tmp_path / name))
    assert noted(i2p_zoo.save_adapter(loaded, tmp_path / "adapter"))
    assert not noted(save_pretrained(loaded, tmp_path / "measured", certificate=SOME_CERTIFICATE))


def test_weights_of_another_tag_keep_their_preprocessing(tmp_path):
    source = timm.create_model("mobilenetv4_conv_small_050", pretrained=False)
    source.pretrained_cfg = {**source.pretrained_cfg, "tag": "another", "mean": (0.1, 0.2, 0.3), "license": "cc-by-nc-4.0"}
    first = save_pretrained(i2p_zoo.inflate(source), tmp_path / "first")
    written = json.loads((first / CONFIG).read_text())["pretrained_cfg"]
    assert (written["tag"], written["mean"], written["license"]) == ("another", [0.1, 0.2, 0.3], "cc-by-nc-4.0")
    second = save_pretrained(load_folder(first, build_network), tmp_path / "second")
    assert json.loads((second / CONFIG).read_text())["pretrained_cfg"] == written
    assert (second / CARD).read_text() == (first / CARD).read_text()


def test_saving_leaves_the_network_alone(saved, tmp_path):
    model = make_model().train()
    model.source = {"repo": "timm/net", "certificate": SOME_CERTIFICATE.to_dict()}
    before, provenance = describe_model(model), model.provenance
    save_pretrained(model, tmp_path)
    assert model.training
    assert describe_model(model) == before
    assert model.provenance is provenance
    assert_same_bits(model, saved[0])


UNNOTED = {  # arguments that change shapes, keys, or nothing but the function
    "width": {"stem_width": 24},
    "depth": {"layers": (2, 1, 1, 1)},
    "activation": {"act_layer": "silu"},
    "pooling": {"global_pool": "max"},
    "stride": {"output_stride": 16},
}


@pytest.mark.parametrize("kwargs", UNNOTED.values(), ids=UNNOTED.keys())
def test_network_whose_timm_arguments_were_not_noted_is_refused(tmp_path, kwargs):
    model = i2p_zoo.inflate(timm.create_model("test_resnet", **kwargs))
    with pytest.raises(InvalidInputError, match=r"does not rebuild this network.*i2p_zoo\.create_model"):
        save_pretrained(model, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_timm_network_with_its_own_arguments_needs_no_notes(tmp_path):
    model = i2p_zoo.inflate(timm.create_model("test_resnet", num_classes=5, in_chans=2)).eval()
    assert_same_bits(load_folder(save_pretrained(model, tmp_path), build_network), model)


def test_classifier_with_another_pooling_comes_back_or_is_refused(tmp_path):
    model = make_model()
    model.reset_classifier(4, "max")
    try:
        save_pretrained(model, tmp_path)
    except InvalidInputError:
        return
    assert torch.equal(outputs(load_folder(tmp_path, build_network))[0], outputs(model)[0])


def test_mixed_dtypes_are_refused(tmp_path):
    model = make_model()
    model.fc.double()
    with pytest.raises(InvalidInputError, match="dtype"):
        save_pretrained(model, tmp_path / "net")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["layer1.0.conv1.weight", "layer3.0.bn2.running_var"])
def test_values_that_are_not_finite_are_refused(folder, name, value):
    model, before = make_model(), bits(folder)
    model.state_dict()[name].view(-1)[-1] = value
    with pytest.raises(CheckpointError, match=name):
        save_pretrained(model, folder)
    assert bits(folder) == before


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), timm.create_model("test_resnet"), None, {}], ids=type)
def test_other_things_are_refused(tmp_path, thing):
    with pytest.raises(InvalidInputError, match=type(thing).__name__):
        save_pretrained(thing, tmp_path / "net")


def fail_in_call(monkeypatch, owner, name, number, error):
    """Makes the call number `number` of a function raise, and only that one."""
    original, calls = getattr(owner, name), []

    def called(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


def half_write(monkeypatch, error):
    def save(state, path, **kwargs):
        save_file(state, path, **kwargs)
        os.truncate(path, os.path.getsize(path) // 2)
        raise error

    monkeypatch.setattr(weight_files, "save_file", save)


FAULTS = {
    "weights written half": half_write,
    "hidden folder": lambda m, e: fail_in_call(m, Path, "mkdir", 2, e),
    "change": lambda m, e: fail_in_call(m, Path, "rename", 1, e),
    **{f"mode {n}": lambda m, e, n=n: fail_in_call(m, Path, "chmod", n, e) for n in (1, 2, 3)},
    **{f"text {n}": lambda m, e, n=n: fail_in_call(m, Path, "write_text", n, e) for n in (1, 2)},
}
DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [DISK_FULL, KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_old_checkpoint_survives_a_fault(saved, folder, monkeypatch, fault, error):
    with monkeypatch.context() as patch:
        fault(patch, error)
        with pytest.raises(type(error)):
            save_pretrained(saved[0], folder, certificate=SOME_CERTIFICATE)
    assert bits(folder) == bits(saved[1])


@pytest.mark.parametrize("error", [DISK_FULL, KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_new_checkpoint_survives_a_fault_after_the_change(folder, monkeypatch, number, error):
    other = make_model(num_classes=3, seed=1)
    with monkeypatch.context() as patch:
        fail_in_call(patch, os, "replace", number, error)
        with pytest.raises(type(error)):
            save_pretrained(other, folder)
    assert_same_bits(load_folder(folder, build_network), other)
    save_pretrained(other, folder)
    assert set(bits(folder)) == NAMES


@pytest.mark.parametrize("fault", FAULTS)
def test_new_folder_is_left_empty_by_a_fault(saved, tmp_path, monkeypatch, fault):
    with monkeypatch.context() as patch:
        FAULTS[fault](patch, DISK_FULL)
        with pytest.raises(OSError, match="No space"):
            save_pretrained(saved[0], tmp_path / "net")
    assert not (tmp_path / "net").exists() or bits(tmp_path / "net") == {}


def test_file_system_that_refuses_the_weights_raises_oserror(folder):
    before, limits = bits(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    model = make_model(seed=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_pretrained(model, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert bits(folder) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_folder_that_cannot_be_made_raises_oserror(tmp_path, place):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OSError, match="file"):
        save_pretrained(make_model(), tmp_path / place)
    assert (tmp_path / "file").read_text() == "a file"


def test_saving_again_replaces_all_files_and_leaves_others(folder):
    (folder / "notes.txt").write_text("mine")
    other = make_model(num_classes=3, seed=1)
    save_pretrained(other, folder)
    assert {path.name for path in folder.iterdir()} == {*NAMES, ".lock", "notes.txt"}
    assert_same_bits(load_folder(folder, build_network), other)
    assert "| classes | 3 |" in (folder / CARD).read_text()


def test_network_saved_over_the_folder_it_came_from_is_whole(saved, folder):
    loaded = load_folder(folder, build_network)
    save_pretrained(loaded, folder)
    assert bits(folder) == bits(saved[1])
    assert_same_bits(loaded, saved[0])


@pytest.mark.parametrize("text", ["# My own card\n", "", b"\xff\xfe no UTF-8"], ids=["own", "empty", "not UTF-8"])
def test_edited_card_is_kept_and_the_rest_is_saved(folder, text):
    text = text if isinstance(text, bytes) else text.encode()
    (folder / CARD).write_bytes(text)
    other = make_model(num_classes=3, seed=1)
    save_pretrained(other, folder)
    assert (folder / CARD).read_bytes() == text
    assert_same_bits(load_folder(folder, build_network), other)


def test_card_with_notes_at_its_end_is_kept(folder):
    text = (folder / CARD).read_text() + "\n## My notes\n"
    (folder / CARD).write_text(text)
    save_pretrained(make_model(num_classes=3), folder)
    assert (folder / CARD).read_text() == text


def test_missing_card_is_written(folder):
    (folder / CARD).unlink()
    save_pretrained(make_model(num_classes=3), folder)
    assert "| classes | 3 |" in (folder / CARD).read_text()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)], ids=oct)
def test_file_modes_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        folder = save_pretrained(make_model(), tmp_path / "net")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == dict.fromkeys([*NAMES, ".lock"], mode)


def test_network_is_saved_in_the_folder_that_it_was_loaded_from_where_files_in_use_cannot_be_replaced(tmp_path, files_in_use):
    loaded = load_folder(save_pretrained(make_model(stem="point"), tmp_path), build_network)
    with torch.no_grad():
        next(loaded.parameters()).mul_(2)
    assert_same_bits(load_folder(save_pretrained(loaded, tmp_path), build_network), loaded)
