"""Deployed networks beside our own engine: `python -m benchmarks.deployment --help`."""

from __future__ import annotations

import copy
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch._dynamo.testing import CompileCounterWithBackend

import i2p_zoo
from i2p_zoo.data import load_data
from i2p_zoo.segmentation import create_unet

_BATCHES = (1, 32)
_FAMILIES: dict[str, Callable[[], Any]] = {
    **{
        name: lambda name=name: i2p_zoo.create_model(name, num_classes=5)  # type: ignore[misc]
        for name in (
            *("resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_100", "convnext_atto", "densenet121", "regnety_002"),
            *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"),
        )
    },
    "resnet18, preset image2point": lambda: i2p_zoo.create_model("resnet18", num_classes=5, preset="image2point"),
    "U-Net on tf_efficientnet_lite0": lambda: create_unet("tf_efficientnet_lite0", num_classes=5, pretrained=False),
}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Measure exported and compiled networks, and write what comes out into a page."""


_page = click.option("--page", type=click.Path(path_type=Path, exists=True), help="Page whose table is replaced.")


@main.command()
@click.argument("model")
@click.option("--clouds", "count", type=int, default=199, help="Of kicad-mini's test split.")
@click.option("--threads", type=int, default=1, help="More than one are timed by the clock: nothing else should run.")
@_page
def exported(model: str, count: int, threads: int, page: Path | None) -> None:
    """Time the exported file of MODEL, a folder trained on kicad-mini, and its int8 form, by one thread's processor time."""
    torch.set_num_threads(threads)
    network = i2p_zoo.from_pretrained(model).eval()
    test = load_data("kicad-mini")[1]
    clouds, labels = [np.ascontiguousarray(cloud, np.float32) for cloud in test.points[:count]], np.asarray(test.labels[:count])
    with tempfile.TemporaryDirectory() as folder:
        path, small = i2p_zoo.export_onnx(network, Path(folder) / "model.onnx"), Path(folder) / "int8.onnx"
        quantize_dynamic(path, small, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"])
        runs = {"torch": lambda batch: _run_network(network, batch)}
        runs |= {"onnxruntime": _open(path, threads), "int8": _open(small, threads)}
        sizes = {
            "torch": "",
            **{name: f"{file.stat().st_size / 1e6:.1f}" for name, file in (("onnxruntime", path), ("int8", small))},
        }
        clock = time.process_time if threads == 1 else time.perf_counter
        times = {(name, size): _time(run, clouds, size, clock) for size in _BATCHES for name, run in runs.items()}
    expected = times["torch", 1][0]
    rows = [
        "| | one by one, ms | in batches of 32, ms | largest difference | same class | right | MB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in runs:
        logits = times[name, 1][0]
        difference = (np.abs(logits - expected).max(1) / np.abs(expected).max(1)).max()
        same, right = int((logits.argmax(1) == expected.argmax(1)).sum()), float((logits.argmax(1) == labels).mean())
        rows.append(
            f"| {name} | {times[name, 1][1]:.1f} | {times[name, 32][1]:.1f} | {difference:.1e} | {same} of {len(clouds)} | "
            f"{100 * right:.1f} % | {sizes[name]} |"
        )
    _write("exported", rows, page)


def _run_network(network: Any, clouds: list[Any]) -> Any:
    with torch.no_grad():
        return network([torch.from_numpy(cloud) for cloud in clouds]).numpy()


def _open(path: Path, threads: int) -> Callable[[list[Any]], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(clouds: list[Any]) -> Any:
        numbers = np.repeat(np.arange(len(clouds)), [len(cloud) for cloud in clouds])
        return session.run(None, {"points": np.concatenate(clouds), "batch": numbers})[0]

    return run


def _time(run: Callable[[list[Any]], Any], clouds: list[Any], size: int, clock: Callable[[], float]) -> tuple[Any, float]:
    """Returns the logits of clouds in batches, and the milliseconds of one."""
    batches = [clouds[first : first + size] for first in range(0, len(clouds), size)]
    run(batches[0])
    start = clock()
    logits = [run(batch) for batch in batches]
    return np.concatenate(logits), 1e3 * (clock() - start) / len(clouds)


@main.command()
@click.argument("names", nargs=-1, type=click.Choice(list(_FAMILIES)))
@click.option("--backend", default="aot_eager", help="Of torch.compile; inductor takes minutes a network.")
@_page
def compiled(names: tuple[str, ...], backend: str, page: Path | None) -> None:
    """Compile networks, and their programs of `export_program`, and count recompilations over ten clouds of other sizes."""
    rows = [
        "| network | eval | training step | graph breaks | recompiled | program | recompiled | program / network |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in names or _FAMILIES:
        torch.manual_seed(0)
        network = _FAMILIES[name]().eval()
        cells = [*_compile_network(network, backend), *_compile_program(network, backend)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
        click.echo(rows[-1])
    _write("compiled", rows, page)


def _ten_clouds() -> list[Any]:
    """Clouds of 1 to 2,000 points; the first is no small one, of which torch would take sizes for fixed."""
    random = np.random.default_rng(0)
    return [
        torch.from_numpy(random.uniform(-1, 1, (points, 3))).float()
        for points in (400, 1, 100, 150, 700, 2, 1000, 50, 300, 2000)
    ]


def _compile_network(network: Any, backend: str) -> Iterator[str]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    counter = CompileCounterWithBackend(backend)
    run: Any = torch.compile(network, backend=counter)
    with torch.no_grad():
        yield f"{max(_differ(run([cloud]), network([cloud])) for cloud in _ten_clouds()):.0e}"
    plain, other = copy.deepcopy(network).train(), copy.deepcopy(network).train()
    for step in (plain, torch.compile(other, backend=counter)):
        torch.manual_seed(1)
        step(_ten_clouds()[3:]).square().mean().backward()
    pairs = zip(plain.parameters(), other.parameters(), strict=True)
    yield f"{max(_differ(b.grad, a.grad) for a, b in pairs if a.grad is not None and b.grad is not None):.0e}"
    yield str(len(torch._dynamo.utils.counters["graph_break"]))
    yield str(max(counter.frame_count - 1, 0))


def _compile_program(network: Any, backend: str) -> Iterator[str]:
    try:
        program, prepare = i2p_zoo.export_program(network)
    except i2p_zoo.UnsupportedError:
        yield from ("", "", "")
        return
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    run: Any = torch.compile(program.module(), backend=counter, dynamic=True)
    with torch.no_grad():
        yield f"{max(_differ(run(*prepare([cloud])), network([cloud])) for cloud in _ten_clouds()):.0e}"
        yield str(counter.frame_count - 1)
        last = [_ten_clouds()[-1]]
        seconds = []
        calls: list[Callable[[], Any]] = [lambda: run(*prepare(last)), lambda: network(last)]
        for call in calls:
            start = time.process_time()
            for _ in range(5):
                call()
            seconds.append(time.process_time() - start)
        yield f"{seconds[0] / seconds[1]:.1f}"


def _differ(actual: Any, expected: Any) -> float:
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def _write(name: str, rows: list[str], page: Path | None) -> None:
    """Prints a table, and puts it between its marks on a page."""
    click.echo("\n".join(rows))
    if page is not None:
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        text = page.read_text("utf-8")
        table = begin + "\n" + "\n".join(rows) + "\n\n" + end
        page.write_text(re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda match: table, text, flags=re.S), "utf-8")


if __name__ == "__main__":
    main()
