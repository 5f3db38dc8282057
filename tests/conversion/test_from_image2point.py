"""The original's checkpoints: a plain float64 reference of its network against the sparse one that they are mapped to."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from conversion.from_image2point import convert_kernel, convert_key, load_image2point
from i2p_zoo import SparseTensor
from i2p_zoo.errors import CheckpointError
from tests.helpers import random_cloud, relative_error, seeded

BOTTLENECKS = {"resnet18": False, "resnet50": True}
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


def random_checkpoint(name: str, classes: int = 5, channels: int = 3) -> dict[str, Tensor]:
    """A state dict with the names and shapes of the original's network and random live values."""
    random = seeded(3)
    state: dict[str, Tensor] = {}

    def add_kernel(key: str, edge: int, inputs: int, outputs: int) -> None:
        shape = (inputs, outputs) if edge == 1 else (edge**3, inputs, outputs)
        state[f"{key}.kernel"] = torch.randn(shape, generator=random, dtype=torch.float64) / (edge**3 * inputs / 4) ** 0.5

    def add_norm(key: str, features: int) -> None:
        for part in ("weight", "running_var"):
            state[f"{key}.{part}"] = torch.rand(features, generator=random, dtype=torch.float64) + 0.5
        for part in ("bias", "running_mean"):
            state[f"{key}.{part}"] = torch.randn(features, generator=random, dtype=torch.float64) * 0.2
        state[f"{key}.num_batches_tracked"] = torch.tensor(7)

    add_kernel("stem.0", 3, channels, 64)
    add_norm("stem.1", 64)
    inputs = 64
    for stage, count in enumerate(BLOCKS[name], 1):
        middle = 32 * 2**stage
        outputs = middle * (4 if BOTTLENECKS[name] else 1)
        for block in range(count):
            key = f"stage{stage}.{block}"
            path = (
                [(1, inputs, middle), (3, middle, middle), (1, middle, outputs)]
                if BOTTLENECKS[name]
                else [
                    (3, inputs, outputs),
                    (3, outputs, outputs),
                ]
            )
            for number, (edge, before, after) in enumerate(path):
                add_kernel(f"{key}.net.{3 * number}", edge, before, after)
                add_norm(f"{key}.net.{3 * number + 1}", after)
            if inputs != outputs or (block == 0 and stage > 1):
                add_kernel(f"{key}.downsample.0", 2, inputs, outputs)
                add_norm(f"{key}.downsample.1", outputs)
            inputs = outputs
    state["classifier.0.weight"] = torch.randn(classes, inputs, generator=random, dtype=torch.float64) / inputs**0.5
    state["classifier.0.bias"] = torch.randn(classes, generator=random, dtype=torch.float64)
    add_norm("classifier.1", classes)
    return state


