"""Large inputs and large networks, each measured in a process of its own: seconds and peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import Result, compare


def scenes(quick: bool = False) -> Iterator[Result]:
    """Voxelize and forward of one cloud of 10 million points through ResNet-18, against one of an eighth, a voxel each."""
    small, large = (20_000, 160_000) if quick else (1_250_000, 10_000_000)
    seconds: dict[str, list[float]] = {"small": [], "large": []}
    memory: dict[str, list[float]] = {"small": [], "large": []}
    notes: dict[str, float] = {}
    for _ in range(3):
        for name, points in (("small", small), ("large", large)):
            found = _measure("scene", str(points))
            seconds[name].append(found["seconds"] / found["voxels"])
            memory[name].append(found["bytes"] / found["voxels"])
            notes |= {f"{name}, {key}": value for key, value in found.items()}
    case = f"resnet18, {large} points, {notes['large, voxels']:.0f} voxels"
    for benchmark, figures, unit in (("time", seconds, ("us", 1e6)), ("memory", memory, ("bytes", 1.0))):
        yield replace(compare(f"{benchmark} a voxel", case, figures, "large", "small", -1.5, **notes), unit=unit)


def memory(quick: bool = False) -> Iterator[Result]:
    """Peak memory of inflating and saving, against the source plus 1.3 times the result; certifying comes on top."""
    for name in ("resnet18",) if quick else ("resnet18", "resnet50", "resnet152"):
        rounds = [_measure("convert", name) for _ in range(3)]
        bound = [found["source"] + 1.3 * found["result"] for found in rounds]
        peaks = {"ours": [found["peak"] for found in rounds], "source + 1.3 result": bound}
        result = compare("memory of converting", f"i2p-{name}", peaks, "ours", "source + 1.3 result", -1.0)
        yield replace(result, unit=("MiB", 2.0**-20))


def _measure(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  (this file)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _terrain(points: int) -> Tensor:
    """Hills of one point a square unit, so that voxels grow with points."""
    plane = torch.rand((points, 2), generator=torch.Generator().manual_seed(0)) * points**0.5
    heights = 10 * torch.sin(plane[:, 0] / 30) + 10 * torch.cos(plane[:, 1] / 40)
    return torch.cat([plane, heights[:, None]], 1)


def peak() -> int:
    """The process's highest resident memory in bytes since it was last forgotten."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget_peak() -> int:
    """Returns the resident memory, which is now the peak."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak()


def _scene(points: int) -> dict[str, float]:
    import i2p_zoo

    model = i2p_zoo.create_model("resnet18").eval()
    cloud = _terrain(points)
    with torch.no_grad():
        model(i2p_zoo.voxelize(cloud[:1000], 1.0))  # compiled or read from the disk, once
        before, start = forget_peak(), time.perf_counter()
        x = i2p_zoo.voxelize(cloud, 1.0)
        logits = model(x)
    if not torch.isfinite(logits).all():
        raise RuntimeError("The logits are not finite: not timed.")
    return {"voxels": len(x.coords), "seconds": time.perf_counter() - start, "bytes": peak() - before}


def _convert(name: str) -> dict[str, float]:
    import timm

    import i2p_zoo

    with tempfile.TemporaryDirectory() as temporary:
        for network in ("test_resnet", name):  # the first brings in what Python imports on the way
            before = forget_peak()
            source = timm.create_model(network)
            size = sum(tensor.nbytes for tensor in source.state_dict().values())
            model = i2p_zoo.inflate(source)
            i2p_zoo.save_pretrained(model, temporary)
    result = sum(tensor.nbytes for tensor in model.state_dict().values())
    return {"source": size, "result": result, "peak": peak() - before}


if __name__ == "__main__":
    kind, argument = sys.argv[1:]
    sys.stdout.write(json.dumps(_scene(int(argument)) if kind == "scene" else _convert(argument)))
