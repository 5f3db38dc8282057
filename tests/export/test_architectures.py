"""One architecture of each class that the ledger lists, the smallest, exported and compared; those of tokens are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import i2p_zoo
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
    torch.manual_seed(0)
    network = live_norms_(i2p_zoo.create_model(architecture, num_classes=5)).eval()
    path = tmp_path / "model.onnx"
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
