"""Small networks and easy clouds, and runs of a few steps."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import i2p_zoo
from i2p_zoo.data import CloudSet
from i2p_zoo.finetune import train as train_for_real
from i2p_zoo.segmentation.crops import Cropping
from i2p_zoo.segmentation.task import Segmentation
from tests.segmentation.conftest import make_set, make_unet


def resnet():
    """A small ResNet with seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return i2p_zoo.create_model("test_resnet", num_classes=3, stem="point", skip_downsamples=2, voxel_size=0.2)


def shapes(count=24, points=24):
    """Three easy classes: rods along x, along z, and balls."""
    random = np.random.default_rng(0)
    thin = {0: (1, 0.1, 0.1), 1: (0.1, 0.1, 1), 2: (0.6, 0.6, 0.6)}
    labels = np.arange(count) % 3
    clouds = np.stack([random.uniform(-1, 1, (points, 3)) * thin[label] for label in labels.tolist()])
    return CloudSet(clouds.astype(np.float32), labels.astype(np.int64), ("rod x", "rod z", "ball"))


def no_clouds():
    return CloudSet(np.zeros((0, 4, 3), np.float32), np.zeros(0, np.int64), ("a",))


def tiny(dropout=0.0):
    """A network of two convolutions with seeded weights: a step takes milliseconds."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)]
        head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, 3)]
        model = i2p_zoo.inflate(nn.Sequential(*layers, *head))
    model.settings = model.settings.changed(voxel_size=0.2)
    return model


def modes_and_hooks(model):
    return [(m.training, len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]


def train(model, clouds, **options):
    return train_for_real(model, clouds, **{"steps": 8, "batch_size": 6, "learning_rate": 0.05, **options})


def figures(history):
    """All of a history but the seconds."""
    steps = [(step.step, step.loss, step.batch_top1, step.learning_rate) for step in history.steps]
    return steps, [(e.step, e.scores) for e in history.evaluations]


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(model, state):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def without_norms():
    """A network whose loss on a batch is the mean of that on its parts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
        model = i2p_zoo.inflate(nn.Sequential(*layers))
    model.settings = model.settings.changed(voxel_size=0.2)
    return model


def train_in_ways(ways):
    """Histories and weights of short runs in float64, of clouds and of scenes, by their numbers of parts and of workers."""
    scenes, judged = make_set(4), make_set(2, first=100)
    task = Segmentation(scenes, judged, Cropping(extent=3.0), loss="both", class_weights=(1.0, 2.0, 0.5))
    results = {}
    for accumulate, workers in ways:
        options = {"accumulate": accumulate, "workers": workers}
        model, unet = tiny().double(), make_unet().double()
        history = train(model, shapes(23), batch_size=8, steps=12, monitor=shapes(7), evaluate_every=4, **options)
        results[f"clouds, {options}"] = figures(history), model.state_dict()
        results[f"scenes, {options}"] = figures(train(unet, task, batch_size=4, steps=4, **options)), unet.state_dict()
    return results
