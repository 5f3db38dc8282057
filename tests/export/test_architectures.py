"""One architecture of each class that the ledger lists, the smallest, exported and compared; those of tokens are refused."""

from __future__ import annotations

import fnmatch
import math

import numpy as np
import pytest
import torch

import i2p_zoo
from conversion.table import NOT_EXPORTED
from i2p_zoo import UnsupportedError
from i2p_zoo.zoo.ledger import load_ledger
from tests.export.conftest import compute, live_norms_, open_session

_LARGEST = 30_000_000  # parameters


def smallest_of_each_class():
    smallest = {}
    for name, record in load_ledger()["models"].items():
        smallest[record["class"]] = min(smallest.get(record["class"], (math.inf, "")), (record["parameters"], name))
    return sorted(name for parameters, name in smallest.values() if parameters <= _LARGEST)


@pytest.mark.long
@pytest.mark.parametrize("architecture", smallest_of_each_class())
def test_each_class_of_networks_is_exported_or_takes_tokens(architecture, tmp_path):
    check_export(architecture, tmp_path / "model.onnx")


def check_export(architecture, path):
    torch.manual_seed(0)
    network = live_norms_(i2p_zoo.create_model(architecture, num_classes=5)).eval()
    if network.settings.canvas is not None:
        with pytest.raises(UnsupportedError, match="tokens of an image"):
            i2p_zoo.export_onnx(network, path)
        return
    session = open_session(str(i2p_zoo.export_onnx(network, path)))
    random = np.random.default_rng(0)
    clouds = [random.uniform(-1, 1, (points, 3)).astype(np.float32) for points in (700, 1, 300)]
    for batch in ([clouds[0]], [clouds[1]], clouds):
        numbers = np.repeat(np.arange(len(batch)), [len(cloud) for cloud in batch])
        (logits,) = session.run(None, {"points": np.concatenate(batch), "batch": numbers})
        expected = compute(network, batch)
        assert (np.abs(logits - expected).max(1) <= 1e-4 * np.abs(expected).max(1)).all()


@pytest.mark.long
@pytest.mark.parametrize("pattern", NOT_EXPORTED)
def test_what_the_page_says_is_not_exported_says_so(pattern, tmp_path):
    models = load_ledger()["models"]
    _, architecture = min((models[name]["parameters"], name) for name in fnmatch.filter(models, pattern))
    with pytest.raises(UnsupportedError, match=rf"^{architecture} cannot be exported: [^\n]*$"):
        i2p_zoo.export_onnx(i2p_zoo.create_model(architecture, num_classes=5), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_layers_that_no_smallest_network_has_are_exported(tmp_path):
    """Blurring, strides behind a padding, several weights a layer: of classes whose smallest network has none of them."""
    for architecture in ("resnetblur18", "resnetv2_50x1_bit", "tf_efficientnet_cc_b0_4e", "skresnet18", "resnest14d"):
        check_export(architecture, tmp_path / "model.onnx")
