"""What our networks are compared with: spconv-triton's own layers, dense 3D convolution, and timm's 2D networks."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from benchmarks.gpu.cases import Batch, make_row, run_forward, run_step, show_memory
from benchmarks.gpu.clock import PRECISIONS, Clock, set_precision, set_tf32
from i2p_zoo.sparse.engines.spconv_triton_engine import load_operations

HEAD = "| peer | precision | forward | step | waits of a forward | memory of a step |\n|---|---|--:|--:|--:|--:|"
_CHANNELS = (64, 128, 256, 512)  # of ResNet-18's stages, whose blocks behind the first stage's begin with a stride of 2
_EXTENT = 64
Peer = Callable[[Clock, Batch, str], tuple[str, dict[str, float]]]


def measure_spconv(clock: Clock, batch: Batch, precision: str) -> tuple[str, dict[str, float]]:
    """ResNet-18 of spconv-triton's own layers on its own maps, made anew, with the tile shapes that ours take."""
    name = "spconv-triton, its own maps, resnet18"
    if not clock.on_gpu or importlib.util.find_spec("spconv_triton") is None:
        reason = "needs a GPU" if not clock.on_gpu else "not installed: pip install spconv-triton"
        return make_row([name, precision, reason, None, None, None]), {}
    load_operations()  # else it would search for minutes
    tf32, dtype = PRECISIONS[precision]
    model = make_spconv_network(10).to(clock.device, dtype or torch.float32)  # under autocast it computes in float16
    from spconv_triton import constants

    constants.SPCONV_ALLOW_TF32 = tf32
    with set_tf32(tf32):
        return _measure(clock, name, precision, model, lambda: make_spconv_input(batch, dtype or torch.float32), batch.labels)


def measure_dense(clock: Clock, batch: Batch, precision: str) -> tuple[str, dict[str, float]]:
    """ResNet-18 of dense 3D convolutions, each cloud in a box."""
    model = make_dense_network(10).to(clock.device).to(memory_format=torch.channels_last_3d)
    extent = _EXTENT if clock.on_gpu else 8
    index = (batch.coords.long() - batch.coords.long().amin(0)) % extent  # a cloud of 40 voxels a side fits as it is
    volume = torch.zeros(len(batch.labels), extent, extent, extent, 3, device=clock.device)
    volume[batch.coords[:, 0].long(), index[:, 1], index[:, 2], index[:, 3]] = batch.features
    x = volume.permute(0, 4, 1, 2, 3)
    with set_precision(precision, clock.device):
        return _measure(clock, f"dense conv3d, {extent}^3, resnet18", precision, model, lambda: x, batch.labels)


def measure_images(clock: Clock, batch: Batch, precision: str, name: str) -> tuple[str, dict[str, float]]:
    """Timm's 2D network, its first two halvings skipped as ours are, on as many pixels as there are voxels."""
    side = max(round((len(batch.coords) / len(batch.labels)) ** 0.5), 8)
    model = make_image_network(name).to(clock.device).to(memory_format=torch.channels_last)
    images = torch.randn(len(batch.labels), 3, side, side, device=clock.device)
    x = images.to(memory_format=torch.channels_last)
    label = f"timm, 2D, {name}, {len(x)} x {side} x {side} pixels"
    with set_precision(precision, clock.device):
        return _measure(clock, label, precision, model, lambda: x, batch.labels)


def make_image_network(name: str) -> nn.Module:
    """Returns timm's network with its first two strides of 2 set to 1."""
    model: nn.Module = timm.create_model(name, num_classes=10)
    strided = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d) and m.stride in (2, (2, 2))]
    for module in strided[:2]:
        module.stride = 1 if isinstance(module, nn.MaxPool2d) else (1, 1)
    return model


class _DenseBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU())
        self.second = nn.Sequential(nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm3d(outputs))
        short = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))
        self.shortcut = nn.Identity() if inputs == outputs else short

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def make_dense_network(classes: int) -> nn.Module:
    """Returns ResNet-18 with a point stem of dense 3D convolutions."""
    layers: list[nn.Module] = [nn.Conv3d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm3d(64), nn.ReLU()]
    before = 64
    for channels in _CHANNELS:
        layers += [_DenseBlock(before, channels, 1 if channels == 64 else 2), _DenseBlock(channels, channels, 1)]
        before = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(before, classes))


