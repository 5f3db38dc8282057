"""Faces of voxels against a dense volume, and their squares against cubes written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2p_zoo.viewing.cubes import find_faces


def count_faces(sites):
    """The faces between a voxel and none, of a dense volume."""
    low = sites.min(0)
    dense = np.zeros(sites.max(0) - low + 3, np.int8)
    dense[tuple((sites - low + 1).T)] = 1
    return sum(int(np.abs(np.diff(dense, axis=axis)).sum()) for axis in range(3))


@settings(max_examples=40, deadline=None)
@given(st.sets(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=40))
def test_faces_are_those_of_a_dense_volume(voxels):
    sites = np.array(sorted(voxels))
    faces = find_faces(sites, np.ones(3), np.zeros(3))
    assert len(faces.voxels) == count_faces(sites)
    assert len(faces.corners) == 4 * len(faces.voxels)
    assert len(faces.triangles) == 2 * len(faces.voxels)
    assert faces.triangles.max() == len(faces.corners) - 1
    middles = faces.corners.reshape(-1, 4, 3).mean(1)
    offsets = middles - (sites[faces.voxels] + 0.5)  # from the middle of a face's own voxel to the face
    assert np.sort(np.abs(offsets), axis=1)[:, :2].max() < 1e-5
    assert np.allclose(np.abs(offsets).max(1), 0.47)


@pytest.mark.parametrize("edge", [(1.0, 1.0, 1.0), (4.0, 1.0, 0.5)])
def test_a_voxel_alone_is_a_box_in_its_place(edge):
    edge, origin = np.array(edge), np.array([10.0, 20.0, 30.0])
    faces = find_faces(np.array([[2, 0, -1]]), edge, origin)
    low = origin + np.array([2, 0, -1]) * edge
    assert np.allclose(faces.corners.min(0), low + 0.03 * edge)
    assert np.allclose(faces.corners.max(0), low + 0.97 * edge)
    a, b, c = (faces.corners[faces.triangles[:, column]] for column in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    x, y, z = 0.94 * edge
    assert area == pytest.approx(2 * (x * y + y * z + z * x), rel=1e-5)
