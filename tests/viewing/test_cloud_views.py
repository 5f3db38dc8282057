"""What is shown of a cloud is what networks are given and what the commands say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import i2p_zoo
from i2p_zoo import InvalidInputError, NotFoundError
from i2p_zoo.data import read_cloud, to_unit_sphere
from i2p_zoo.segmentation import segment
from i2p_zoo.sparse.geometry import unfold_stride
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.viewing import view_cloud, view_file
from tests.cli.conftest import succeed


def make_cloud(count=300, seed=0, scale=1.0):
    return np.random.default_rng(seed).standard_normal((count, 3)) * scale


def sites_of_points(points, edge):
    """Floor of points by a voxel's edge, in doubles; a row for each site."""
    return np.unique(np.floor(points.astype(np.float64) / edge), axis=0)


def middles(level):
    return level.origin + (level.sites + 0.5) * level.edge


def test_voxels_without_a_network_are_those_that_the_points_fall_into():
    points = make_cloud() + 500_000.25
    view = view_cloud({"points": points}, voxel_size=0.5)
    assert [level.stride for level in view.levels] == [(s, s, s) for s in (1, 2, 4, 8)]
    for level in view.levels:
        expected = (sites_of_points(points, 0.5 * level.stride[0]) + 0.5) * 0.5 * level.stride[0]
        assert np.allclose(sorted(middles(level).tolist()), sorted(expected.tolist()), rtol=0, atol=1e-6)
    assert view.classes == {}
    assert view.summary() == f"300 points, {len(view.levels[0].sites)} voxels of 0.5."


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_voxels_are_a_fortieth_of_the_longest_side_where_nobody_says(scale):
    points = make_cloud(scale=scale)
    assert view_cloud(points).edge == pytest.approx(np.ptp(points, axis=0).max() / 40)


def test_a_single_point_is_a_voxel():
    assert [len(level.sites) for level in view_cloud(np.ones((1, 3))).levels] == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_levels_are_the_sites_of_the_networks_own_tensors(name):
    """Hooks of torch on a forward pass of the same cloud: every stride and every site; a transformer's stand on its canvas."""
    model = i2p_zoo.create_model(name, num_classes=3, voxel_size=0.02).eval()
    cloud = {"points": to_unit_sphere(make_cloud(150))}
    met = {}

    def note(module, inputs, output):
        if isinstance(output, SparseTensor):
            met.setdefault(unfold_stride(output.stride), output.coords[:, 1:].flip(1))

    handles = [module.register_forward_hook(note) for module in model.modules()]
    x = model.prepare([cloud["points"]])
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    view = view_cloud(cloud, model)
    assert {level.stride[::-1] for level in view.levels} == {(1, 1, 1), *met}
    for level in view.levels:
        if level.stride[::-1] in met:
            assert sorted(level.sites.tolist()) == sorted(met[level.stride[::-1]].tolist())
    boxes = view.levels[0]
    expected = (sites_of_points(cloud["points"], 0.02) + 0.5) * 0.02
    assert np.allclose(sorted(middles(boxes).tolist()), sorted(expected.tolist()), rtol=0, atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_classes_are_those_that_predict_prints(classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classifier.save_pretrained("network")
    np.savetxt("cloud.xyz", make_cloud(scale=30) + 100)
    printed = json.loads(succeed("predict", "network", "cloud.xyz", "--json").stdout)["cloud.xyz"]
    view = view_file("cloud.xyz", i2p_zoo.from_pretrained("network"))
    assert list(view.classes) == list(printed)
    assert list(view.classes.values()) == pytest.approx(list(printed.values()), rel=1e-5)
    assert np.linalg.norm(view.points, axis=1).max() == pytest.approx(1, abs=1e-5)
    assert "no normalisation" in view.summary()


def test_classes_of_points_are_those_of_segment(unet):
    scene = {"points": make_cloud(500, scale=2) + 1000, "labels": np.zeros(500, np.int64)}
    view = view_cloud(scene, unet, extent=4.0)
    labels = segment(unet, scene, extent=4.0).argmax(1)
    assert np.array_equal(view.labels, labels)
    shares = {name: (labels == number).mean() for number, name in enumerate(("ground", "tree"))}
    assert view.classes == pytest.approx({name: share for name, share in shares.items() if share})
    assert len(view.points) == 500
    assert max(level.stride[0] for level in view.levels) > 2


def test_colors_of_voxels_are_the_means_of_their_points():
    points = np.array([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2], [1.5, 0.1, 0.1]])
    rgb = np.array([[0, 100, 250], [10, 200, 250], [9, 8, 7]], np.uint8)
    fine, coarse, *_ = view_cloud({"points": points, "rgb": rgb}, voxel_size=1).levels
    assert fine.colors.tolist() == [[5, 150, 250], [9, 8, 7]]
    assert coarse.colors.tolist() == [[6, 103, 169]]
    assert view_cloud({"points": points, "rgb": rgb / 255}, voxel_size=1).levels[0].colors.tolist() == fine.colors.tolist()


def test_what_a_file_lost_is_told(tmp_path):
    path = tmp_path / "cloud.npy"
    np.save(path, np.array([[0, 0, 0], [np.nan, 1, 1], [2, 2, 2]], np.float32))
    view = view_file(path)
    assert view.title == "cloud.npy"
    assert "1 point without coordinates (NaN or infinite) left out." in view.summary()
    with pytest.warns(UserWarning, match="1 point without coordinates"):
        assert len(read_cloud(path)["points"]) == len(view.points)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"voxel_size": 0.1}, "its own voxel size"),
        ({"extent": 3.0}, "which a U-Net segments"),
    ],
)
def test_options_that_do_not_go_together_are_refused(classifier, options, message):
    with pytest.raises(InvalidInputError, match=message):
        view_cloud(make_cloud(), classifier, **options)


def test_errors_are_the_readers(tmp_path, unet):
    with pytest.raises(NotFoundError, match="no such file"):
        view_file(tmp_path / "none.ply")
    (tmp_path / "word.txt").write_text("hello")
    with pytest.raises(InvalidInputError, match=r"word\.txt"):
        view_file(tmp_path / "word.txt", unet)
