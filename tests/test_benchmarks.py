"""The benchmarks: how ratios are taken, that peers compute what ours does, and that the command runs."""

from __future__ import annotations

import functools
import json
import sys
import zipfile

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner

import i2p_zoo
from benchmarks import furniture, near_twins, point_networks, shapes
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.layers import WINDOW
from benchmarks.peers import dense_twin, exact_convolution, gather_scatter, spconv_engine
from benchmarks.point_neighbours import fps, knn_graph, radius
from benchmarks.timing import compare, take_turns
from i2p_zoo import SparseTensor
from i2p_zoo.data import CloudSet, load_npz
from i2p_zoo.sparse.kernel_maps import window_sites
from i2p_zoo.sparse.sparse_convolution import convolve
from tests.helpers import random_cloud, randomise_norms_, relative_error, seeded


def test_contestants_take_turns_of_an_untimed_and_a_timed_call():
    calls = []
    times = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "a", "b", "b"] * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_budget_ends_after_three_rounds_at_the_soonest():
    assert len(take_turns({"a": lambda: None}, rounds=50, budget=0)["a"]) == 3


def test_ratio_is_taken_within_each_round():
    times = {"peer": [2.0, 9.0, 20.0], "ours": [1.0, 3.0, 5.0]}  # ratios 2, 3, 4
    result = compare("b", "c", times, "peer", "ours", 2.5, note=1)
    assert (result.low, result.median, result.high) == (2.5, 3.0, 3.5)
    assert result.seconds == {"peer": 9.0, "ours": 3.0}
    assert result.notes == {"note": 1}


@pytest.mark.parametrize(("target", "met"), [(None, None), (3.0, True), (3.1, False), (-3.0, True), (-2.9, False)])
def test_target_is_at_least_or_if_negative_at_most(target, met):
    times = {"peer": [3.0] * 3, "ours": [1.0] * 3}
    assert compare("b", "c", times, "peer", "ours", target).met is met


def test_sphere_has_about_the_voxels_asked_for():
    for voxels in (1_000, 20_000):
        assert 0.8 * voxels < len(shapes.sphere(voxels)) < 1.2 * voxels


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # spconv's own
@pytest.mark.parametrize("engine", [gather_scatter, spconv_engine])
def test_peer_engines_compute_the_exact_convolution(engine):
    x = random_cloud(16, voxels=300, extent=8, dtype=torch.float32)
    _, _, kmap = window_sites(x.cache, x.coords, None, WINDOW)
    weight = torch.randn((24, 3, 3, 3, 16), generator=seeded())
    exact = exact_convolution(x.features, weight.flatten(1, 3), kmap)
    with engine():
        assert relative_error(convolve(x.features, weight, kmap, 1), exact) < 1e-5
    assert relative_error(convolve(x.features, weight, kmap, 1), exact) < 1e-5


def test_dense_twin_computes_the_sparse_network_where_all_voxels_are_active():
    source = randomise_norms_(timm.create_model("resnet18", num_classes=4)).eval()
    model = i2p_zoo.inflate(source, inflation="average")
    volume = torch.randn((1, 3, 32, 32, 32), generator=seeded())
    with torch.no_grad():
        expected = model(SparseTensor.from_dense(volume))
        assert relative_error(dense_twin(source, model)(volume), expected) < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.long