def reference(name: str, state: dict[str, Tensor], cloud: SparseTensor) -> Tensor:
    """The original's network by dictionaries of sites (batch, x, y, z), taps in torchsparse 1.2's order."""
    features = {(b, x, y, z): row for (b, z, y, x), row in zip(cloud.coords.tolist(), cloud.features, strict=True)}

    def convolve(features, key, stride=1):
        kernel = state[f"{key}.kernel"]
        if kernel.ndim == 2:
            return {site: row @ kernel for site, row in features.items()}
        if len(kernel) == 27:
            offsets = [(x, y, z) for z, y, x in itertools.product((-1, 0, 1), repeat=3)]
        else:
            offsets = list(itertools.product((0, 1), repeat=3))
        sites = dict.fromkeys((b, x // stride, y // stride, z // stride) for b, x, y, z in features)
        result = {}
        for b, *site in sites:
            reads = [(b, *(c * stride + d for c, d in zip(site, offset, strict=True))) for offset in offsets]
            terms = [features[at] @ kernel[tap] for tap, at in enumerate(reads) if at in features]
            result[(b, *site)] = sum(terms, start=kernel.new_zeros(kernel.shape[2]))
        return result

    def normalise(features, key):
        mean, variance, weight, bias = (state[f"{key}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return {site: (row - mean) / (variance + 1e-5).sqrt() * weight + bias for site, row in features.items()}

    features = normalise(convolve(features, "stem.0"), "stem.1")
    for stage, count in enumerate(BLOCKS[name], 1):
        for block in range(count):
            key, stride = f"stage{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            shortcut, strided, layers = features, 1 if BOTTLENECKS[name] else 0, 3 if BOTTLENECKS[name] else 2
            for number in range(layers):
                features = convolve(features, f"{key}.net.{3 * number}", stride if number == strided else 1)
                features = normalise(features, f"{key}.net.{3 * number + 1}")
                if number < layers - 1:
                    features = {site: row.relu() for site, row in features.items()}
            if f"{key}.downsample.0.kernel" in state:
                shortcut = normalise(convolve(shortcut, f"{key}.downsample.0", stride), f"{key}.downsample.1")
            features = {site: (row + shortcut[site]).relu() for site, row in features.items()}
    pooled = [torch.stack([row for (b, *_), row in features.items() if b == n]).mean(0) for n in range(cloud.batch_size)]
    logits = torch.stack(pooled) @ state["classifier.0.weight"].t() + state["classifier.0.bias"]
    head = dict(enumerate(logits))
    return torch.stack(list(normalise(head, "classifier.1").values()))


@pytest.mark.parametrize("name", BLOCKS)
def test_network_computes_what_the_original_computes(name):
    state = random_checkpoint(name)
    cloud = random_cloud(3, voxels=40, extent=5)
    model = load_image2point(state)
    assert type(model).__bases__[1].__name__ == "ResNet"
    assert relative_error(model(cloud), reference(name, state, cloud)) < 1e-12


def test_checkpoint_of_a_parallel_trainer_is_the_same():
    state = random_checkpoint("resnet18")
    cloud = random_cloud(3)
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    assert torch.equal(load_image2point(state)(cloud), load_image2point(wrapped)(cloud))


@pytest.mark.parametrize(("edge", "order"), [(3, "zyx"), (2, "xyz"), (1, "xyz"), (5, "zyx")])
def test_taps_are_in_torchsparses_order(edge, order):
    """Slowest axis first: odd kernels run along z, y, x, even ones along x, y, z (torchsparse 1.2)."""
    values = torch.arange(edge**3 * 6, dtype=torch.float64).view(edge**3, 2, 3)
    kernel = convert_kernel(values if edge > 1 else values[0])
    assert tuple(kernel.shape) == (3, edge, edge, edge, 2)
    for tap, place in enumerate(itertools.product(range(edge), repeat=3)):
        at = dict(zip(order, place, strict=True))
        assert torch.equal(kernel[:, at["z"], at["y"], at["x"]], values[tap].t())


def without(state, *keys):
    return {key: tensor for key, tensor in state.items() if key not in keys}


DAMAGED = {
    "an unknown tensor": (lambda s: {**s, "decoder.0.kernel": torch.ones(1, 1)}, "'decoder.0.kernel' is no tensor"),
    "an activation with weights": (lambda s: {**s, "stage1.0.net.2.weight": torch.ones(1)}, "'stage1.0.net.2.weight'"),
    "a missing tensor": (lambda s: without(s, "stage2.0.net.1.bias"), "layer2.0.bn1.bias"),
    "a missing classifier": (lambda s: without(s, "classifier.0.weight"), "No ResNet"),
    "other blocks": (lambda s: {k: t for k, t in s.items() if not k.startswith("stage4.1")}, r"\(2, 2, 2, 1\)"),
    "a kernel that is no cube": (lambda s: {**s, "stem.0.kernel": torch.ones(26, 3, 64)}, r"got \(26, 3, 64\)"),
    "a kernel of other channels": (lambda s: {**s, "stage1.0.net.0.kernel": torch.ones(27, 64, 8)}, "do not fit resnet18"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_checkpoint_is_refused_with_the_tensor_named(damage, message):
    with pytest.raises(CheckpointError, match=message):
        load_image2point(damage(random_checkpoint("resnet18")))


def test_names_are_those_of_timm():
    assert convert_key("stage3.1.net.4.running_mean") == "layer3.1.bn2.running_mean"
    assert convert_key("stage2.0.downsample.0.kernel") == "layer2.0.downsample.0.weight"
    assert convert_key("classifier.0.bias") == "fc.bias"


def test_stem_has_no_activation_and_shortcuts_are_cubes():
    model = load_image2point(random_checkpoint("resnet18"))
    assert isinstance(model.act1, nn.Identity)
    assert tuple(model.layer2[0].downsample[0].weight.shape) == (128, 2, 2, 2, 64)
