"""Photographs that come with packages, prepared as timm does, and ImageNet's class names."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from i2p_zoo import inflate
from i2p_zoo.downloading import HubOptions
from i2p_zoo.experiments.classification import classify
from i2p_zoo.experiments.photographs import PHOTOGRAPHS, load_photographs, preprocess, top_classes
from i2p_zoo.zoo.sources import load_source


@pytest.fixture(scope="module")
def photographs():
    return load_photographs()


def test_four_different_photographs_in_color_are_there_without_a_network(photographs, monkeypatch):
    def refuse(*_):
        raise AssertionError("a photograph was fetched")

    monkeypatch.setattr("socket.socket.connect", refuse)
    again = load_photographs()
    assert tuple(again) == PHOTOGRAPHS == ("coffee", "camera", "chelsea", "flower")
    assert {image.mode for image in again.values()} == {"RGB"}
    assert all(min(image.size) >= 300 for image in again.values())
    assert all(np.asarray(image).std() > 20 for image in again.values()), "no blank images"
    assert all(np.array_equal(again[name], photographs[name]) for name in PHOTOGRAPHS)


def test_a_grey_photograph_becomes_rgb(photographs):
    camera = np.asarray(photographs["camera"])
    assert camera.shape == (512, 512, 3)
    assert np.ptp(camera, axis=2).max() == 0


# Architecture: input size, mean and standard deviation that timm states for it.
NETWORKS = {
    "tf_efficientnet_lite0": (224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "resnet18": (224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "test_resnet": (160, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@pytest.mark.parametrize(("name", "facts"), NETWORKS.items(), ids=NETWORKS.keys())
def test_images_get_the_size_and_normalisation_of_the_network(name, facts):
    size, mean, std = facts
    images = [Image.new("RGB", (300, 200), (255, 102, 0)), Image.new("RGB", (50, 500), (51, 0, 255))]
    batch = preprocess(images, timm.create_model(name))
    assert batch.shape == (2, 3, size, size)
    assert batch.dtype == torch.float32
    for image, color in zip(batch, ((1, 0.4, 0), (0.2, 0, 1)), strict=True):
        expected = [(value - m) / s for value, m, s in zip(color, mean, std, strict=True)]
        assert torch.allclose(image.amin((1, 2)), torch.tensor(expected), atol=1e-5)
        assert torch.allclose(image.amax((1, 2)), torch.tensor(expected), atol=1e-5)


def test_the_middle_of_an_image_is_kept():
    pixels = np.zeros((400, 600, 3), np.uint8)
    pixels[150:250, 250:350] = 255
    (image,) = preprocess([Image.fromarray(pixels)], timm.create_model("tf_efficientnet_lite0"))
    assert image[:, 112, 112].min() > 0.99
    assert image[:, [0, 0, -1, -1], [0, -1, 0, -1]].max() < -0.99


def test_classes_are_named_in_the_order_of_their_probability():
    logits = torch.full((2, 1000), -1e9)
    logits[0, [281, 0, 999]] = torch.tensor([0.5, 0.3, 0.2]).log()
    logits[1, [1, 207]] = torch.tensor([0.25, 0.75]).log()
    first, second = top_classes(logits, count=2)
    assert [name for name, _ in first] == ["tabby", "tench"]
    assert [name for name, _ in second] == ["golden retriever", "goldfish"]
    assert [p for _, p in first + second] == pytest.approx([0.5, 0.3, 0.75, 0.25], rel=1e-5)
    assert len(top_classes(logits)[0]) == 5


def test_an_image_network_knows_what_the_photographs_show(photographs, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    network, _ = load_source("tf_efficientnet_lite0", "", HubOptions(), [])
    with torch.no_grad():
        found = top_classes(network(preprocess(list(photographs.values()), network)))
    best = {name: rows[0][0] for name, rows in zip(photographs, found, strict=True)}
    assert best == {"coffee": "espresso", "camera": "tripod", "chelsea": "tiger cat", "flower": "daisy"}


@pytest.fixture(scope="module")
def lite0():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        network, _ = load_source("tf_efficientnet_lite0", "", HubOptions(), [])
    return network


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pitch", [0.05, 0.07, 1.0])
def test_a_photograph_as_a_coloured_cloud_is_what_it_is_as_an_image(photographs, lite0, pitch, dtype):
    """One point a pixel at the voxels' pitch, whose borders floating point seldom meets; its colours as bytes."""
    image = photographs["chelsea"].resize((224, 224), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    rows, columns = np.divmod(np.arange(224 * 224), 224)
    points = (np.column_stack([columns, rows, rows * 0]) * pitch).astype(dtype)
    cloud = {"points": points, "rgb": pixels.reshape(-1, 3)}
    model = inflate(lite0).eval()
    model.settings = model.settings.changed(features="rgb", voxel_size=pitch)
    as_image = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5  # written out, not by our code
    with torch.no_grad():
        expected, shares = lite0(as_image).softmax(1), model(cloud).softmax(1)
    assert (shares - expected).abs().max() < 1e-4
    assert classify(model, cloud, top=1) == {"285": pytest.approx(0.7733, abs=1e-3)}  # Egyptian cat
