"""Runs the benchmarks: `python -m benchmarks --help`."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import click
import torch

from benchmarks import checkpoints, layers, mesh_readers, networks, readers, scale, sites, tokens
from benchmarks.page import write_page
from benchmarks.timing import Result
from i2p_zoo import keep_freed_memory

BENCHMARKS = {
    "dense": layers.dense,
    "depthwise": layers.depthwise,
    "kernel-maps": sites.kernel_maps,
    "voxelizing": sites.voxelizing,
    "inflated": networks.inflated,
    "training": networks.training,
    "engines": networks.engines,
    "loading": checkpoints.loading,
    "converting": checkpoints.converting,
    "cloud-readers": readers.cloud_readers,
    "mesh-readers": mesh_readers.mesh_readers,
    "scenes": scale.scenes,
    "memory": scale.memory,
    "tokens": tokens.tokens,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/bench"), help="Where results.json and ratios.png go.")
@click.option("--page", type=click.Path(path_type=Path), help="Also write the results as a page of Markdown.")
@click.option("--keep-memory", is_flag=True, help="As in the commands of i2p-zoo: `i2p_zoo.keep_freed_memory()`.")
@click.option("--quick", is_flag=True, help="Small cases only, to see that everything runs.")
def main(names: tuple[str, ...], out: Path, page: Path | None, keep_memory: bool, quick: bool) -> None:
    """Time ours and the peers in turns and print the ratios; NAMES choose among the benchmarks, by default all.

    Nothing else should run on the machine.

    Example: python -m benchmarks dense depthwise
    """
    machine = {"processor": _processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    machine["memory"] = "kept (`--keep-memory`)" if keep_memory else "as Python has it"
    click.echo(f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}")
    if keep_memory:
        keep_freed_memory()
    results: list[Result] = []
    for name in names or BENCHMARKS:
        for result in BENCHMARKS[name](quick):
            results.append(result)
            click.echo(_line(result))
    out.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "results": [result.to_dict() for result in results]}
    (out / "results.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _draw(results, out / "ratios.png")
    if page is not None:
        before = page.read_text(encoding="utf-8") if page.is_file() else ""
        page.write_text(write_page(results, machine, before), encoding="utf-8")
    missed = sum(result.met is False for result in results)
    click.echo(f"{sum(r.met is True for r in results)} targets met, {missed} missed; {out}/results.json, {out}/ratios.png")
    sys.exit(missed > 0 and not quick)


def _line(result: Result) -> str:
    target = "" if result.target is None else f"{'>=' if result.target > 0 else '<='} {abs(result.target):g}"
    word = {True: "met", False: "MISSED", None: ""}[result.met]
    spread = f"{result.median:6.2f} ({result.low:.2f}-{result.high:.2f})"
    return f"{result.benchmark}: {result.case}: {result.ratio} {spread} {target} {word}  [{result.figures()}]"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _draw(results: list[Result], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.28 * len(results) + 1.2))
    for row, result in enumerate(results):
        colour = {True: "tab:green", False: "tab:red", None: "tab:gray"}[result.met]
        error = [[result.median - result.low], [result.high - result.median]]
        axes.errorbar(result.median, row, xerr=error, fmt="o", color=colour, capsize=2)
        if result.target is not None:
            axes.plot(abs(result.target), row, "|", color="black", markersize=10)
    axes.set_yticks(range(len(results)), [f"{r.benchmark}, {r.case}: {r.ratio}" for r in results], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ratio of seconds, median and quartiles of the rounds; the target is a bar")
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
