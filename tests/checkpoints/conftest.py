"""A saved network, and folders that are spoiled in one way each."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

import i2p_zoo
from i2p_zoo import CheckpointError, SparseTensor
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.saving import CARD, save_pretrained
from i2p_zoo.checkpoints.weight_files import WEIGHTS, sha256_of
from i2p_zoo.zoo.pretrained import build_network
from tests.conftest import fingerprint
from tests.helpers import random_cloud, randomise_norms_

NAMES = {CONFIG, WEIGHTS, CARD}
REPO, PICKLE = "acme/net", "pytorch_model.bin"
SOME_CERTIFICATE = i2p_zoo.Certificate({"float32": 1e-7, "float64": 1e-15}, (1, 3, 8, 8), 1.0)


def make_model(name="test_resnet", seed=0, **kwargs):
    """A network with random weights and live normalisation; few classes keep its files small."""
    if not kwargs.get("features_only"):
        kwargs.setdefault("num_classes", 10)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return randomise_norms_(i2p_zoo.create_model(name, **kwargs), seed).eval()


@torch.no_grad()
def outputs(model, dtype=torch.float32, voxels=60):
    result = model(random_cloud(model.in_chans, voxels=voxels, dtype=dtype))
    parts = result if isinstance(result, list) else [result]
    return [part.features if isinstance(part, SparseTensor) else part for part in parts]


def assert_same_bits(found, expected):
    found, expected = dict(found.state_dict()), dict(expected.state_dict())
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def bits(folder):
    """The bytes of every file in a folder."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != ".lock"}


def edit_config(folder, key, value):
    """Sets a dotted key of the config; deletes it if the value is `...`."""
    config = json.loads((folder / CONFIG).read_text())
    *parents, last = key.split(".")
    block = config
    for parent in parents:
        block = block[parent]
    if value is ...:
        del block[last]
    else:
        block[last] = value
    (folder / CONFIG).write_text(json.dumps(config))


def put_weights(folder, data):
    """Puts a new file in the weights' place, its hash noted as if `save_pretrained` had written it."""
    (folder / WEIGHTS).unlink()  # a network may be mapped to the old one
    (folder / WEIGHTS).write_bytes(data)
    edit_config(folder, "i2p.weights", {WEIGHTS: sha256_of(folder / WEIGHTS)})


def bomb(marker: Path) -> bytes:
    """A pickle that leaves a file when it is loaded."""

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (marker,))

    return pickle.dumps(Bomb())


def assert_refused(folder, words):
    """Loading raises a CheckpointError that says these words, and a network loaded before keeps its bits."""
    with pytest.raises(CheckpointError) as caught:
        load_folder(folder, build_network)
    for word in words:
        assert word in str(caught.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model and the folder it was saved in; tests leave both alone."""
    model = make_model()
    return model, save_pretrained(model, tmp_path_factory.mktemp("checkpoint") / "saved")


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved folder to spoil."""
    return Path(shutil.copytree(saved[1], tmp_path / "copy"))


@pytest.fixture(scope="module")
def models():
    """Two networks of one shape, as a Hub has them."""
    return [make_model(seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    """The checkpoints of two networks of one shape."""
    return [save_pretrained(model, tmp_path_factory.mktemp("checkpoint")) for model in models]


def assert_loaded(outcome, model):
    assert outcome.error is None, outcome.message
    assert outcome.fingerprint == fingerprint(model)
    assert not outcome.training


def assert_error(outcome, error, *words):
    assert outcome.error == error, outcome.message
    for word in words:
        assert word in outcome.message, outcome.message


def files_in(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != ".lock"}
