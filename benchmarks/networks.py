"""Whole networks on real shapes: forward and training step, against gather and scatter-add, spconv and dense conv3d."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
from torch import Tensor, nn

import i2p_zoo
from benchmarks.peers import dense_twin, gather_scatter, spconv_engine
from benchmarks.shapes import real_clouds
from benchmarks.timing import Result, compare, take_turns
from i2p_zoo.finetune import freeze

OBJECTS: dict[str, Any] = {"stem": "point", "skip_downsamples": 2}  # an object must not shrink 32 times
NETWORKS = ("resnet18", "resnet50", "tf_efficientnet_lite0")


def _forward(model: nn.Module, x: Any) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(x.fresh())
        return logits

    return run


class _Input:
    """A sparse tensor whose kernel maps are built anew in each run, as for clouds that were not seen before."""

    def __init__(self, x: i2p_zoo.SparseTensor) -> None:
        self.x = x

    def fresh(self) -> i2p_zoo.SparseTensor:
        return i2p_zoo.SparseTensor(self.x.features, self.x.coords, batch_size=self.x.batch_size)


def _agree(found: Tensor, expected: Tensor) -> None:
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error < 1e-4:
        raise RuntimeError(f"The contestants differ by {error:.1e}: not timed.")


def _use_all_taps_(model: nn.Module) -> nn.Module:
    """Changes every convolution's weight by next to nothing, so that no tap is zero and none repeats."""
    random = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, i2p_zoo.SparseConv3d):
            weight = module.weight.data
            weight += torch.randn(weight.shape, generator=random) * 1e-7
    return model


def inflated(quick: bool = False) -> Iterator[Result]:
    """Forward pass of networks whose inflated weights are untouched, against the same with all taps used."""
    x = _Input(real_clouds(2 if quick else 8))
    for name in NETWORKS[:1] if quick else NETWORKS:
        for inflation, target in (("center", 2.0), ("average", 1.25), ("copy", 1.25)):
            torch.manual_seed(0)
            model = i2p_zoo.create_model(name, inflation=inflation, **OBJECTS).eval().requires_grad_(False)
            other = i2p_zoo.create_model(name, inflation=inflation, **OBJECTS).eval().requires_grad_(False)
            other.load_state_dict(model.state_dict())
            _use_all_taps_(other)
            runs = {"ours": _forward(model, x), "all taps": _forward(other, x)}
            _agree(runs["ours"](), runs["all taps"]())
            yield compare("untouched " + inflation, name, take_turns(runs), "all taps", "ours", target)


def training(quick: bool = False) -> Iterator[Result]:
    """A training step on real clouds, 32 for EfficientNet-Lite0 and 8 for the others; and one of IO+BN beside one of ALL."""
    for name in NETWORKS[-1:] if quick else NETWORKS:
        x = _Input(real_clouds(2 if quick else 32 if "lite0" in name else 8))
        yield from _training_case(name, x)


def _training_case(name: str, x: _Input) -> Iterator[Result]:
    torch.manual_seed(0)
    model = _use_all_taps_(i2p_zoo.create_model(name, num_classes=10, **OBJECTS)).train()
    labels = torch.arange(x.x.batch_size) % 10

    def step() -> Tensor:
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(x.fresh()), labels)
        loss.backward()
        return loss.detach()

    def reference() -> Tensor:
        with gather_scatter():
            return step()

    _agree(step(), reference())
    case = f"{name}, {len(x.x.coords)} voxels"
    times = take_turns({"ours": step, "gather-scatter": reference}, rounds=5, budget=60)
    yield compare("training step", case, times, "gather-scatter", "ours", 8 if "lite0" in name else None)

    def train_some() -> None:
        freeze(model, "io+bn")
        step()

    def train_all() -> None:
        freeze(model, "all")
        step()

    times = take_turns({"IO+BN": train_some, "ALL": train_all}, rounds=7)
    yield compare("training step", case, times, "IO+BN", "ALL", -0.75)


def engines(quick: bool = False) -> Iterator[Result]:
    """Forward pass of networks against spconv's engine on one thread, and of ResNet-18 against dense conv3d at 64^3."""
    x = _Input(real_clouds(1 if quick else 8, voxel_size=2 / 63.9))
    for name in NETWORKS[:1] if quick else NETWORKS[:2]:
        yield from _spconv_case(name, x)
    yield from _dense_case(x)


def _spconv_case(name: str, x: _Input) -> Iterator[Result]:
    torch.manual_seed(0)
    model = _use_all_taps_(i2p_zoo.create_model(name, **OBJECTS)).eval().requires_grad_(False)
    ours = _forward(model, x)

    def spconv() -> Tensor:
        with spconv_engine():
            return ours()

    _agree(ours(), spconv())
    times = take_turns({"ours": ours, "spconv, 1 thread": spconv}, rounds=7)
    yield compare("forward", f"{name}, {len(x.x.coords)} voxels", times, "spconv, 1 thread", "ours", 1)


def _dense_case(x: _Input) -> Iterator[Result]:
    torch.manual_seed(0)
    source = timm.create_model("resnet18").eval()
    model = _use_all_taps_(i2p_zoo.inflate(source)).eval().requires_grad_(False)
    twin = dense_twin(source, model).requires_grad_(False)
    volume = torch.zeros((x.x.batch_size, 64, 64, 64, 3))
    batch, *place = x.x.coords.long().unbind(1)
    z, y, column = (c - c.min() for c in place)
    volume[batch, z, y, column] = x.x.features
    volume = volume.permute(0, 4, 1, 2, 3).contiguous()

    def dense() -> Tensor:
        with torch.no_grad():
            logits: Tensor = twin(volume)
        return logits

    if not torch.isfinite(dense()).all():  # another function than ours: normalisation and ReLU fill the empty voxels
        raise RuntimeError("The dense twin's logits are not finite: not timed.")
    times = take_turns({"ours": _forward(model, x), "dense conv3d": dense}, rounds=3)
    yield compare("forward", f"resnet18, {x.x.batch_size} clouds at 64^3", times, "dense conv3d", "ours", 10)
