"""Saving what a user changed by torch's and timm's own tools: it comes back as it was, or is refused with a way out."""

from __future__ import annotations

import collections
import copy
import json
import re

import pytest
import timm
import torch
from timm.layers import FrozenBatchNormAct2d, convert_sync_batchnorm, freeze_batch_norm_2d
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torchvision.ops import FrozenBatchNorm2d

import i2p_zoo
from i2p_zoo import CheckpointError, InvalidInputError
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.finetune import freeze
from i2p_zoo.segmentation.pretrained_unet import create_unet
from tests.checkpoints.conftest import edit_config
from tests.helpers import random_cloud, randomise_norms_

FEATURES = {"test_resnet": 96, "test_efficientnet": 256}


def make(name="test_resnet", **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomise_norms_(i2p_zoo.create_model(name, **{"num_classes": 10, **kwargs})).eval()


@torch.no_grad()
def logits(model):
    return model.eval()(random_cloud(3, voxels=60, dtype=torch.float32))


def saved_and_loaded(model, folder):
    i2p_zoo.save_pretrained(model, folder)
    return i2p_zoo.from_pretrained(folder)


def with_head(head, name="test_resnet"):
    model = make(name)
    setattr(model, "fc" if name == "test_resnet" else "classifier", head)
    return model


HEADS = {
    "wider": (lambda width: nn.Linear(width, 14), 14),
    "narrower": (lambda width: nn.Linear(width, 2), 2),
    "no bias": (lambda width: nn.Linear(width, 4, bias=False), 4),
    "none": (lambda width: nn.Identity(), 0),
    "dropout": (lambda width: nn.Sequential(nn.Dropout(0.3), nn.Linear(width, 4)), 4),
    "two layers": (lambda width: nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3)), 3),
    "by names": (
        lambda width: nn.Sequential(
            collections.OrderedDict(norm=nn.LayerNorm(width), act=nn.GELU("tanh"), out=nn.Linear(width, 6))
        ),
        6,
    ),
    "in itself": (lambda width: nn.Sequential(nn.Sequential(nn.Linear(width, 5), nn.LeakyReLU(0.3)), nn.Linear(5, 2)), 2),
}


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize(("make_head", "classes"), HEADS.values(), ids=HEADS.keys())
def test_head_of_torchs_layers_comes_back(tmp_path, make_head, classes, name):
    model = with_head(make_head(FEATURES[name]), name)
    loaded = saved_and_loaded(model, tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.num_classes == classes
    assert repr(loaded.get_classifier()) == repr(model.get_classifier()) or classes == 0
    assert torch.equal(logits(saved_and_loaded(loaded, tmp_path / "again")), logits(model))
    assert i2p_zoo.from_pretrained(tmp_path, num_classes=7)(random_cloud(3, dtype=torch.float32)).shape == (2, 7)


def test_names_of_other_classes_are_not_those_of_a_new_head(tmp_path):
    model = make(num_classes=2)
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": ["cat", "dog"]}
    assert saved_and_loaded(model, tmp_path / "two").pretrained_cfg["label_names"] == ("cat", "dog")
    model.fc = nn.Linear(96, 3)
    assert "label_names" not in json.loads((model.save_pretrained(tmp_path / "three") / CONFIG).read_text())["pretrained_cfg"]


def test_network_that_was_changed_is_copied_and_saved_as_an_adapter(tmp_path):
    make().save_pretrained(tmp_path / "base")
    model = i2p_zoo.from_pretrained(tmp_path / "base")
    model.fc = nn.Sequential(nn.Dropout(0.3), nn.Linear(96, 4))
    freeze(model, "head")
    twin = copy.deepcopy(model)
    again = i2p_zoo.from_pretrained(i2p_zoo.save_adapter(twin, tmp_path / "adapter"))
    assert torch.equal(logits(again), logits(model))


class Frozen:
    @staticmethod
    def by_timms_freeze(model):
        timm.utils.freeze(model)

    @staticmethod
    def one_stage(model):
        timm.utils.freeze(model, ["layer1" if hasattr(model, "layer1") else "blocks.1"])

    @staticmethod
    def by_the_layers_function(model):
        freeze_batch_norm_2d(model)


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("apply", [Frozen.by_timms_freeze, Frozen.one_stage, Frozen.by_the_layers_function])
def test_normalisation_that_timm_froze_comes_back_frozen(tmp_path, name, apply):
    model = make(name)
    expected = logits(model)
    apply(model)
    frozen = [n for n, m in model.named_modules() if isinstance(m, FrozenBatchNorm2d | FrozenBatchNormAct2d)]
    assert len(frozen) > 1
    loaded = saved_and_loaded(model, tmp_path)
    assert [n for n, m in loaded.named_modules() if isinstance(m, FrozenBatchNorm2d | FrozenBatchNormAct2d)] == frozen
    assert torch.equal(logits(loaded), logits(model))
    assert torch.allclose(logits(loaded), expected, rtol=1e-4, atol=1e-5)
    assert repr(loaded) == repr(model)


@pytest.mark.parametrize(
    ("name", "convert"),
    [
        ("test_resnet", nn.SyncBatchNorm.convert_sync_batchnorm),
        ("test_resnet", convert_sync_batchnorm),
        ("test_efficientnet", convert_sync_batchnorm),
    ],
)
def test_synchronised_normalisation_comes_back_as_the_ordinary_one(tmp_path, name, convert):
    model = make(name)
    expected, plain = logits(model), repr(model)
    loaded = saved_and_loaded(convert(model), tmp_path)
    assert torch.equal(logits(loaded), expected)
    assert repr(loaded) == plain


def test_normalisation_that_lost_its_activation_is_refused_and_the_way_out_works(tmp_path):
    broken = nn.SyncBatchNorm.convert_sync_batchnorm(make("test_efficientnet"))
    with pytest.raises(InvalidInputError, match=r"bn1 is SyncBatchNorm.*activation.*`timm\.layers\.convert_sync_batchnorm`"):
        broken.save_pretrained(tmp_path)
    model = timm.layers.convert_sync_batchnorm(make("test_efficientnet"))
    assert torch.equal(logits(saved_and_loaded(model, tmp_path)), logits(make("test_efficientnet")))


def test_synchronised_normalisation_of_a_head_comes_back_too(tmp_path):
    model = with_head(nn.Sequential(nn.BatchNorm1d(96), nn.Linear(96, 4)))
    expected = logits(model)
    assert torch.equal(logits(saved_and_loaded(nn.SyncBatchNorm.convert_sync_batchnorm(model), tmp_path)), expected)


NUMBERS = {  # what a user sets on a network, and reads there again
    "dropout before the classifier": ("test_resnet", "", "drop_rate", 0.4),
    "dropout in the head": ("test_convnext", "head.drop", "p", 0.4),
    "momentum": ("test_resnet", "bn1", "momentum", 0.01),
    "epsilon": ("test_resnet", "layer1.0.bn1", "eps", 1e-3),
    "epsilon of a standardised weight": ("test_nfnet", "stages.0.0.conv2", "eps", 1e-3),
}


@pytest.mark.parametrize(("name", "place", "attribute", "value"), NUMBERS.values(), ids=NUMBERS.keys())
def test_number_that_was_set_comes_back(tmp_path, name, place, attribute, value):
    model = make(name)
    layer = model.get_submodule(place)
    assert getattr(layer, attribute) != value
    setattr(layer, attribute, value)
    loaded = saved_and_loaded(model, tmp_path)
    assert getattr(loaded.get_submodule(place), attribute) == value
    assert torch.equal(logits(loaded), logits(model))


def test_rate_that_is_asked_for_wins_over_the_one_that_was_set(tmp_path):
    model = make()
    model.drop_rate = 0.4
    model.save_pretrained(tmp_path)
    assert i2p_zoo.from_pretrained(tmp_path, drop_rate=0.1).drop_rate == 0.1


def test_feature_extractor_of_a_changed_network_is_refused_and_the_way_out_works(tmp_path):
    model = make()
    freeze_batch_norm_2d(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match=r"frozen.*`forward_intermediates`"):
        i2p_zoo.from_pretrained(tmp_path, features_only=True)
    x = random_cloud(3, dtype=torch.float32)
    maps = i2p_zoo.from_pretrained(tmp_path).forward_intermediates(x, intermediates_only=True)
    assert len(maps) == 5


def test_unet_with_another_head_and_a_frozen_encoder_comes_back(tmp_path):
    unet = create_unet("test_resnet", 4, pretrained=False, skip_downsamples=2, decoder_channels=(8,)).eval()
    unet.decoder.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))
    timm.utils.freeze(unet.encoder, ["layer1"])
    unet.eval()
    points = [torch.rand(50, 3)]
    loaded = saved_and_loaded(unet, tmp_path)
    assert loaded.num_classes == 3
    with torch.no_grad():
        assert torch.equal(loaded(points), unet(points))