class _SparseUnit(nn.Module):
    """spconv-triton's convolution with BatchNorm and, on demand, ReLU: 3x3x3 on the same sites, or strided.

    A strided one is 2x2x2, whose sites are ours; those of 3x3x3 would be twice as many.
    """

    def __init__(self, inputs: int, outputs: int, key: str, *, strided: bool, activated: bool) -> None:
        super().__init__()
        import spconv_triton.pytorch as spconv

        options: dict[str, Any] = {"bias": False, "indice_key": key}
        self.convolution = (
            spconv.SparseConv3d(inputs, outputs, 2, 2, **options)
            if strided
            else spconv.SubMConv3d(inputs, outputs, 3, **options)
        )
        self.norm, self.activated = nn.BatchNorm1d(outputs), activated

    def forward(self, x: Any) -> Any:
        out = self.convolution(x)
        values = self.norm(out.features)
        return out.replace_feature(torch.relu(values) if self.activated else values)


class _SparseBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, level: int) -> None:
        super().__init__()
        strided = inputs != outputs
        self.first = _SparseUnit(
            inputs, outputs, f"down{level}" if strided else f"same{level}", strided=strided, activated=True
        )
        self.second = _SparseUnit(outputs, outputs, f"same{level}", strided=False, activated=False)
        short = _SparseUnit(inputs, outputs, f"short{level}", strided=True, activated=False) if strided else None
        self.shortcut = nn.Identity() if short is None else short

    def forward(self, x: Any) -> Any:
        out = self.second(self.first(x))
        return out.replace_feature(torch.relu(out.features + self.shortcut(x).features))


class _SparseNetwork(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_SparseUnit(3, 64, "same0", strided=False, activated=True)]
        before = 64
        for level, channels in enumerate(_CHANNELS):
            layers += [_SparseBlock(before, channels, level), _SparseBlock(channels, channels, level)]
            before = channels
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(before, classes)

    def forward(self, x: Any) -> Tensor:
        out = self.layers(x)
        rows = out.indices[:, 0].long()
        sums = out.features.new_zeros(x.batch_size, out.features.shape[1]).index_add(0, rows, out.features)
        counts = sums.new_zeros(x.batch_size, 1).index_add(0, rows, sums.new_ones(len(rows), 1))
        logits: Tensor = self.head(sums / counts)
        return logits


def make_spconv_network(classes: int) -> nn.Module:
    """Returns ResNet-18 with a point stem of spconv-triton's layers."""
    return _SparseNetwork(classes)


def make_spconv_input(batch: Batch, dtype: torch.dtype) -> Any:
    """Returns the voxels as spconv-triton's tensor, from 0 on and without maps."""
    import spconv_triton.pytorch as spconv

    coords = batch.coords.clone()
    coords[:, 1:] -= coords[:, 1:].amin(0)
    return spconv.SparseConvTensor(batch.features.to(dtype), coords.contiguous(), [_EXTENT] * 3, len(batch.labels))


def _measure(
    clock: Clock, name: str, precision: str, model: nn.Module, make_input: Callable[[], Any], labels: Tensor
) -> tuple[str, dict[str, float]]:
    def forward() -> None:
        run_forward(model, make_input())

    def step() -> None:
        run_step(model, make_input(), labels)

    times = {"forward": clock.time(forward)}
    waits = clock.count_waits(forward)
    try:
        times["step"] = clock.time(step)
        memory = show_memory(clock.find_peak_memory(step))
        last = f"{times['step']:.2f} ms"
    except torch.cuda.OutOfMemoryError:
        last, memory = "out of memory", None
    return make_row([name, precision, f"{times['forward']:.2f} ms", last, waits, memory]), times


def list_peers(network: str) -> list[Peer]:
    """Returns the peers of a network of ours."""
    measure_2d = functools.partial(measure_images, name=network)
    return [measure_spconv, measure_dense, measure_2d] if network == "resnet18" else [measure_2d]
