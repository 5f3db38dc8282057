"""Networks and peers on a GPU, in under 8 minutes: `python -m benchmarks.gpu --help`."""

from __future__ import annotations

import functools
import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

import i2p_zoo
from benchmarks.gpu import cases, goals, peers
from benchmarks.gpu.cases import NETWORKS, Batch, Case
from benchmarks.gpu.clock import PRECISIONS, Clock, measure_peaks
from benchmarks.gpu.first_batch import run_first_batch
from benchmarks.gpu.parity import run_parity_tests


class Page:
    """Lines of Markdown, printed and written as they come, until time is up.

    Args:
        path: of the file, or None.
        seconds: nothing begins after so many.
    """

    def __init__(self, path: Path | None, seconds: float) -> None:
        self.path, self.seconds, self.begin = path, seconds, time.perf_counter()
        self.lines: list[str] = []

    @property
    def left(self) -> float:
        """Seconds until nothing more begins."""
        return self.seconds - (time.perf_counter() - self.begin)

    def add(self, *lines: str) -> None:
        """Prints and writes lines."""
        self.lines += lines
        click.echo("\n".join(lines))
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")

    def begin_or_tell(self, name: str, run: Callable[[], str]) -> None:
        """Adds what a part returns; a part that fails, or that there was no time to begin, says so."""
        if self.left <= 0:
            self.add(f"| {name} | not begun: {self.seconds:.0f} s are over |")
            return
        try:
            self.add(run())
        except Exception as error:  # one part's fault must not cost the others' figures
            self.add(f"| {name} | {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} |")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("networks", nargs=-1, type=click.Choice(NETWORKS))
@click.option("--engine", type=click.Choice(["auto", "torch", "spconv_triton", "spconv"]), default="auto")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(list(PRECISIONS)), default=list(PRECISIONS))
@click.option("--clouds", type=click.IntRange(min=1), default=32, help="Of kicad-mini, a batch.")
@click.option("--device", default="cuda", help="Where to run; cpu only shows that everything runs.")
@click.option("--quick", is_flag=True, help="As few rounds and tests as there can be, to see that everything runs.")
@click.option("--seconds", type=float, default=400.0, help="Begin nothing new after this.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the tables here.")
def main(
    networks: tuple[str, ...],
    engine: str,
    precisions: tuple[str, ...],
    clouds: int,
    device: str,
    quick: bool,
    seconds: float,
    out: Path | None,
) -> None:
    """Run the tests that need a GPU, then time NETWORKS, by default all, beside their peers on real clouds.

    The tables are Markdown, as docs/performance.md has them; the last says which goals hold.

    Example: python -m benchmarks.gpu --out out/gpu.md
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("torch finds no GPU; `--device cpu --quick --clouds 2` shows that everything runs.")
    page = Page(out, seconds)
    clock = Clock(torch.device(device), *((1, 0.0) if quick else ()))
    page.add(_describe(clock, clouds), "", "| | |", "|---|--:|")
    only = "gpu_gives or on_a_gpu" if quick else ""
    page.begin_or_tell("parity tests", lambda: f"| parity tests | {run_parity_tests(120, only=only)} |")
    page.begin_or_tell("peaks", lambda: "\n".join(f"| {name} | {value} |" for name, value in _find_peaks(clock)))
    figures, batch = goals.Figures(), Batch(clouds, clock.device)
    names = networks or NETWORKS
    with i2p_zoo.use_engine(engine):
        page.begin_or_tell("first batch", lambda: _measure_first(figures, names[0], clouds, device, page.left))
        for precision in precisions:
            page.add("", *cases.HEAD.splitlines())
            for name in names:
                run = functools.partial(_measure_case, figures, clock, batch, name, precision)
                page.begin_or_tell(f"{name} | {precision}", run)
            page.add("", *peers.HEAD.splitlines())
            for name in (name for name in names if name in NETWORKS[:2]):
                for peer in peers.list_peers(name):
                    run = functools.partial(_measure_peer, figures, clock, batch, peer, precision)
                    page.begin_or_tell(f"a peer of {name} | {precision}", run)
    page.add("", *goals.judge_goals(figures, on_gpu=clock.on_gpu, clouds=clouds))


def _describe(clock: Clock, clouds: int) -> str:
    packages = [f"torch {torch.__version__}"]
    for name in ("triton", "timm", "spconv-triton"):
        try:
            packages.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            packages.append(f"no {name}")
    voxels = len(Batch(clouds, torch.device("cpu")).coords)
    name = torch.cuda.get_device_name() if clock.on_gpu else "a CPU, whose figures mean nothing"
    return f"{name}: {', '.join(packages)}; {clouds} clouds of kicad-mini at 0.05, {voxels} voxels"


def _find_peaks(clock: Clock) -> list[tuple[str, str]]:
    return measure_peaks(clock, 8192 if clock.on_gpu else 128)


def _measure_first(figures: goals.Figures, network: str, clouds: int, device: str, left: float) -> str:
    seconds = run_first_batch(network, clouds, device, "bf16", min(left, 120))
    if network == "resnet18":
        figures.first_batch = seconds
    shown = "not finished within 120 s" if seconds is None else f"{seconds:.1f} s"
    return f"| first batch after installation, a step of {network}, bf16 | {shown} |"


def _measure_case(figures: goals.Figures, clock: Clock, batch: Batch, name: str, precision: str) -> str:
    row, times = Case(name, batch).measure(clock, precision)
    figures.times[name, precision] = times
    return row


def _measure_peer(figures: goals.Figures, clock: Clock, batch: Batch, peer: peers.Peer, precision: str) -> str:
    row, times = peer(clock, batch, precision)
    if peer is peers.measure_spconv:
        figures.times["spconv-triton", precision] = times
    return row


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.gpu")
