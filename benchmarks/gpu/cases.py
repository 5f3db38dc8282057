"""Our networks on real clouds, with kernel maps built anew and kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import i2p_zoo
from benchmarks.gpu.clock import Clock, set_precision
from benchmarks.shapes import real_clouds

NETWORKS = ("resnet18", "tf_efficientnet_lite0", "resnet50", "convnext_tiny")
HEAD = """| network | precision | forward | maps kept | waits | step | maps kept | waits | clouds/s | memory | first calls |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"""


class Batch:
    """Real clouds' voxels at 0.05, and a class for each cloud.

    Attributes:
        features, coords: (N, 3) and (N, 4), as of a SparseTensor.
        labels: (clouds,) int64.
    """

    def __init__(self, clouds: int, device: torch.device) -> None:
        x = real_clouds(clouds)
        self.features, self.coords = x.features.to(device), x.coords.to(device)
        self.labels = (torch.arange(clouds) % 10).to(device)

    def to_input(self) -> i2p_zoo.SparseTensor:
        """Returns the voxels as a tensor that no kernel map belongs to yet."""
        return i2p_zoo.SparseTensor(self.features, self.coords, batch_size=len(self.labels))


class Case:
    """A network with `stem="point", skip_downsamples=2`, no tap of its kernels zero or repeated.

    Args:
        name: of timm's architecture.
        batch: its clouds.
    """

    def __init__(self, name: str, batch: Batch) -> None:
        torch.manual_seed(0)
        self.name, self.batch = name, batch
        self.model = i2p_zoo.create_model(name, num_classes=10, stem="point", skip_downsamples=2)
        for module in self.model.modules():
            if isinstance(module, i2p_zoo.SparseConv3d):
                module.weight.data += torch.randn_like(module.weight) * 1e-3
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # timm's zeros would hide gradients
                nn.init.uniform_(module.weight, 0.5, 1.5)
        self.model.to(batch.features.device)

    def forward(self, x: Any = None) -> None:
        """Runs a forward pass in eval mode."""
        run_forward(self.model, self.batch.to_input() if x is None else x)

    def step(self, x: Any = None) -> None:
        """Runs a forward pass and its gradients in training mode."""
        run_step(self.model, self.batch.to_input() if x is None else x, self.batch.labels)

    def measure(self, clock: Clock, precision: str) -> tuple[str, dict[str, float]]:
        """Returns a row of the table, and the milliseconds of a forward pass and a step."""
        kept = self.batch.to_input()
        with set_precision(precision, clock.device):
            first = clock.time_once(self.forward) + clock.time_once(self.step)
            forward, forward_kept = clock.time(self.forward), clock.time(lambda: self.forward(kept))
            step, step_kept = clock.time(self.step), clock.time(lambda: self.step(kept))
            waits = [clock.count_waits(run) for run in (self.forward, self.step)]
            memory = clock.find_peak_memory(self.step)
        rate = f"{1e3 * len(self.batch.labels) / step:.0f}"
        cells = [
            *(self.name, precision, f"{forward:.2f} ms", f"{forward_kept:.2f} ms", waits[0], f"{step:.2f} ms"),
            *(f"{step_kept:.2f} ms", waits[1], rate, show_memory(memory), f"{first / 1e3:.1f} s"),
        ]
        return make_row(cells), {"forward": forward, "step": step}


def run_forward(model: nn.Module, x: Any) -> None:
    """Runs a forward pass in eval mode."""
    model.eval()
    with torch.no_grad():
        model(x)


def run_step(model: nn.Module, x: Any, labels: Tensor) -> None:
    """Runs a forward pass and its gradients in training mode."""
    model.train()
    model.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(model(x).float(), labels).backward()


def make_row(cells: list[Any]) -> str:
    """Returns a row of Markdown; None is what is unknown."""
    return f"| {' | '.join('-' if cell is None else str(cell) for cell in cells)} |"


def show_memory(mebibytes: float | None) -> str | None:
    """Returns a number of MiB with its unit."""
    return None if mebibytes is None else f"{mebibytes:.0f} MiB"
