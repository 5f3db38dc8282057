"""A user's own checkpoint, as the programs write it that people train with: prefixes, averages, torchvision's names, faults."""

from __future__ import annotations

import argparse
import re
import weakref
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from click.testing import CliRunner
from safetensors.torch import save
from torch import nn

from i2p_zoo import CheckpointError, NotFoundError, convert, from_pretrained, image_to_plane, inflate
from i2p_zoo.checkpoints.weight_files import sha256_of
from i2p_zoo.cli import main
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.zoo import conversion
from i2p_zoo.zoo.own_files import load_file
from tests.helpers import randomise_norms_, relative_error


def own_network(seed=0, **kwargs):
    return randomise_norms_(timm.create_model("test_resnet", num_classes=7, in_chans=4, **kwargs), seed).eval()


def scripted(model, **more):
    """A checkpoint as timm's training script writes it."""
    return {"epoch": 3, "arch": "test_resnet", "state_dict": model.state_dict(), "metric": 0.5, **more}


FILES = {
    "a state dict": lambda path, model: torch.save(model.state_dict(), path.with_suffix(".pth")),
    "safetensors": lambda path, model: path.with_suffix(".safetensors").write_bytes(save(model.state_dict())),
    "a training checkpoint": lambda path, model: torch.save(scripted(model), path.with_suffix(".pt")),
    "of a compiled network": lambda path, model: torch.save(torch.compile(model).state_dict(), path.with_suffix(".pth")),
    "of several processes": lambda path, model: torch.save(
        {f"module.{key}": tensor for key, tensor in model.state_dict().items()}, path.with_suffix(".bin")
    ),
}


@pytest.mark.parametrize("write", FILES.values(), ids=FILES.keys())
def test_own_checkpoint_is_loaded_with_its_classes_and_channels(tmp_path, write):
    model = own_network()
    write(tmp_path / "mine", model)
    (path,) = tmp_path.iterdir()
    loaded, origin, _ = load_file("test_resnet", path)
    assert {key: origin[key] for key in ("file", "sha256", "license")} == {
        "file": path.name,
        "sha256": sha256_of(path),
        "license": "unknown",
    }
    images = torch.randn(1, 4, 64, 64)
    assert torch.equal(loaded(images), model(images))


def test_averaged_weights_are_taken_where_there_are_some(tmp_path):
    averaged = own_network(seed=1)
    torch.save(scripted(own_network(seed=2), state_dict_ema=averaged.state_dict()), tmp_path / "mine.pth")
    loaded, _, _ = load_file("test_resnet", tmp_path / "mine.pth")
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), averaged.state_dict().values(), strict=True))


def test_own_checkpoint_is_converted_certified_and_found_again_by_its_folder(tmp_path):
    model = own_network()
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    convert("test_resnet", tmp_path / "net", weights=tmp_path / "mine.pth")
    loaded = from_pretrained(tmp_path / "net")
    assert (loaded.num_classes, loaded.in_chans, loaded.source["file"]) == (7, 4, "mine.pth")
    images = torch.randn(1, 4, 64, 64)
    torch.testing.assert_close(loaded(image_to_plane(images)), model(images), rtol=1e-4, atol=1e-5)


def test_one_3d_network_is_held_at_a_time_while_an_average_is_certified_on_its_twin(monkeypatch):
    made = []

    def inflate_alone(*args):
        assert all(network() is None for network in made)
        made.append(weakref.ref(network := inflate(*args)))
        return network

    monkeypatch.setattr(conversion, "inflate", inflate_alone)
    model, certificate = conversion.convert_network(own_network(), {}, "test_resnet", {}, Settings(inflation="average"))
    assert (len(made), made[1]() is model, certificate.passed) == (2, True, True)


class Evil:
    def __reduce__(self):
        return (Path("evil").touch, ())