# Wrappers.


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compile": lambda model: torch.compile(model),
    "averaged": torch.optim.swa_utils.AveragedModel,
    "timm's average": timm.utils.ModelEmaV3,
    "DataParallel of the compiled": lambda model: nn.DataParallel(torch.compile(model)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_network_is_saved_from_inside_its_wrapper(tmp_path, wrap):
    model = make()
    assert torch.equal(logits(saved_and_loaded(wrap(model), tmp_path)), logits(model))


class Task(nn.Module):
    """A user's class around the network, as a Lightning module is."""

    def __init__(self, net):
        super().__init__()
        self.net, self.loss = net, nn.CrossEntropyLoss()


def test_users_class_around_a_network_is_told_what_to_save(tmp_path):
    task = Task(make())
    with pytest.raises(InvalidInputError, match=r"got Task.*`model\.net\.save_pretrained\(folder\)`"):
        i2p_zoo.save_pretrained(task, tmp_path)
    model = task
    assert torch.equal(logits(i2p_zoo.from_pretrained(model.net.save_pretrained(tmp_path))), logits(task.net))


# What cannot be told, and the ways out, which are taken from the message.


class OwnHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 96))

    def forward(self, x):
        return torch.nn.functional.normalize(x) @ self.weight.T


def test_users_own_head_is_refused_and_the_way_out_works(tmp_path):
    model = with_head(OwnHead())
    expected = logits(model)
    with pytest.raises(InvalidInputError, match=r"fc is OwnHead.*torch\.save\(model\.fc\.state_dict.*reset_classifier\(0\)"):
        model.save_pretrained(tmp_path / "net")
    assert not (tmp_path / "net").exists()
    torch.save(model.fc.state_dict(), tmp_path / "head.pt")
    model.reset_classifier(0)
    model.save_pretrained(tmp_path / "net")
    loaded = i2p_zoo.from_pretrained(tmp_path / "net")
    loaded.fc = OwnHead()
    loaded.fc.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    assert torch.equal(logits(loaded), expected)


