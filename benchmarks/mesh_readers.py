"""Reading meshes and PLY files against the libraries of the formats: seconds, and memory beyond what the imports take.

Each reading is a process of its own, as a user's first one is, and ours and the peer's take turns. The peers can be in
another environment, whose Python `PEERS_PYTHON` names; one that is not installed is left out.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import Result, Times, compare

_PEERS_PYTHON = os.environ.get("PEERS_PYTHON", sys.executable)
_WITHIN = 1 / 1.5  # of the peer's seconds and bytes: the ratio peer / ours is at least this
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
_OURS = ("from i2p_zoo.data.files.cloud_files import read_cloud\nimport torch", "result = read_cloud(path, scene={scene})")
_PLYFILE = (
    "import plyfile",
    "v = plyfile.PlyData.read(path)['vertex']\nstack = lambda *names: np.stack([v[name] for name in names], 1)\n"
    "result = stack('x', 'y', 'z'), stack('red', 'green', 'blue')",
)
_OPEN3D = (
    "import open3d as o3d",
    "m = o3d.io.read_triangle_mesh(path)\nresult = np.asarray(m.vertices), np.asarray(m.triangles)",
)
_OPEN3D_SAMPLED = (
    "import open3d as o3d",
    "m = o3d.io.read_triangle_mesh(path)\nm.compute_triangle_normals()\n"
    "c = m.sample_points_uniformly(2048, True)\nresult = np.asarray(c.points), np.asarray(c.normals)",
)
_TRIMESH = (
    "import trimesh",
    "m = trimesh.load_mesh(path, process=False, skip_materials=True)\nresult = m.vertices, m.faces",
)
# Case, file, whether the vertices are read or points are drawn, the peer and its code.
_ROWS = [
    ("cloud, binary", "cloud.ply", True, "plyfile", _PLYFILE),
    ("mesh, binary", "mesh.ply", True, "Open3D", _OPEN3D),
    ("mesh, binary, 2,048 points drawn", "mesh.ply", False, "Open3D", _OPEN3D_SAMPLED),
    ("mesh of triangles and quads, 2,048 points drawn", "mixed.ply", False, "Open3D", _OPEN3D_SAMPLED),
    ("mesh, text", "text.ply", True, "trimesh", _TRIMESH),
    ("mesh", "mesh.obj", True, "trimesh", _TRIMESH),
    ("mesh, corners with normals and textures", "full.obj", True, "trimesh", _TRIMESH),
    ("mesh", "mesh.off", True, "trimesh", _TRIMESH),
    ("mesh, binary", "mesh.stl", True, "trimesh", _TRIMESH),
    ("mesh, text", "text.stl", True, "trimesh", _TRIMESH),
    ("mesh", "mesh.glb", True, "trimesh", _TRIMESH),
]


def mesh_readers(quick: bool = False) -> Iterator[Result]:
    """`read_cloud` of PLY, OBJ, OFF, STL and GLB, against plyfile, Open3D and trimesh."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_files(folder, *((10_000, 40) if quick else (10_000_000, 1000)))
        for case, name, scene, peer, (imports, reading) in _ROWS:
            if not _is_installed(imports):
                continue
            ours = _CHILD.format(imports=_OURS[0], reading=_OURS[1].format(scene=scene))
            theirs = _CHILD.format(imports=imports, reading=reading)
            seconds: Times = {"ours": [], peer: []}
            sizes: Times = {"ours": [], peer: []}
            for _ in range(3):
                for contestant, code, python in (("ours", ours, sys.executable), (peer, theirs, _PEERS_PYTHON)):
                    taken, grown = _run(python, code, folder / name)
                    seconds[contestant].append(taken)
                    sizes[contestant].append(max(grown, 1))
            title = f"{name}, {case}"
            yield compare("reading", title, seconds, peer, "ours", None if quick else _WITHIN)
            result = compare("reading, memory", title, sizes, peer, "ours", None if quick else _WITHIN)
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
    seconds, grown = json.loads(done.stdout.splitlines()[-1])
    return seconds, grown


def _write_files(folder: Path, points: int, cells: int) -> None:
    """Writes a cloud of that many points, and a wave of `cells` squared squares, each divided into two triangles or whole."""
    import trimesh

    random = np.random.default_rng(0)
    rows = np.empty(points, [("position", "<f4", 3), ("color", "u1", 3)])
    rows["position"], rows["color"] = random.normal(size=(points, 3)), random.integers(0, 256, (points, 3))
    names = [f"float {name}" for name in "xyz"] + [f"uchar {name}" for name in ("red", "green", "blue")]
    (folder / "cloud.ply").write_bytes(_header(points, names) + rows.tobytes())
    vertices, squares = _wave(cells)
    triangles = squares[:, [0, 1, 3, 1, 2, 3]].reshape(-1, 3)
    large = trimesh.Trimesh(vertices, triangles, process=False)
    for name in ("mesh.ply", "mesh.stl", "mesh.glb"):
        large.export(folder / name)
    _write_mixed(folder / "mixed.ply", vertices, squares)
    vertices, squares = _wave(cells // 2)
    triangles = squares[:, [0, 1, 3, 1, 2, 3]].reshape(-1, 3)
    small = trimesh.Trimesh(vertices, triangles, process=False)
    small.export(folder / "text.ply", encoding="ascii")
    small.export(folder / "mesh.off", digits=6)
    small.export(folder / "mesh.obj", digits=6, include_normals=False)
    small.export(folder / "text.stl", file_type="stl_ascii")
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}\nvt {x:.6f} {y:.6f}\nvn 0 0 1" for x, y, z in vertices.tolist()]
    lines += ["f " + " ".join(f"{corner}/{corner}/{corner}" for corner in face) for face in (triangles + 1).tolist()]
    (folder / "full.obj").write_text("\n".join([*lines, ""]))


def _wave(cells: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x, y = np.meshgrid(*2 * [np.linspace(0, 1, cells + 1)])
    vertices = np.stack([x, y, np.sin(7 * x * y)], -1).reshape(-1, 3).astype(np.float32)
    first = np.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)[:-1, :-1].reshape(-1)
    return vertices, np.stack([first, first + 1, first + cells + 2, first + cells + 1], 1)


def _write_mixed(path: Path, vertices: NDArray[np.float32], squares: NDArray[np.int64]) -> None:
    quads, halves = squares[::2], squares[1::2]
    parts = np.empty(len(squares) // 2, [("quad", "u1"), ("corners", "<i4", 4), ("half", "u1"), ("half corners", "<i4", 3)])
    parts["quad"], parts["half"] = 4, 3
    parts["corners"], parts["half corners"] = quads[: len(parts)], halves[: len(parts), :3]
    header = _header(len(vertices), [f"float {name}" for name in "xyz"], 2 * len(parts))
    path.write_bytes(header + vertices.tobytes() + parts.tobytes())


def _header(points: int, properties: list[str], faces: int = 0) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {points}", *(f"property {each}" for each in properties)]
    lines += [f"element face {faces}", "property list uchar int vertex_indices"] if faces else []
    return "\n".join([*lines, "end_header", ""]).encode()
