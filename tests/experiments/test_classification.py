"""Classes of single clouds: names, order, and the scale that the data sets have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import i2p_zoo
from i2p_zoo import InvalidInputError
from i2p_zoo.experiments.classification import classify, normalize, vote
from i2p_zoo.segmentation.pretrained_unet import create_unet


def test_cloud_is_centred_and_reaches_the_unit_sphere():
    points = np.random.default_rng(0).normal(500, 20, (50, 3)).astype(np.float32)
    before = points.copy()
    out = normalize({"points": points, "rgb": np.zeros((50, 3), np.uint8)})
    assert np.abs(out["points"].mean(0)).max() < 1e-5
    assert np.linalg.norm(out["points"], axis=1).max() == pytest.approx(1)
    assert "rgb" in out
    assert np.array_equal(points, before)


def test_cloud_of_one_point_stays_finite():
    assert np.array_equal(normalize({"points": np.ones((1, 3), np.float32)})["points"], np.zeros((1, 3)))


def test_classes_are_named_likeliest_first():
    model = i2p_zoo.create_model("test_resnet", num_classes=4).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": ["a", "b", "c", "d"]}
    cloud = {"points": np.random.default_rng(0).random((90, 3), np.float32)}
    with torch.no_grad():
        shares = model([cloud])[0].softmax(0)
    found = classify(model, cloud, top=3)
    assert list(found) == ["abcd"[n] for n in shares.argsort(descending=True)[:3].tolist()]
    assert list(found.values()) == pytest.approx(sorted(shares.tolist(), reverse=True)[:3], rel=1e-5)
    assert len(classify(model, cloud, top=9)) == 4
    model.pretrained_cfg = {}
    assert set(classify(model, cloud, top=4)) == {"0", "1", "2", "3"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_votes_are_the_mean_of_probabilities_on_moved_grids(dtype):
    model = i2p_zoo.create_model("test_resnet", num_classes=4, voxel_size=1.0).eval()
    points = (np.random.default_rng(0).random((90, 3)) * 9).astype(dtype)
    cloud = {"points": points, "normals": points}
    with torch.no_grad():
        shares = sum(model([points + step])[0].softmax(0) for step in (np.float32(0), np.float32(0.5))) / 2

    def ask(cloud, top):
        return classify(model, cloud, top)

    got = vote(ask, cloud, 1.0, votes=2, top=3)
    assert list(got) == [str(number) for number in shares.argsort(descending=True)[:3].tolist()]
    assert list(got.values()) == pytest.approx(shares.sort(descending=True).values[:3].tolist(), rel=1e-4)
    assert vote(ask, cloud, 1.0, top=2) == classify(model, cloud, 2)
    assert vote(ask, cloud, 1.0, votes=2) != vote(ask, cloud, 1.0)
    with pytest.raises(InvalidInputError, match=r"`votes` \(=-1\)"):
        vote(ask, cloud, 1.0, votes=-1)


def test_what_has_no_classes_or_lacks_features_is_refused():
    cloud = {"points": np.zeros((5, 3), np.float32)}
    with pytest.raises(InvalidInputError, match="no classifier"):
        classify(i2p_zoo.create_model("test_resnet", num_classes=0), cloud)
    for features in ("xyz,normals", "xyz, normals"):
        with pytest.raises(InvalidInputError, match="no normals, which the features xyz,normals ask for; it has xyz"):
            classify(i2p_zoo.create_model("test_resnet", in_chans=6, features=features), cloud)


def test_a_unet_is_refused():
    unet = create_unet("test_resnet", 3, pretrained=False)
    with pytest.raises(InvalidInputError, match="segment predict"):
        classify(unet, {"points": np.zeros((5, 3), np.float32)})
