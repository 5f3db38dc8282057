"""Triangles of polygons: they cover the polygon and nothing else, whatever its shape and the plane that it lies in."""

from __future__ import annotations

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud
from i2p_zoo.data.files.polygons import triangulate

RANDOM = np.random.default_rng(0)
ANGLES = np.linspace(0, 2 * np.pi, 20, endpoint=False)
SHAPES = {
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "arrow": [(2, 2), (0, 1), (-2, 2), (0, 0)],
    "edge in two": [(0, 0), (1, 0), (2, 0), (2, 2)],
    "comb": [(0, 0), (7, 0), (7, 5), (6, 5), (6, 1), (4, 1), (4, 5), (3, 5), (3, 1), (1, 1), (1, 5), (0, 5)],
    "star": np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1) * np.tile([1, 0.3], 10)[:, None],
    "ring with a cut": [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)],
}


def area(polygon):
    x, y = np.transpose(polygon)
    return (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def winding(polygon, points):
    """How often each point is wound about by the polygon, by the angles to its corners."""
    angles = np.arctan2(*(np.asarray(polygon, float)[None] - points[:, None]).transpose(2, 0, 1)[::-1])
    steps = np.roll(angles, -1, 1) - angles
    return np.round(((steps + np.pi) % (2 * np.pi) - np.pi).sum(1) / (2 * np.pi)).astype(int)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_triangles_cover_the_polygon_once_from_any_corner_and_side(shape):
    points = RANDOM.uniform(np.min(shape, 0), np.max(shape, 0), (300, 2))
    for start in range(len(shape)):
        for step in (1, -1):
            flat = np.roll(np.array(shape, float), start, 0)[::step]
            turned = np.hstack([flat, np.zeros((len(flat), 1))]) @ np.linalg.qr(RANDOM.normal(size=(3, 3)))[0]
            triangles = triangulate(turned, np.arange(len(flat)), np.array([len(flat)]))
            assert len(triangles) == len(flat) - 2
            assert np.isclose(sum(area(flat[triangle]) for triangle in triangles), area(flat))
            covered = sum(winding(flat[triangle], points) for triangle in triangles)
            assert np.array_equal(covered, winding(flat, points))


def test_corners_on_a_line_between_others_are_met_by_no_triangle_in_any_plane():
    comb = [(0, 0), (10, 0), *(corner for tooth in range(9, -1, -1) for corner in ((tooth + 0.9, 1), (tooth + 0.5, 0.3)))]
    for _ in range(100):
        flat = np.roll(comb, RANDOM.integers(len(comb)), 0)
        turned = np.hstack([flat, np.zeros((len(flat), 1))]) @ np.linalg.qr(RANDOM.normal(size=(3, 3)))[0] * 10
        triangles = turned[triangulate(turned, np.arange(len(flat)), np.array([len(flat)]))]
        areas = np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1) / 2
        assert np.isclose(areas.sum(), abs(area(comb)) * 100, rtol=1e-3)


def test_polygons_keep_their_order_and_smaller_ones_have_no_triangle():
    vertices = np.array([(*corner, 0) for corner in [*SHAPES["arrow"], *SHAPES["square"]]], float)
    triangles = triangulate(vertices, np.array([4, 5, 6, 0, 1, 0, 1, 2, 3, 5, 4, 5, 6, 7]), np.array([3, 2, 4, 1, 4]))
    assert [sorted(triangle) for triangle in triangles.tolist()] == [[4, 5, 6], [0, 1, 3], [1, 2, 3], [4, 5, 6], [4, 6, 7]]


@pytest.mark.parametrize(
    "shape",
    [[(0, 0), (1, 1), (1, 0), (0, 1), (2, 3)], [(0, 0)] * 6, RANDOM.random((600, 2))],
    ids=["crossing", "a point", "a scrawl"],
)
def test_any_polygon_has_two_triangles_fewer_than_corners(shape):
    vertices = np.array([(*corner, 0) for corner in shape], float)
    assert len(triangulate(vertices, np.arange(len(shape)), np.array([len(shape)]))) == len(shape) - 2


@pytest.mark.parametrize("corner", [-1, 4])
def test_a_corner_that_is_no_vertex_is_refused(corner):
    with pytest.raises(InvalidInputError, match=rf"faces name vertices {min(corner, 0)} to {max(corner, 1)} of 4"):
        triangulate(np.zeros((4, 3)), np.array([0, 1, corner]), np.array([3]))


ROWS = "2 2 0\n0 1 0\n-2 2 0\n0 0 0\n"
HEADER = (
    "element vertex 4\nproperty int x\nproperty int y\nproperty int z\nelement face 1\nproperty list uchar int vertex_index\n"
)
CONCAVE = {
    "a.off": f"OFF\n4 1 0\n{ROWS}4 0 1 2 3\n",
    "a.ply": f"ply\nformat ascii 1.0\n{HEADER}end_header\n{ROWS}4 0 1 2 3\n",
    "a.obj": "".join(f"v {row}\n" for row in ROWS.splitlines()) + "f 1 2 3 4\n",
}


@pytest.mark.parametrize("name", CONCAVE)
def test_no_sample_lies_outside_a_concave_polygon(tmp_path, name):
    (tmp_path / name).write_text(CONCAVE[name])
    x, y, _ = read_cloud(tmp_path / name, points=500)["points"].T
    assert (y <= 1 + np.abs(x) / 2 + 1e-6).all()
    assert (y >= np.abs(x) - 1e-6).all()
