"""Reading files against the libraries of their formats: seconds, and memory beyond what the imports take.

Each reading is a process of its own, as a user's first one is; ours and the peer's take turns. The peers can be in another
environment, whose Python `PEERS_PYTHON` names; one that is not installed is left out.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.timing import Result, Times, compare

_PEERS_PYTHON = os.environ.get("PEERS_PYTHON", sys.executable)
_WITHIN = 1 / 1.5  # of the peer's seconds and bytes: the ratio peer / ours is at least this
_ROUNDS = 5
_CHILD = """
import json, sys, time
import numpy as np
path = sys.argv[1]
{imports}
def memory(name):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
open("/proc/self/clear_refs", "w").write("5")  # forgets the imports' peak
before, start = memory("VmRSS"), time.perf_counter()
{reading}
seconds = time.perf_counter() - start
print(json.dumps([seconds, memory("VmHWM") - before]))
"""
_IMPORTS = "from i2p_zoo.data.files.cloud_files import read_cloud"


class Reading(NamedTuple):
    """A file, and how its format's library reads what `read_cloud` gives of it."""

    name: str
    case: str
    peer: str
    imports: str
    reading: str
    ours: str = "read_cloud(path)"


_LASPY = "las = laspy.read(path)\nresult = las.xyz"
_PCD = "result = pypcd4.PointCloud.from_path(path).numpy(('x', 'y', 'z'))"
READINGS = [
    Reading("floats.npy", "float32 (N, 3)", "numpy", "", "result = np.load(path)"),
    Reading("doubles.npy", "float64 (N, 3)", "numpy", "", "result = np.load(path)"),
    Reading("scan.bin", "four columns", "numpy", "", "result = np.fromfile(path, np.float32).reshape(-1, 4)"),
    Reading("plain.las", "coordinates", "laspy", "import laspy", _LASPY),
    Reading(
        "colors.las",
        "coordinates and colours",
        "laspy",
        "import laspy",
        f"{_LASPY}, np.stack([las.red, las.green, las.blue], 1)",
    ),
    Reading("plain.laz", "coordinates", "laspy", "import laspy, lazrs", _LASPY),
    Reading("binary.pcd", "binary", "pypcd4", "import pypcd4", _PCD),
    Reading("packed.pcd", "compressed", "pypcd4", "import pypcd4", _PCD),
    Reading("text.pcd", "text", "pypcd4", "import pypcd4", _PCD),
    Reading("cloud.txt", "text, coordinates and colours", "numpy", "", "result = np.loadtxt(path)"),
]


def cloud_readers(quick: bool = False) -> Iterator[Result]:
    """`read_cloud` of npy, bin, LAS, LAZ, PCD and text, against numpy, laspy and pypcd4."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_files(folder, 10_000 if quick else 10_000_000)
        yield from compare_readings(READINGS, folder, quick)


def compare_readings(readings: Sequence[Reading], folder: Path, quick: bool = False) -> Iterator[Result]:
    """Yields the ratios of seconds and of memory of each reading of a file in a folder."""
    for each in readings:
        if not _is_installed(each.imports):
            continue
        # the same for both where they can be: a process that has imported much waits longer for its turn on a busy machine
        is_shared = sys.executable == _PEERS_PYTHON
        imports = {"ours": f"{_IMPORTS}\n{each.imports if is_shared else ''}", each.peer: each.imports}
        if is_shared:
            imports[each.peer] = imports["ours"]
        calls = {"ours": f"result = {each.ours}", each.peer: each.reading}
        pythons = {"ours": sys.executable, each.peer: _PEERS_PYTHON}
        codes = {name: _CHILD.format(imports=imports[name], reading=call) for name, call in calls.items()}
        seconds: Times = {name: [] for name in codes}
        sizes: Times = {name: [] for name in codes}
        for _ in range(_ROUNDS):
            for name, code in codes.items():
                taken, grown = _run(pythons[name], code, folder / each.name)
                seconds[name].append(taken)
                sizes[name].append(max(grown, 1))
        target = None if quick else _WITHIN
        yield compare("reading", f"{each.name}, {each.case}", seconds, each.peer, "ours", target)
        result = compare("reading, memory", f"{each.name}, {each.case}", sizes, each.peer, "ours", target)
        result.unit = ("MB", 1e-6)
        yield result


@functools.cache
def _is_installed(imports: str) -> bool:
    return subprocess.run([_PEERS_PYTHON, "-c", imports], capture_output=True, check=False).returncode == 0  # noqa: S603


def _run(python: str, code: str, path: Path) -> tuple[float, int]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(  # noqa: S603
        [python, "-c", code, str(path)],
        env=environment if python == sys.executable else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{python} could not read {path.name}: {done.stderr[-500:]}")
    taken, grown = json.loads(done.stdout.splitlines()[-1])
    return taken, grown


def _write_files(folder: Path, count: int) -> None:
    """Writes clouds of that many points, and of a tenth of them where a format is slow to read."""
    import laspy
    import pypcd4

    random = np.random.default_rng(0)
    points = random.uniform(-100, 100, (count, 3)).astype(np.float32)
    np.save(folder / "floats.npy", points)
    np.save(folder / "doubles.npy", random.uniform(0, 100, (count, 3)))
    np.column_stack([points, random.random(count, np.float32)]).tofile(folder / "scan.bin")
    few = np.round(points[: count // 10], 1)
    for name, point_format, rows in (("plain.las", 0, points), ("colors.las", 2, points), ("plain.laz", 0, few)):
        header = laspy.LasHeader(point_format=point_format, version="1.2")
        header.scales, header.offsets = [0.001] * 3, [500_000, 5_400_000, 0]
        file = laspy.LasData(header)
        file.x, file.y, file.z = (rows + np.array(header.offsets)).T
        if point_format:
            file.red, file.green, file.blue = random.integers(0, 2**16, (3, len(rows)), dtype=np.uint16)
        file.write(folder / name)
    for name, encoding, rows in (
        ("binary.pcd", "binary", points),
        ("packed.pcd", "binary_compressed", few),
        ("text.pcd", "ascii", few),
    ):
        cloud = pypcd4.PointCloud.from_points(list(rows.T), ["x", "y", "z"], [np.float32] * 3)
        cloud.save(folder / name, encoding=pypcd4.Encoding(encoding))
    rgb = random.integers(0, 256, (len(few), 3))
    np.savetxt(folder / "cloud.txt", np.column_stack([few, rgb]), ["%.6f"] * 3 + ["%d"] * 3)