def prune_it(model):
    prune.l1_unstructured(model.layer1[0].conv1, "weight", 0.3)


def old_spectral_norm(model):
    nn.utils.spectral_norm(model.fc)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def old_weight_norm(model):
    nn.utils.weight_norm(model.fc)


MADE_PLAIN = {
    "pruned": prune_it,
    "pruned at random": lambda model: prune.random_structured(model.layer2[0].conv2, "weight", 0.5, dim=0),
    "spectral norm": old_spectral_norm,
    "new spectral norm": lambda model: parametrizations.spectral_norm(model.fc),
    "new weight norm": lambda model: parametrizations.weight_norm(model.layer1[0].conv1),
    "orthogonal": lambda model: parametrizations.orthogonal(model.fc),
    "weight norm": old_weight_norm,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("apply", MADE_PLAIN.values(), ids=MADE_PLAIN.keys())
def test_reparametrised_weight_is_refused_and_the_way_out_works(tmp_path, apply):
    model = make()
    apply(model)
    expected = logits(model)
    with pytest.raises(InvalidInputError, match=r"Make it plain: `torch\.nn\.utils\.") as caught:
        model.save_pretrained(tmp_path)
    call = re.search(r"`(torch\.nn\.utils\.[^`]*)`", str(caught.value))[1]
    eval(call, {"torch": torch, "model": model})  # as a user would, who takes it from the message
    assert not parametrize.is_parametrized(model)
    assert torch.allclose(logits(saved_and_loaded(model, tmp_path)), expected, rtol=1e-5, atol=1e-6)


def test_other_change_is_refused_and_the_way_out_works(tmp_path):
    def changed():
        model = make()
        model.layer4 = nn.Sequential(model.layer4, nn.Dropout2d(0.1))
        return model

    model = changed()
    with torch.no_grad():
        model.fc.weight.add_(1)
    with pytest.raises(InvalidInputError, match=r"layer4.*not.*`torch\.save\(model\.state_dict\(\), file\)`"):
        model.save_pretrained(tmp_path / "net")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    loaded = changed()
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_network_is_refused_in_one_sentence(tmp_path):
    model = torch.ao.quantization.quantize_dynamic(make(), {nn.Linear})
    with pytest.raises(InvalidInputError, match=r"no tensor.*before it is quantised"):
        model.save_pretrained(tmp_path)


# Configs that nobody's `save_pretrained` writes.

DAMAGES = {
    "another key": {"tail": {}},
    "a layer of nobody's": {"head": {"name": "fc", "layers": {"type": "Unfold"}}},
    "arguments of nobody's": {"head": {"name": "fc", "layers": {"type": "Linear", "in_features": 96, "device": "cuda"}}},
    "sizes of nobody's": {
        "head": {"name": "fc", "layers": {"type": "Linear", "in_features": 10**9, "out_features": 2, "bias": True}}
    },
    "no name": {"head": {"layers": {"type": "Identity"}}},
    "a head in no place": {"head": {"name": "nowhere.fc", "layers": {"type": "Identity"}}},
    "frozen convolutions": {"frozen": ["conv1.0"]},
    "a number it has not": {"numbers": {"fc": {"forward": 3}}},
    "text for a number": {"numbers": {"": {"drop_rate": "much"}}},
    "a private one": {"numbers": {"": {"_version": 3}}},
}


@pytest.mark.parametrize("changes", DAMAGES.values(), ids=DAMAGES.keys())
def test_changes_that_are_never_noted_are_refused(tmp_path, changes):
    make().save_pretrained(tmp_path)
    edit_config(tmp_path, "i2p.changes", changes)
    with pytest.raises(CheckpointError, match=CONFIG):
        i2p_zoo.from_pretrained(tmp_path)


def test_head_of_endless_layers_is_refused(tmp_path):
    make().save_pretrained(tmp_path)
    layers = {"type": "Identity"}
    for _ in range(300):
        layers = {"type": "Sequential", "layers": {"0": layers}}
    edit_config(tmp_path, "i2p.changes", {"head": {"name": "fc", "layers": layers}})
    with pytest.raises(CheckpointError, match="more than 100 layers"):
        i2p_zoo.from_pretrained(tmp_path)
