"""What `feature_info` says of feature maps against the maps themselves, with every stem and any number of skipped halvings."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from i2p_zoo import SparseTensor, create_model, from_pretrained, inflate

NAMES = ["test_resnet", "test_efficientnet", "dla34", "convnext_atto", "regnetx_002", "densenet121", "test_byobnet"]
STEMS = [{}, {"stem": "point"}]


def cloud(in_chans=3):
    coords = torch.randint(-40, 40, (6, 3), generator=torch.Generator().manual_seed(0))
    return SparseTensor(torch.ones(6, in_chans), torch.cat([torch.zeros(6, 1), coords], 1).int(), batch_size=1)


def check(model):
    with torch.no_grad():
        maps = model.eval()(cloud(model.in_chans))
    assert model.feature_info.reduction() == [m.stride for m in maps]
    assert model.feature_info.channels() == [m.features.shape[1] for m in maps]
    assert [entry["reduction"] for entry in model.feature_info.get_dicts()] == [m.stride for m in maps]
    assert len(model.feature_info.module_name()) == len(maps)


@pytest.mark.parametrize("skip", [0, 1, 3, 5])
@pytest.mark.parametrize("stem", STEMS, ids=["image", "point"])
@pytest.mark.parametrize("name", NAMES)
def test_strides_and_channels_are_those_of_the_maps(name, stem, skip):
    check(create_model(name, features_only=True, skip_downsamples=skip, **stem))


@pytest.mark.parametrize("stem", STEMS, ids=["image", "point"])
def test_chosen_maps_have_their_strides(stem):
    check(create_model("test_resnet", features_only=True, out_indices=(1, 3), skip_downsamples=1, **stem))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_papers_stem_for_scenes_has_its_strides(name):
    model = create_model(name, features_only=True, preset="image2point")
    check(model)
    assert model.feature_info.reduction() == [1, 2, 4, 8, 16]


def test_a_point_stem_alone_gives_1_1_2_4_8():
    model = create_model("resnet18", features_only=True, stem="point")
    assert model.feature_info.reduction() == [1, 1, 2, 4, 8]
    assert [entry["reduction"] for entry in create_model("resnet18", stem="point").feature_info] == [1, 1, 2, 4, 8]


@pytest.mark.parametrize("stem", STEMS, ids=["image", "point"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_a_classifier_tells_the_strides_of_its_intermediates(name, stem):
    model = create_model(name, skip_downsamples=3, **stem).eval()
    with torch.no_grad():
        _, maps = model.forward_intermediates(cloud())
    assert [entry["reduction"] for entry in model.feature_info] == [m.stride for m in maps]


def test_it_follows_the_settings_and_survives_copies_and_folders(tmp_path):
    model = create_model("test_resnet", features_only=True)
    model.settings = model.settings.changed(skip_downsamples=2)
    model.save_pretrained(tmp_path)
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), from_pretrained(tmp_path)):
        assert other.feature_info.reduction() == [1, 1, 2, 4, 8]


def test_timms_own_network_and_networks_without_maps_stay_as_they_are():
    source = timm.create_model("test_resnet", features_only=True)
    inflate(source).feature_info.info[0]["reduction"] = 99
    assert source.feature_info.reduction() == [2, 4, 8, 16, 32]
    assert not hasattr(inflate(nn.Sequential(nn.Conv2d(3, 4, 3))), "feature_info")