BROKEN = {
    "no such file": (lambda path: None, NotFoundError, "no such file"),
    "not a checkpoint": (lambda path: path.write_bytes(b"not a checkpoint"), CheckpointError, "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), CheckpointError, "cannot be read"),
    "pickled code": (lambda path: torch.save({"state_dict": Evil()}, path), CheckpointError, "cannot be read"),
    "a list": (lambda path: torch.save([torch.ones(1)], path), CheckpointError, "more than a state dict.*list"),
    "more than tensors": (lambda path: torch.save({"weight": 3}, path), CheckpointError, "more than a state dict"),
    "a missing tensor": (
        lambda path: torch.save({k: t for k, t in own_network().state_dict().items() if k != "fc.bias"}, path),
        CheckpointError,
        r"does not fit timm's test_resnet.*\n.*fc\.bias",
    ),
    "another network": (
        lambda path: torch.save(timm.create_model("test_efficientnet").state_dict(), path),
        CheckpointError,
        "does not fit timm's test_resnet",
    ),
}


@pytest.mark.parametrize(("write", "error", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_checkpoint_that_cannot_be_loaded_is_refused(tmp_path, monkeypatch, write, error, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.pth")
    with pytest.raises(error, match=message):
        load_file("test_resnet", tmp_path / "mine.pth")
    assert not (tmp_path / "evil").exists()


# Other programs' wrappings.


def prefixed(prefix, state):
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def lightning(state, **more):
    """What pytorch_lightning 2.5's `Trainer.save_checkpoint` writes, with a loss that has a weight of its own."""
    return {
        "epoch": 0,
        "global_step": 2,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**state, "criterion.weight": torch.ones(7)},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": None, "best_model_path": "last.ckpt"}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1},
        **more,
    }


WRAPPED = {  # the file's content of a network, and the prefix that is noted
    "Lightning": (lambda model: lightning(prefixed("model.", model.state_dict())), "model."),
    "Lightning, compiled": (lambda model: lightning(prefixed("net._orig_mod.", model.state_dict())), "net._orig_mod."),
    "Lightning, two deep": (lambda model: lightning(prefixed("task.backbone.", model.state_dict())), "task.backbone."),
    "DataParallel": (lambda model: {"model": nn.DataParallel(model).state_dict()}, "module."),
    "averaged by torch": (lambda model: torch.optim.swa_utils.AveragedModel(model).state_dict(), "module."),
    "averaged by timm": (lambda model: timm.utils.ModelEmaV3(model).state_dict(), "module."),
    "averaged beside": (
        lambda model: lightning(
            {**prefixed("model.", own_network(seed=5).state_dict()), **prefixed("ema.", model.state_dict())}
        ),
        "ema.",
    ),
    "a teacher": (
        lambda model: {
            "model": {**prefixed("student.", own_network(5).state_dict()), **prefixed("teacher.", model.state_dict())}
        },
        "teacher.",
    ),
    "accelerate": (lambda model: {"model_state_dict": model.state_dict(), "step": 3}, None),
}


@pytest.mark.parametrize(("wrap", "prefix"), WRAPPED.values(), ids=WRAPPED.keys())
def test_checkpoint_of_another_program_is_loaded(tmp_path, wrap, prefix):
    model = own_network()
    torch.save(wrap(model), tmp_path / "last.ckpt")
    loaded, origin, model_args = load_file("test_resnet", tmp_path / "last.ckpt")
    images = torch.randn(1, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    assert (origin.get("prefix"), model_args) == (prefix, {})


def test_what_is_passed_over_is_said_and_noted(tmp_path):
    body = {key: tensor for key, tensor in own_network().state_dict().items() if not key.startswith("fc.")}
    torch.save({**prefixed("backbone.", body), "head.weight": torch.ones(3, 96)}, tmp_path / "mine.pth")
    command = ["convert", "test_resnet", "--weights", str(tmp_path / "mine.pth"), "--out", str(tmp_path / "net")]
    result = CliRunner().invoke(main, command)
    words = "1 outside 'backbone.', the first head.weight"
    assert f"tensors passed over: {words}\n" in result.output
    model = from_pretrained(tmp_path / "net")
    assert (model.source["passed_over"], model.num_classes) == (words, 0)


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_file_without_a_classifier_is_a_network_without_one(tmp_path, prefix):
    model = own_network()
    body = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("fc.")}
    torch.save(prefixed(prefix, body), tmp_path / "mine.pth")
    loaded, _, _ = load_file("test_resnet", tmp_path / "mine.pth")
    images = torch.randn(1, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), model.forward_head(model.forward_features(images), pre_logits=True))


# torchvision's names.


def torchvision_network(name, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"init_weights": False} if name == "inception_v3" else {}
        return randomise_norms_(torchvision.models.get_model(name, weights=None, num_classes=6, **options, **kwargs)).eval()


FAMILIES = {  # torchvision's network of each family that timm has too, and timm's name
    "resnet18": "resnet18",
    "resnext50_32x4d": "resnext50_32x4d",
    "wide_resnet50_2": "wide_resnet50_2",
    "densenet121": "densenet121",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "mnasnet0_5": "mnasnet_050",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_v2_s": "efficientnetv2_s",
    "regnet_x_400mf": "regnetx_004_tv",
    "regnet_y_400mf": "regnety_004",
    "inception_v3": "inception_v3",
    "convnext_tiny": "convnext_tiny",
}


LARGE = {"wide_resnet50_2", "efficientnet_v2_s", "inception_v3", "convnext_tiny"}  # of more than 20 million parameters


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [pytest.param(*pair, id=pair[0], marks=pytest.mark.long if pair[0] in LARGE else ()) for pair in FAMILIES.items()],
)
def test_torchvisions_names_are_taken_behind_a_prefix_too(tmp_path, theirs, ours):
    model = torchvision_network(theirs)
    torch.save(lightning(prefixed("model.", model.state_dict())), tmp_path / "last.ckpt")
    loaded, origin, _ = load_file(ours, tmp_path / "last.ckpt")
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        assert relative_error(loaded(images), model(images)) < 1e-4
    assert origin.get("names", f"torchvision's {theirs}") == f"torchvision's {theirs}"


def test_torchvisions_network_is_converted_with_its_own_channels_and_epsilon(tmp_path):
    model = torchvision_network("mobilenet_v3_small")
    model.features[0][0] = nn.Conv2d(1, 16, 3, 2, 1, bias=False)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    convert("mobilenetv3_small_100", tmp_path / "net", weights=tmp_path / "mine.pth")
    loaded = from_pretrained(tmp_path / "net")
    assert (loaded.num_classes, loaded.in_chans, loaded.source["names"]) == (6, 1, "torchvision's mobilenet_v3_small")
    images = torch.randn(1, 1, 96, 96)
    with torch.no_grad():
        assert relative_error(loaded(image_to_plane(images)), model(images)) < 1e-4


@pytest.mark.parametrize(("theirs", "head"), [("mobilenet_v3_small", "classifier.3."), ("efficientnet_b0", "classifier.1.")])
def test_torchvisions_network_without_a_classifier_has_none(tmp_path, theirs, head):
    model = torchvision_network(theirs)
    model.classifier[-1] = nn.Identity()
    assert not any(key.startswith(head) for key in model.state_dict())
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    loaded, _, _ = load_file(FAMILIES[theirs], tmp_path / "mine.pth")
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        assert relative_error(loaded(images), model(images)) < 1e-4


def test_inception_without_its_auxiliary_classifier_is_taken(tmp_path):
    model = torchvision_network("inception_v3", aux_logits=False)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    assert load_file("inception_v3", tmp_path / "mine.pth")[0].num_classes == 6


def test_names_that_timms_own_loader_renames_are_taken(tmp_path):
    """The ConvNeXt authors' names, of which timm's `checkpoint_filter_fn` makes its own."""
    model = randomise_norms_(timm.create_model("convnext_atto", num_classes=7)).eval()
    words = {"stem.": "downsample_layers.0.", ".conv_dw.": ".dwconv.", "head.fc.": "head.", "head.norm.": "norm."}
    words |= {".mlp.fc1.": ".pwconv1.", ".mlp.fc2.": ".pwconv2."}
    state = {}
    for key, tensor in model.state_dict().items():
        for word, theirs in words.items():
            key = key.replace(word, theirs)
        key = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", key)
        state[re.sub(r"stages\.(\d)\.blocks\.", r"stages.\1.", key)] = tensor
    torch.save({"model": state}, tmp_path / "mine.pth")
    loaded, origin, _ = load_file("convnext_atto", tmp_path / "mine.pth")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    assert origin["names"] == "another's, renamed by timm"


# Files that do not fit, and what is said of them.


def spoiled(value):
    state = own_network().state_dict()
    state["layer1.0.bn1.weight"][3] = value
    return state


def of_3d():
    return {key: tensor[:, :, None] if tensor.ndim == 4 else tensor for key, tensor in own_network().state_dict().items()}


MISFITS = {
    "NaN": (
        lambda: {"state_dict": spoiled(float("nan"))},
        r"NaN or infinite values in 1 of \d+ tensors.*layer1\.0\.bn1\.weight",
    ),
    "infinite": (lambda: spoiled(float("inf")), r"NaN or infinite.*diverged"),
    "two networks": (
        lambda: {**prefixed("left.", own_network().state_dict()), **prefixed("right.", own_network().state_dict())},
        r"several networks, under 'left\.', 'right\.'",
    ),
    "transformers": (
        lambda: {f"resnet.encoder.stages.0.layers.{n}.layer.0.convolution.weight": torch.ones(4, 4, 3, 3) for n in range(9)},
        "look like those of Hugging Face transformers",
    ),
    "torchvision": (lambda: torchvision_network("mobilenet_v2").state_dict(), "look like those of torchvision"),
    "in three dimensions": (of_3d, "of a 3D network.*three axes"),
    "an optimizer alone": (
        lambda: {"optimizer": {"state": {}}, "epoch": 3},
        r"more than a state dict.*\['epoch', 'optimizer'\]",
    ),
    "no tensors": (dict, "more than a state dict of tensors or none"),
}


@pytest.mark.parametrize(("make", "words"), MISFITS.values(), ids=MISFITS.keys())
def test_file_that_does_not_fit_is_told_by_what_it_is(tmp_path, make, words):
    torch.save(make(), tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match=re.compile(words, re.DOTALL)):
        load_file("test_resnet", tmp_path / "mine.pth")


def test_file_of_another_network_of_the_family_is_named(tmp_path):
    torch.save(prefixed("model.", timm.create_model("resnet34", num_classes=3).state_dict()), tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match=r"96 unknown.*\n.*timm's resnet34"):
        load_file("resnet18", tmp_path / "mine.pth")


def test_lightning_checkpoint_with_objects_is_refused_with_a_way_out(tmp_path):
    content = lightning(prefixed("model.", own_network().state_dict()), hyper_parameters={"options": argparse.Namespace(lr=1)})
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"no code of a file is run.*entry 'state_dict' alone"):
        load_file("test_resnet", tmp_path / "last.ckpt")
    torch.save(torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"], tmp_path / "state.pth")
    assert load_file("test_resnet", tmp_path / "state.pth")[0].num_classes == 7
