"""Networks on a GPU: `python -m benchmarks.gpu --help`."""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

import i2p_zoo
from benchmarks.shapes import real_clouds

NETWORKS = ("resnet18", "tf_efficientnet_lite0", "resnet50")
PRECISIONS = {"bf16": (True, torch.bfloat16), "tf32": (True, None), "fp32": (False, None)}
_HEAD = """| network | engine | precision | forward | maps kept | synchronisations | step | clouds/s | memory | first call |
|---|---|---|--:|--:|--:|--:|--:|--:|--:|"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("networks", nargs=-1)
@click.option("--engine", type=click.Choice(["auto", "torch", "spconv_triton", "spconv"]), default="auto")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(list(PRECISIONS)), default=list(PRECISIONS))
@click.option("--clouds", type=click.IntRange(min=1), default=32, help="Of kicad-mini, a batch.")
@click.option("--device", default="cuda", help="Where to run; cpu only shows that everything runs.")
@click.option("--tiles", type=click.IntRange(min=0), default=0, help="Tile shapes that spconv-triton may try; 0 for all.")
@click.option("--seconds", type=float, default=400.0, help="Begin nothing new after this.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the table here.")
def main(
    networks: tuple[str, ...],
    engine: str,
    precisions: tuple[str, ...],
    clouds: int,
    device: str,
    tiles: int,
    seconds: float,
    out: Path | None,
) -> None:
    """Time forward passes and training steps of NETWORKS on real clouds, with kernel maps built anew and kept.

    Example: python -m benchmarks.gpu resnet18 --precision bf16
    """
    begin = time.perf_counter()
    if tiles:
        limit_tiles(tiles)
    title = f"{torch.cuda.get_device_name() if device == 'cuda' else device}, torch {torch.__version__}, {clouds} clouds"
    lines = [title, "", _HEAD]
    click.echo("\n".join(lines))
    for name in networks or NETWORKS:
        case = Case(name, clouds, torch.device(device))
        for precision in precisions:
            if time.perf_counter() - begin > seconds:
                click.echo(f"{name}, {precision}: not begun, {seconds:.0f} s are over")
                continue
            with i2p_zoo.use_engine(engine), set_precision(precision, case.device):
                lines.append(case.measure(engine, precision))
            click.echo(lines[-1])
            if out is not None:
                out.write_text("\n".join(lines) + "\n", encoding="utf-8")


class Case:
    """A network on real clouds: `stem="point", skip_downsamples=2`, no tap of its kernels zero or repeated."""

    def __init__(self, name: str, clouds: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.name, self.device = name, device
        self.model = i2p_zoo.create_model(name, num_classes=10, stem="point", skip_downsamples=2)
        for module in self.model.modules():
            if isinstance(module, i2p_zoo.SparseConv3d):
                module.weight.data += torch.randn_like(module.weight) * 1e-3
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # timm's zeros would hide gradients
                nn.init.uniform_(module.weight, 0.5, 1.5)
        self.model.to(device)
        x = real_clouds(clouds)
        self.features, self.coords = x.features.to(device), x.coords.to(device)
        self.labels = (torch.arange(clouds) % 10).to(device)

    def new_input(self) -> Any:
        """The clouds' voxels as a tensor that no kernel map belongs to yet."""
        return i2p_zoo.SparseTensor(self.features, self.coords, batch_size=len(self.labels))

    def forward(self, x: Any = None) -> None:
        """Runs a forward pass in eval mode."""
        self.model.eval()
        with torch.no_grad():
            self.model(self.new_input() if x is None else x)

    def step(self) -> None:
        """Runs a forward pass and its gradients in training mode."""
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(self.model(self.new_input()).float(), self.labels).backward()

    def measure(self, engine: str, precision: str) -> str:
        """Returns a row of the table."""
        begin = time.perf_counter()
        self.forward()
        self.step()
        self._wait()
        first = time.perf_counter() - begin
        kept = self.new_input()
        forward, reused = self._time(self.forward), self._time(lambda: self.forward(kept))
        step = self._time(self.step)
        memory = torch.cuda.max_memory_allocated() / 2**20 if self.device.type == "cuda" else float("nan")
        times = f"{forward:.1f} ms | {reused:.1f} ms | {self._count_waits()} | {step:.1f} ms"
        rate = 1e3 * len(self.labels) / step
        return f"| {self.name} | {engine} | {precision} | {times} | {rate:.0f} | {memory:.0f} MiB | {first:.1f} s |"

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _time(self, run: Callable[[], None], rounds: int = 15, budget: float = 3.0) -> float:
        """The median of a call's milliseconds, its end waited for."""
        run()
        self._wait()
        times: list[float] = []
        stop = time.perf_counter() + budget
        while len(times) < rounds and (len(times) < 3 or time.perf_counter() < stop):
            begin = time.perf_counter()
            run()
            self._wait()
            times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times)

    def _count_waits(self) -> int | str:
        """How often a forward pass waits for the GPU, as torch's debug mode tells."""
        if self.device.type != "cuda":
            return "-"
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self.forward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message).lower() for warning in caught)


@contextlib.contextmanager
def set_precision(name: str, device: torch.device) -> Iterator[None]:
    """Computes in a precision inside the block: bf16 by autocast, tf32 and fp32 by torch's switches."""
    tf32, dtype = PRECISIONS[name]
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    for backend in backends:
        backend.allow_tf32 = tf32
    try:
        with torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext():
            yield
    finally:
        for backend in backends:
            backend.allow_tf32 = False


def limit_tiles(count: int) -> None:
    """Leaves spconv-triton so many tile shapes to try a layer shape: it compiles 37 and 21 of them otherwise, for minutes."""
    from spconv_triton.pytorch._impl import gemm, pair_kernels

    for kernel in (gemm._gather_gemm_kernel, gemm._dweight_masked_kernel, *vars(pair_kernels).values()):
        if hasattr(kernel, "configs"):
            kernel.configs = kernel.configs[:count]


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.gpu")
