"""E57 files as pye57 writes them: scans with poses, colours and an intensity."""

from __future__ import annotations

import numpy as np
import pye57
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud

RANDOM = np.random.default_rng(0)
TURN = np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)])  # a quarter about z


def columns(points, **others):
    return {f"cartesian{axis}": column for axis, column in zip("XYZ", points.T, strict=True)} | others


def test_scans_are_joined_where_their_poses_put_them(tmp_path):
    near, far = RANDOM.normal(size=(5, 3)), RANDOM.normal(size=(4, 3))
    rgb = RANDOM.integers(0, 256, (9, 3)).astype(np.uint8)
    colors = dict(zip(("colorRed", "colorGreen", "colorBlue"), rgb.T, strict=True))
    intensity = RANDOM.random(9).astype(np.float32)
    file = pye57.E57(str(tmp_path / "a.e57"), mode="w")
    file.write_scan_raw(columns(near, intensity=intensity[:5], **{name: each[:5] for name, each in colors.items()}))
    shift = np.array([500_000, 5_400_000, 100.0])
    file.write_scan_raw(
        columns(far, intensity=intensity[5:], **{name: each[5:] for name, each in colors.items()}),
        rotation=TURN,
        translation=shift,
    )
    file.close()
    found = read_cloud(tmp_path / "a.e57", scene=True)
    turned = np.column_stack([-far[:, 1], far[:, 0], far[:, 2]]) + shift
    assert np.allclose(found["points"], np.concatenate([near, turned]), atol=1e-8)
    assert np.array_equal(found["rgb"], rgb)
    assert np.allclose(found["intensity"][:, 0], intensity)


def test_points_that_a_scan_calls_invalid_are_left_out(tmp_path):
    file = pye57.E57(str(tmp_path / "a.e57"), mode="w")
    points = RANDOM.normal(size=(5, 3))
    file.write_scan_raw(columns(points, cartesianInvalidState=np.array([0, 1, 0, 0, 2], np.int8)))
    file.close()
    assert np.allclose(read_cloud(tmp_path / "a.e57")["points"], points[[0, 2, 3]])


@pytest.mark.parametrize("keep", [60, 1000, -100])
def test_a_damaged_file_is_refused_and_left_where_it_is(tmp_path, keep):
    file = pye57.E57(str(tmp_path / "a.e57"), mode="w")
    file.write_scan_raw(columns(RANDOM.normal(size=(500, 3))))
    file.close()
    content = (tmp_path / "a.e57").read_bytes()[:keep]
    (tmp_path / "a.e57").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"a\.e57"):
        read_cloud(tmp_path / "a.e57")
    assert (tmp_path / "a.e57").read_bytes() == content
