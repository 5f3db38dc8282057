"""A 2D network and its inflated one on one image: the same classes, and how far apart they are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import i2p_zoo
from i2p_zoo import InvalidInputError, NotFoundError
from i2p_zoo.viewing import image_views
from i2p_zoo.viewing.image_views import ImageNetworks, load_image_networks, view_image


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    flat = timm.create_model("test_resnet").eval()
    return ImageNetworks("test_resnet", flat, i2p_zoo.inflate(flat).eval())


def make_image(size=(96, 80)):
    rows, columns = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(np.stack([rows, columns, rows * 0 + 90], axis=-1).astype(np.uint8))


def test_both_networks_name_the_same_and_the_certificate_holds(networks):
    view = view_image(make_image(), networks)
    assert list(view.flat) == list(view.solid)
    assert len(view.flat) == 5
    assert list(view.flat.values()) == pytest.approx(list(view.solid.values()), rel=1e-4)
    assert 0 <= view.error <= 1e-5
    assert view.summary().endswith("the certificate, of 1e-05, holds.")


def test_shares_are_torchs_own_softmax(networks):
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(networks.flat))
    with torch.no_grad():
        shares = networks.flat(transform(make_image())[None]).softmax(1)[0]
    assert list(view_image(make_image(), networks).flat.values()) == pytest.approx(shares.topk(5).values.tolist(), rel=1e-5)


def test_a_network_that_was_changed_is_told(networks):
    changed = i2p_zoo.inflate(networks.flat).eval()
    with torch.no_grad():
        changed.fc.bias.add_(torch.arange(1000) / 100)
    view = view_image(make_image(), ImageNetworks("test_resnet", networks.flat, changed))
    assert view.error > 1e-5
    assert "does NOT hold" in view.summary()


def test_the_image_stands_upright_in_its_colors(networks):
    """The top left pixel is red, and is high up at the left; gray images are taken too."""
    pixels = np.full((160, 160, 3), 255, np.uint8)
    pixels[:80, :80] = (255, 0, 0)
    plane = view_image(Image.fromarray(pixels), networks).plane
    red = (plane.colors[:, 0] > 200) & (plane.colors[:, 1] < 50)
    assert 0.2 < red.mean() < 0.3
    assert plane.points[red, 0].mean() < plane.points[~red, 0].mean()
    assert plane.points[red, 2].mean() > plane.points[~red, 2].mean()
    coarse = plane.levels[1]
    assert coarse.sites.shape[1] == 3
    assert (coarse.sites[:, 1] == 0).all()
    high_left = coarse.sites[coarse.colors[:, 1] < 50]
    assert high_left[:, 0].max() < coarse.sites[:, 0].max() / 2 + 1
    assert high_left[:, 2].min() > coarse.sites[:, 2].max() / 2 - 1
    assert view_image(make_image().convert("L"), networks).error <= 1e-5


def test_networks_without_imagenets_classes_are_refused(monkeypatch):
    monkeypatch.setattr(image_views, "load_image_network", lambda name: (SimpleNamespace(num_classes=21843), {}))
    with pytest.raises(InvalidInputError, match="21843 classes; images are shown with ImageNet's 1,000"):
        load_image_networks("i2p-resnet18")
    with pytest.raises(NotFoundError, match="no architecture"):
        load_image_networks("i2p-resnte18")
