"""from_pretrained of a folder: what is kept, what is adapted, what is refused."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import DropPath

import i2p_zoo
from i2p_zoo import CheckpointError, InvalidInputError, NotFoundError
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.saving import save_pretrained
from i2p_zoo.checkpoints.weight_files import WEIGHTS
from i2p_zoo.zoo import pretrained as hub_module
from i2p_zoo.zoo.pretrained import build_network, describe
from tests.conftest import fingerprint
from tests.helpers import random_cloud, randomise_norms_

NAME = "i2p-test_resnet"


def make_model(seed=0, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return randomise_norms_(i2p_zoo.create_model("test_resnet", **kwargs), seed).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pretrained(make_model(), tmp_path_factory.mktemp("folder") / "net@home")


def test_folder_loads_by_path_and_string_also_with_an_at_sign_in_its_name(folder):
    for name in (folder, str(folder), f"{folder}/"):
        assert fingerprint(i2p_zoo.from_pretrained(name)) == fingerprint(make_model())


def test_none_keeps_what_the_folder_holds(tmp_path):
    kwargs = {
        "num_classes": 7,
        "in_chans": 5,
        "stem": "point",
        "skip_downsamples": 2,
        "voxel_size": 0.3,
        "features": "xyz,extra",
    }
    model = make_model(**kwargs)
    loaded = i2p_zoo.from_pretrained(save_pretrained(model, tmp_path))
    assert loaded.settings == model.settings
    assert (loaded.num_classes, loaded.in_chans) == (7, 5)
    assert fingerprint(loaded) == fingerprint(model)


ADAPTATIONS = {  # arguments, and the names of the tensors that may differ from the folder's
    "classes": ({"num_classes": 4}, {"fc.weight", "fc.bias"}),
    "no classifier": ({"num_classes": 0}, {"fc.weight", "fc.bias"}),
    "same classes": ({"num_classes": 1000}, set()),
    "channels": ({"in_chans": 6}, {"conv1.0.weight"}),
    "point stem": ({"stem": "point"}, {"conv1.0.weight"}),
    "point stem, channels": ({"stem": "point", "in_chans": 1}, {"conv1.0.weight"}),
    "settings": ({"skip_downsamples": 2, "voxel_size": 0.2, "features": "rgb"}, set()),
    "everything": (
        {"num_classes": 4, "stem": "point", "in_chans": 6, "skip_downsamples": 3, "features": "xyz,rgb"},
        {"fc.weight", "fc.bias", "conv1.0.weight"},
    ),
}


@pytest.mark.parametrize(("kwargs", "new"), ADAPTATIONS.values(), ids=ADAPTATIONS.keys())
def test_adapting_changes_what_it_must_and_keeps_the_rest_bit_for_bit(folder, tmp_path, kwargs, new):
    loaded, original = i2p_zoo.from_pretrained(folder, **kwargs), make_model()
    assert not loaded.training
    wanted = make_model(**kwargs)  # same structure, other way
    assert {n: t.shape for n, t in loaded.state_dict().items()} == {n: t.shape for n, t in wanted.state_dict().items()}
    assert loaded.settings == wanted.settings
    assert loaded.in_chans == wanted.in_chans
    for name, tensor in loaded.state_dict().items():
        if name not in new:
            assert torch.equal(tensor, original.state_dict()[name]), name
        assert torch.isfinite(tensor).all()
    x = random_cloud(loaded.in_chans, dtype=torch.float32)
    with torch.no_grad():
        again = i2p_zoo.from_pretrained(save_pretrained(loaded, tmp_path))
        assert loaded(x).shape == (2, loaded.num_classes or loaded.num_features)
    assert fingerprint(again) == fingerprint(loaded)


def test_features_only_gives_the_networks_own_feature_maps(folder):
    network = make_model()
    extractor = i2p_zoo.from_pretrained(folder, features_only=True, out_indices=(1, 2, 4))
    x = random_cloud(3, voxels=80, extent=20, dtype=torch.float32)
    with torch.no_grad():
        maps = extractor(x)
        last = network.forward_features(x)
    assert [m.features.shape[1] for m in maps] == extractor.feature_info.channels()
    assert torch.equal(maps[-1].coords, last.coords)
    assert torch.allclose(maps[-1].features, last.features, rtol=1e-5, atol=1e-6)


REFUSED = {  # what is wrong, and words of the message
    "stem": ({"stem": "trunk"}, "'image', 'point' or 'patch'; got 'trunk'"),
    "inflation": ({"inflation": "sideways"}, "center, triangle, average, copy"),
    "skip": ({"skip_downsamples": -1}, "skip_downsamples"),
    "voxel size": ({"voxel_size": 0.0}, "voxel_size"),
    "voxel size NaN": ({"voxel_size": float("nan")}, "voxel_size"),
    "channels": ({"in_chans": 0}, "in_chans"),
    "features": ({"features": "colour"}, "colour"),
    "more halvings than there are": ({"skip_downsamples": 99}, "`skip_downsamples` is 99, and .* halves 5 times"),
    "negative classes": ({"num_classes": -1}, "`num_classes` must be a whole number.*-1"),
    "a truth value of classes": ({"num_classes": True}, "`num_classes` must be a whole number.*True"),
    "half a class": ({"num_classes": 2.5}, r"`num_classes` must be a whole number.*2\.5"),
    "axis of a folder": ({"axis": "y"}, "inflated along 'z'.*axis='y'"),
    "maps of a classifier": ({"out_indices": (1, 2)}, r"out_indices=\(1, 2\).*features_only=True"),
    "classes of an extractor": ({"features_only": True, "num_classes": 3}, "num_classes=3.*no classifier"),
    "revision of a folder": ({"revision": "v1"}, "a folder, which has no revisions; got revision='v1'"),
    "base of no adapter": ({"base": "elsewhere"}, "no adapter.*base='elsewhere'"),
    "inflation beside the preset's": ({"preset": "image2point", "inflation": "average"}, "inflation='average'"),
    "stem beside the preset's": ({"preset": "image2point", "stem": "image"}, "stem='image'"),
    "dropout of an extractor": ({"features_only": True, "drop_rate": 0.1}, r"drop_rate=0\.1.*feature extractor"),
    "rate above 1": ({"drop_path_rate": 2}, "`drop_path_rate` must be .*got 2"),
    "dtype by name": ({"dtype": "half"}, "`dtype` must be .*'half'"),
    "dtype of whole numbers": ({"dtype": torch.int8}, r"`dtype` must be .*torch\.int8"),
    "no device": ({"device": "teapot"}, "`device` must be .*'teapot'"),
}


@pytest.mark.parametrize(("kwargs", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_arguments_that_do_not_fit_are_refused(folder, kwargs, words):
    with pytest.raises(InvalidInputError, match=words):
        i2p_zoo.from_pretrained(folder, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [({"stem": "image"}, "point stem"), ({"in_chans": 4}, "reads 3 channels"), ({"features_only": True}, "image stem")],
    ids=str,
)
def test_point_stem_is_not_turned_back(tmp_path, kwargs, words):
    save_pretrained(make_model(stem="point"), tmp_path)
    with pytest.raises(InvalidInputError, match=words):
        i2p_zoo.from_pretrained(tmp_path, **kwargs)


def test_arguments_of_timms_loaders_give_what_timm_gives(folder):
    model = i2p_zoo.from_pretrained(folder, drop_rate=0.3, drop_path_rate=0.2, num_classes=7, dtype=torch.float64, device="cpu")
    theirs = timm.create_model("test_resnet", drop_rate=0.3, drop_path_rate=0.2, num_classes=7)
    rates = [[m.drop_prob for m in net.modules() if isinstance(m, DropPath)] for net in (model, theirs)]
    assert rates[0] == rates[1]
    assert max(rates[0]) == pytest.approx(0.2)
    assert (model.drop_rate, model.fc.out_features, model.training) == (theirs.drop_rate, 7, False)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    original = make_model().double().state_dict()
    assert all(torch.equal(t, original[name]) for name, t in model.state_dict().items() if not name.startswith("fc."))


def test_rates_of_dropping_are_saved(folder, tmp_path):
    model = i2p_zoo.from_pretrained(folder, drop_rate=0.3, dtype=torch.float16)
    again = i2p_zoo.from_pretrained(save_pretrained(model, tmp_path))
    assert (again.drop_rate, again.fc.weight.dtype) == (0.3, torch.float16)
    assert fingerprint(again) == fingerprint(model)


def test_rate_that_a_network_does_not_take_is_refused_in_timms_words(tmp_path):
    i2p_zoo.create_model("vgg11", num_classes=2, mlp_ratio=0.01).save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match=r"timm cannot create 'vgg11' with .*drop_path_rate=0\.1"):
        i2p_zoo.from_pretrained(tmp_path, drop_path_rate=0.1)


def test_damaged_folder_is_an_error_and_no_other_place_is_tried(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module, "fetch_files", lambda *a: pytest.fail("asked the Hub"))
    copy = Path(shutil.copytree(folder, tmp_path / NAME))
    (copy / WEIGHTS).unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not found"):
        i2p_zoo.from_pretrained(NAME)


def test_describe_tells_a_folder_and_a_name_in_json(folder):
    told = describe(str(folder))
    by_name = describe("test_resnet")
    assert json.loads(json.dumps(told))["settings"]["inflation"] == "center"
    for facts in (told, by_name):
        assert (facts["name"], facts["class"]) == (NAME, "PointCloudResNet")
        assert facts["parameters"] == sum(p.numel() for p in make_model().parameters())
        assert (facts["num_classes"], facts["in_chans"]) == (1000, 3)
    with pytest.raises(NotFoundError, match="i2p-test_resnet"):
        describe("i2p-test_resnett")


def test_a_cache_that_cannot_be_written_serves_what_it_holds(folder, tmp_path, monkeypatch):
    """As an administrator's, mounted for all: no lock can be made beside the network."""
    shutil.copytree(folder, tmp_path / "converted" / f"{NAME}-center")
    monkeypatch.setenv("I2P_ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    for place, name in ((hub_module, "FileLock"), (Path, "mkdir"), (Path, "touch")):
        monkeypatch.setattr(place, name, read_only)
    assert fingerprint(i2p_zoo.from_pretrained(NAME)) == fingerprint(load_folder(folder, build_network))
    assert i2p_zoo.from_pretrained(NAME, inflation="average").settings.inflation == "average"
    with pytest.raises(i2p_zoo.CacheError, match=r"Read-only file system.*set I2P_ZOO_CACHE"):
        i2p_zoo.from_pretrained(NAME, axis="y")


@pytest.mark.parametrize("tag", ["in12k", "in12k_ft_in1k"])
def test_describe_is_of_the_tag_that_is_asked_for(tag):
    config = timm.get_pretrained_cfg(f"convnext_nano.{tag}")
    facts = describe(f"convnext_nano.{tag}")
    assert (facts["num_classes"], list(facts["input_size"])) == (config.num_classes, list(config.input_size))
    with pytest.raises(NotFoundError, match=r"has no weights 'no_such_tag' of convnext_nano; it has .*in12k"):
        describe("convnext_nano.no_such_tag")
