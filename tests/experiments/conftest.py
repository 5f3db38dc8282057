from __future__ import annotations

import numpy as np
import pytest
import torch

import i2p_zoo
from tests.finetune.conftest import shapes
from tests.segmentation.conftest import scene_sets as scene_sets


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """The folder of a small network with weights of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="session")
def pointed(tmp_path_factory):
    """The folder of a network with a point stem, as finetuning leaves it."""
    return i2p_zoo.create_model("test_resnet", stem="point").save_pretrained(tmp_path_factory.mktemp("pointed"))


@pytest.fixture(scope="session")
def splits():
    return shapes(24), shapes(15)


@pytest.fixture(scope="session")
def npz(tmp_path_factory, splits):
    """The same clouds as a file."""
    path = tmp_path_factory.mktemp("clouds") / "shapes.npz"
    train, test = splits
    np.savez(
        path,
        points=np.concatenate([train.points, test.points]),
        label=np.concatenate([train.labels, test.labels]),
        split=np.repeat([0, 1], [len(train), len(test)]),
        classes=np.array(train.classes),
        scale=np.ones(len(train) + len(test), np.float32),
    )
    return path
