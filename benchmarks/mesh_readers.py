"""Reading meshes and PLY files against the libraries of the formats."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.readers import Reading, compare_readings
from benchmarks.timing import Result

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
_VERTICES, _DRAWN = "read_cloud(path, scene=True)", "read_cloud(path)"
READINGS = [
    Reading("cloud.ply", "cloud, binary", "plyfile", *_PLYFILE, _VERTICES),
    Reading("mesh.ply", "mesh, binary", "Open3D", *_OPEN3D, _VERTICES),
    Reading("mesh.ply", "mesh, binary, 2,048 points drawn", "Open3D", *_OPEN3D_SAMPLED, _DRAWN),
    Reading("mixed.ply", "mesh of triangles and quads, 2,048 points drawn", "Open3D", *_OPEN3D_SAMPLED, _DRAWN),
    Reading("text.ply", "mesh, text", "trimesh", *_TRIMESH, _VERTICES),
    Reading("mesh.obj", "mesh", "trimesh", *_TRIMESH, _VERTICES),
    Reading("full.obj", "mesh, corners with normals and textures", "trimesh", *_TRIMESH, _VERTICES),
    Reading("mesh.off", "mesh", "trimesh", *_TRIMESH, _VERTICES),
    Reading("mesh.stl", "mesh, binary", "trimesh", *_TRIMESH, _VERTICES),
    Reading("text.stl", "mesh, text", "trimesh", *_TRIMESH, _VERTICES),
    Reading("mesh.glb", "mesh", "trimesh", *_TRIMESH, _VERTICES),
]


def mesh_readers(quick: bool = False) -> Iterator[Result]:
    """`read_cloud` of PLY, OBJ, OFF, STL and GLB, against plyfile, Open3D and trimesh."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_files(folder, *((10_000, 40) if quick else (10_000_000, 1000)))
        yield from compare_readings(READINGS, folder, quick)


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