def test_every_benchmark_runs_on_small_cases(name, tmp_path):
    result = CliRunner().invoke(main, [name, "--quick", "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert results
    assert all(0 < r["low"] <= r["median"] <= r["high"] for r in results)
    assert (tmp_path / "ratios.png").stat().st_size > 1000


def test_command_writes_results_and_a_picture(tmp_path):
    page = tmp_path / "page.md"
    arguments = ["depthwise", "--quick", "--out", str(tmp_path), "--page", str(page)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "gather-scatter / ours" in result.output
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "ratios.png", "page.md"}
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    rows = [line for line in page.read_text().splitlines() if "gather-scatter / ours" in line]
    assert [f"{r['median']:.2f} ({r['low']:.2f}" in row for r, row in zip(results, rows, strict=True)] == [True, True]


def clouds_of_points(count=3, points=40):
    return torch.rand(count * points, 3, generator=seeded()), torch.arange(count).repeat_interleave(points)


def test_farthest_points_are_those_of_a_loop():
    x, batch = clouds_of_points()
    rows = fps(x, batch, 0.2, random_start=False).view(3, 8)
    for sample, cloud in enumerate(x.double().view(3, 40, 3)):
        expected = [0]
        for _ in range(7):
            expected.append(int(torch.cdist(cloud, cloud[expected]).amin(1).argmax()))
        assert (rows[sample] - 40 * sample).tolist() == expected


def test_neighbours_within_a_radius_are_the_first_in_order():
    x, batch = clouds_of_points()
    centres = fps(x, batch, 0.2)
    pairs = radius(x, x[centres], 0.4, batch, batch[centres], max_num_neighbors=4)
    for number, row in enumerate(centres.tolist()):
        near = (torch.cdist(x[row : row + 1].double(), x.double())[0] <= 0.4) & (batch == batch[row])
        assert pairs[1][pairs[0] == number].tolist() == near.nonzero().flatten()[:4].tolist()


@pytest.mark.parametrize("loop", [False, True])
def test_nearest_neighbours_are_of_the_same_cloud(loop):
    x, batch = clouds_of_points()
    neighbours, centres = knn_graph(x, 5, batch, loop=loop)
    for row in range(len(x)):
        distances = torch.cdist(x[row : row + 1], x)[0].masked_fill(batch != batch[row], torch.inf)
        if not loop:
            distances[row] = torch.inf
        assert set(neighbours[centres == row].tolist()) == set(distances.topk(5, largest=False).indices.tolist())


class NearestCorner(torch.nn.Module):
    """Stands for a point network: it reads the mean of each cloud's points."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, x, pos, batch):
        return self.head(torch.stack([pos[batch == sample].mean(0) for sample in range(int(batch[-1]) + 1)]))


def test_point_networks_train_on_drawn_points_and_are_measured_by_class():
    points = np.random.default_rng(0).normal(scale=0.05, size=(12, 60, 3)).astype("f4")
    labels = np.arange(12) % 2
    points[labels == 1] += 1
    clouds = CloudSet(points, labels, ("low", "high"))
    torch.manual_seed(0)
    model = NearestCorner()
    point_networks.train(model, clouds, points=50, steps=60, batch_size=6, lr=0.1, seed=0)
    assert point_networks.evaluate(model, clouds, points=80, batch_size=5) == (1.0, 1.0)  # more than a cloud has, too


def test_point_networks_say_which_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pointcloud", None)
    result = CliRunner().invoke(point_networks.main, ["dgcnn", "--steps", "1"])
    assert (result.exit_code, result.output.startswith("Error: This benchmark needs `pip install torch-pointcloud`")) == (
        1,
        True,
    )


def test_near_twins_are_other_samples_of_the_same_shape_and_accuracies_stand_by_nearness():
    random = np.random.default_rng(0)
    shapes_ = random.normal(size=(3, 400, 3)).astype("f4")
    twin, apart = shapes_[0, random.permutation(400)], shapes_[1] + 3
    train_set = CloudSet(shapes_, np.array([0, 1, 1]), ("a", "b"))
    test_set = CloudSet(np.stack([twin, apart]), np.array([0, 0]), ("a", "b"))
    nearness = near_twins.measure_nearness(train_set, test_set, points=100)
    assert nearness.classes[0] == 0
    assert nearness.ratios[0] < near_twins.TWIN < near_twins.NO_TWIN < nearness.ratios[1]
    table = near_twins.format_accuracies(nearness.ratios, {"net": np.array([0, 1])}, test_set.hard_labels())
    assert table.splitlines() == [
        "|  | all (2) | twin below 1.1 (1) | between (0) | none below 1.25 (1) |",
        "| --- | --: | --: | --: | --: |",
        "| net | 50.0 | 100.0 |  | 0.0 |",
    ]


# A plate of 2 by 1 that stands on its long side at z = 0.5, y up: red, and a triangle of no material, a quarter as large.
PLATE = """mtllib a.mtl
v 0 0 0.5
v 2 0 0.5
v 2 1 0.5
v 0 1 0.5
v 0 -1 0.5
v 1 -1 0.5
o plate
usemtl red
f 1 2 3 4
o rest
usemtl none
f 1 5 6
"""


def write_library(path, names, rotation=None):
    lines = [f"name#{row}={name}\nmodel#{row}=/lib/a/a.obj" for row, name in enumerate(names, 1)]
    if rotation:
        lines.append(f"modelRotation#1={rotation}")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines))
        archive.writestr("lib/a/a.obj", PLATE)
        archive.writestr("lib/a/a.mtl", "newmtl red\nKd 1 0 0\n")
    return path


def test_furniture_stands_upright_with_its_materials_colours_and_half_of_each_class_is_for_training(tmp_path):
    names = ["Glass door", "Door", "Exterior door", "Screen door", "Window", "Pool table", "Round table", "Toaster"]
    library, out = write_library(tmp_path / "a.sh3f", names), tmp_path / "furniture.npz"
    run = CliRunner().invoke(furniture.main, [str(library), "--points", "4000", "--out", str(out)])
    assert (run.exit_code, run.stdout) == (0, f"{out}: 4 training and 3 test clouds of 2 classes\n")
    with np.load(out) as file:
        arrays = dict(file)
    label, classes = arrays["label"], list(arrays["classes"])
    assert [classes[row] for row in label] == ["door or window"] * 5 + ["table"] * 2
    assert [int((arrays["split"][label == row] == 0).sum()) for row in np.unique(label)] == [3, 1]
    points, colors = arrays["points"][0], arrays["colors"][0]
    np.testing.assert_allclose(points.min(0), [0, -0.5, -1], atol=0.05)
    np.testing.assert_allclose(points.max(0), [2, -0.5, 1], atol=0.05)
    np.testing.assert_allclose(np.abs(arrays["normals"][0]), np.tile([0, 1, 0], (4000, 1)), atol=1e-6)
    red = (colors == [255, 0, 0]).all(1)
    assert np.array_equal(red, points[:, 2] >= 0)
    assert abs(red.mean() - 0.8) < 0.03
    train, test = load_npz(out)
    assert (len(train), len(test)) == (4, 3)
    another = CliRunner().invoke(furniture.main, [str(library), "--points", "4000", "--seed", "1", "--out", str(out)])
    assert another.exit_code == 0
    with np.load(out) as file:
        assert not np.array_equal(file["points"][0], points)


FURNITURE = {
    "Winchester armchair": "armchair",
    "Armchair ottoman": None,
    "Bunk bed": "bed",
    "Bedside table": "table",
    "Table on trestles": "table",
    "Table tennis bat": None,
    "Old jar": "bottle or vase",
    "Plate, glass and cutlery": None,
    "Glass door cabinet": "cabinet",
    "Chair with cushion": "chair",
    "Wheelchair": None,
    "Quadruple French window 3 panes": "door or window",
    "Doormat": None,
    "Wall spotlight": "lamp",
    "Flashlight": None,
    "Sitting female": "person",
    "Pine under snow": "plant",
    "Sofa 2 seats": "sofa",
    "Wall double socket": "switch or socket",
    "Concept Sedan 02 Sport": "vehicle",
    "Card game": None,
}


@pytest.mark.parametrize(("name", "label"), FURNITURE.items())
def test_furniture_has_the_class_that_its_name_tells(name, label):
    row = furniture.find_label(name)
    assert (None if row is None else list(furniture.CLASSES)[row]) == label


def test_furniture_is_turned_as_its_library_says(tmp_path):
    library = write_library(tmp_path / "a.sh3f", ["Door", "Door"], rotation="0 -1 0 1 0 0 0 0 1")  # x becomes up
    with zipfile.ZipFile(library) as archive:
        turned, plain = furniture.list_models(archive)
        draw = functools.partial(furniture.sample, archive, points=500)
        points = draw(turned, random=np.random.default_rng(0))[0]
        expected = draw(plain, random=np.random.default_rng(0))[0]
    np.testing.assert_allclose(points[:, [2, 0]], expected[:, [0, 2]] * [1, -1], atol=1e-6)


def test_a_library_without_furniture_of_a_class_is_named(tmp_path):
    library = write_library(tmp_path / "a.sh3f", ["Toaster"])
    run = CliRunner().invoke(furniture.main, [str(library), "--out", str(tmp_path / "out.npz")])
    assert (run.exit_code, (tmp_path / "out.npz").exists()) == (1, False)
    assert "a.sh3f: no model has the name of a class (armchair, bed, " in run.stderr
