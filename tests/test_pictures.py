"""Each picture is a readable PNG that shows what it was given, whatever was drawn before."""

from __future__ import annotations

import re

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from i2p_zoo.layers.kernel_inflation import inflate_weight
from i2p_zoo.pictures import (
    draw_accuracies,
    draw_clouds,
    draw_confusion,
    draw_curves,
    draw_kernels,
    draw_planes,
    draw_scenes,
)

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "picture.png"


def read_png(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 100
        assert max(image.size) < 5000
        return np.asarray(image.convert("RGB")).astype(int)


def random_clouds(count, points=30):
    return list(np.random.default_rng(0).normal(size=(count, points, 3)).astype(np.float32))


def titles(figure):
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


IMAGES = {"square": (64, 64), "large": (224, 224), "wide": (8, 200), "tall": (200, 8), "one pixel": (1, 1), "one row": (1, 70)}


@pytest.mark.parametrize("shape", IMAGES.values(), ids=IMAGES.keys())
def test_an_image_of_any_size_is_drawn(path, shape):
    image = torch.tensor(RED)[:, None, None].expand(3, *shape)
    draw_planes(path, {"name": image}, {"name": [("cat", 0.5)]})
    picture = read_png(path)
    assert (np.abs(picture - [255, 0, 0]).max(2) < 40).sum() > 5, "there are red pixels"


def place_of(picture, color):
    """Mean row and column of the pixels of a color."""
    found = np.argwhere(np.abs(picture - np.array(color) * 255).max(2) < 40)
    assert len(found) > 50
    return found.mean(0)


@pytest.mark.parametrize("axis", [0, 1], ids=["top and bottom", "left and right"])
def test_images_are_drawn_upright_and_not_mirrored(path, axis):
    image = torch.zeros(3, 60, 60)
    first, second = (image.select(0, channel).chunk(2, axis)[half] for half, channel in ((0, 0), (1, 2)))
    first.fill_(1), second.fill_(1)
    draw_planes(path, {"name": image}, {"name": []})
    picture = read_png(path)
    red, blue = place_of(picture, RED), place_of(picture, BLUE)
    assert red[axis] < blue[axis] - 20
    assert abs(red[1 - axis] - blue[1 - axis]) < abs(red[axis] - blue[axis])


def test_planes_name_the_three_likeliest_classes_of_each_image(path, figures):
    classes = {"a": [("cat", 0.514), ("dog", 0.3), ("cow", 0.1), ("sea", 0.05)], "b": [("tree", 1.0)]}
    images = dict.fromkeys("ab", torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0)))
    draw_planes(path, images, classes)
    assert titles(figures[0]) == ["a\ncat 0.51\ndog 0.30\ncow 0.10", "b\ntree 1.00"]


def test_colors_out_of_range_are_clamped(path):
    draw_planes(path, {"name": torch.linspace(-2, 3, 3 * 36).view(3, 6, 6)}, {"name": []})
    read_png(path)


def test_kernels_are_drawn_slice_by_slice_on_one_symmetric_scale(path, figures):
    kernel = torch.arange(9.0).view(1, 1, 3, 3) - 6
    draw_kernels(path, {name: inflate_weight(kernel, name)[0, ..., 0] for name in ("center", "copy")})
    read_png(path)
    assert titles(figures[0]) == [f"{name}, z = {z}" for name in ("center", "copy") for z in ("-1", "+0", "+1")]
    shown = [axis.images[0] for axis in figures[0].axes]
    assert {image.get_clim() for image in shown} == {(-6.0, 6.0)}
    empty = np.zeros((3, 3))
    plane = kernel[0, 0].numpy()
    for image, expected in zip(shown, [empty, plane, empty, plane, plane, plane], strict=True):
        assert np.array_equal(image.get_array(), expected)


KERNELS = {
    "a parameter": {"center": torch.nn.Parameter(torch.ones(3, 3, 3))},
    "one tap": {"center": torch.ones(1, 1, 1)},
    "zeros": {"center": torch.zeros(3, 3, 3), "copy": torch.zeros(3, 3, 3)},
    "uneven sides": {"center": torch.ones(3, 1, 7)},
}


@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS.keys())
def test_any_kernel_is_drawn(path, kernels):
    draw_kernels(path, kernels)
    read_png(path)


def test_kernels_of_unequal_depth_are_drawn_together_each_by_its_own_middle(path, figures):
    draw_kernels(path, {"deep": torch.ones(5, 3, 3), "flat": torch.ones(1, 3, 3)})
    read_png(path)
    assert titles(figures[0]) == [*(f"deep, z = {z:+d}" for z in range(-2, 3)), "flat, z = +0"]


def test_clouds_that_are_named_wrongly_say_so_in_red(path, figures):
    draw_clouds(path, random_clouds(3), ["cat", "dog", "cow"], ["cat", "cow", "cow"])
    read_png(path)
    assert titles(figures[0]) == ["cat", "cow\n(is dog)", "cow"]
    assert [axis.title.get_color() for axis in figures[0].axes[:3]] == ["black", "#b00020", "black"]


def drawn_points(axis):
    return np.stack([np.asarray(values) for values in axis.collections[0]._offsets3d], 1)


@pytest.mark.parametrize(("count", "columns", "places"), [(1, 5, 5), (5, 5, 5), (6, 5, 10), (3, 1, 3)])
def test_every_cloud_gets_a_place_of_its_own(path, figures, count, columns, places):
    clouds = random_clouds(count)
    draw_clouds(path, clouds, ["cat"] * count, ["cat"] * count, columns)
    read_png(path)
    axes = figures[0].axes
    assert len(axes) == places
    assert [len(axis.collections) for axis in axes] == [1] * count + [0] * (places - count)
    assert all(np.allclose(drawn_points(axis), cloud) for axis, cloud in zip(axes, clouds, strict=False))


def test_a_large_cloud_is_thinned_and_says_so(path, figures):
    """As a scan is that `predict --picture` is given, of four columns too."""
    small, large = random_clouds(2)
    large = np.tile(np.concatenate([large, large[:, :1]], axis=1), (9, 1))
    draw_clouds(path, [small, large], ["cat", "dog"], ["cat", "cow"], most=len(small))
    read_png(path)
    assert titles(figures[0])[:2] == ["cat", f"cow\n(is dog)\n{len(small)} of {len(large)} points"]
    assert len(drawn_points(figures[0].axes[1])) == len(small)


CLOUDS = {
    "one point": np.zeros((1, 3), np.float32),
    "a plane": np.random.default_rng(0).uniform(size=(20, 3)) * [1, 1, 0],
    "a line": np.linspace(0, 1, 20)[:, None] * [0, 0, 1],
}


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
def test_a_cloud_without_volume_is_drawn(path, cloud):
    draw_clouds(path, [cloud], ["cat"], ["dog"])
    read_png(path)


def test_curves_are_means_of_eight_steps_at_the_last_of_them(path, figures):
    draw_curves(path, {"run": [list(range(10))], "other": [[4.0] * 20, [2.0] * 20]})
    read_png(path)
    (axis,) = figures[0].axes
    rising, level, lower = axis.get_lines()
    assert rising.get_xdata().tolist() == [8, 9, 10]
    assert np.allclose(rising.get_ydata(), [3.5, 4.5, 5.5])
    assert level.get_xdata().tolist() == list(range(8, 21))
    assert np.allclose(level.get_ydata(), 4)
    assert np.allclose(lower.get_ydata(), 2)


def legend_of(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_seeds_of_a_run_share_a_color_and_a_line_in_the_legend(path, figures):
    draw_curves(path, {"a": [[1.0, 2.0]] * 3, "b": [[2.0, 1.0]] * 2})
    colors = [line.get_color() for line in figures[0].axes[0].get_lines()]
    assert len(set(colors[:3])) == len(set(colors[3:])) == 1
    assert colors[0] != colors[3]
    assert legend_of(figures[0]) == ["a", "b"]


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_run_shorter_than_the_mean_can_be_seen(path, figures, steps):
    draw_curves(path, {"short": [[3.0] * steps]})
    read_png(path)
    (line,) = figures[0].axes[0].get_lines()
    assert line.get_xdata()[-1] == steps
    assert np.allclose(line.get_ydata(), 3)
    marked = line.get_marker() not in (None, "None", "")
    assert marked or len(line.get_xdata()) > 1, "a single point without a marker cannot be seen"


@pytest.mark.parametrize("count", [4, 5, 9])
def test_all_runs_are_drawn_also_where_there_are_more_than_colors(path, figures, count):
    names = [f"run {number}" for number in range(count)]
    draw_curves(path, {name: [[1.0, 2.0]] for name in names})
    assert legend_of(figures[0]) == names


def test_drawing_changes_no_global_state_of_matplotlib(path):
    def settings():  # reading the backend would choose one
        return {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"}

    before, open_figures = settings(), plt.get_fignums()
    draw_planes(path, {"name": torch.rand(3, 9, 9)}, {"name": []})
    draw_kernels(path, {"center": torch.ones(3, 3, 3)})
    draw_clouds(path, random_clouds(1), ["a"], ["a"])
    draw_curves(path, {"run": [[1.0, 2.0]]})
    assert plt.get_fignums() == open_figures
    assert settings() == before


def test_confusion_is_drawn_row_by_row_with_its_numbers(path, figures):
    confusion = np.array([[3, 1, 0], [0, 0, 0], [0, 2, 2]])
    draw_confusion(path, confusion, ("ball", "rod", "ring"))
    (axis,) = figures[0].axes
    shares = np.array([[0.75, 0.25, 0], [0, 0, 0], [0, 0.5, 0.5]])
    assert np.allclose(axis.images[0].get_array(), shares)
    numbers = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axis.texts}
    assert numbers == {(0, 0): "3", (0, 1): "1", (2, 1): "2", (2, 2): "2"}
    assert [label.get_text() for label in axis.get_yticklabels()] == ["ball", "rod", "ring"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "true")
    read_png(path)


def test_accuracies_are_lines_in_percent_with_their_target(path, figures):
    runs = {
        "image weights": [{"x": [1, 5], "y": [0.2, 0.5]}, {"x": [1, 5], "y": [0.3, 0.6]}],
        "scratch": [{"x": [1, 5], "y": [0, 1]}],
    }
    draw_accuracies(path, runs, target=0.4, label="shots")
    (axis,) = figures[0].axes
    *lines, level = axis.lines
    assert [line.get_ydata().tolist() for line in lines] == [[20, 50], [30, 60], [0, 100]]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert set(level.get_ydata()) == {40}
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["image weights", "scratch"]
    assert axis.get_xlabel() == "shots"
    read_png(path)


def test_many_lines_are_told_apart_and_not_covered_by_their_names(path, figures):
    draw_accuracies(path, {f"method {n}": [{"x": [1, 5], "y": [0.2, 0.5]}] for n in range(12)}, label="shots")
    (axis,) = figures[0].axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axis.lines}) == 12
    figures[0].canvas.draw()
    assert axis.get_legend().get_window_extent().x0 >= axis.get_window_extent().x1
    read_png(path)


@pytest.mark.parametrize("most", [60_000, 40])
def test_scenes_are_drawn_slantwise_in_their_colors_with_a_legend(path, figures, most):
    random = np.random.default_rng(0)
    points = np.concatenate([random.uniform(0, 1, (100, 2)), np.zeros((100, 1))], 1)
    turn, tilt = np.deg2rad(30), np.deg2rad(50)
    toward = np.array([-np.cos(tilt) * np.sin(turn), -np.cos(tilt) * np.cos(turn), np.sin(tilt)])
    points[50:] = points[:50] + toward  # as far as seen from the eye the same places, so that they hide the others
    red, blue = np.tile(np.uint8([[255, 0, 0]]), (100, 1)), np.tile(np.uint8([[0, 0, 255]]), (100, 1))
    mixed = np.where(np.arange(100)[:, None] >= 50, blue, red)
    draw_scenes(path, points.astype(np.float32), {"truth": red, "predicted": mixed}, {"wall": np.uint8([255, 0, 0])}, most)
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["wall"]
    note = "" if most > 100 else "\n34 of 100 points"
    assert titles(figures[0]) == [f"truth{note}", f"predicted{note}"]
    assert all(len(axis.collections[0].get_offsets()) == (100 if most > 100 else 34) for axis in figures[0].axes)
    picture = read_png(path)
    left, right = np.array_split(picture, 2, axis=1)
    is_red, is_blue = (
        (lambda half: (half[..., 0] - half[..., 2] > 60).sum()),
        (lambda half: (half[..., 2] - half[..., 0] > 60).sum()),
    )
    assert is_red(left) > 0 == is_blue(left)
    assert is_blue(right) > 0
    if most > 100:
        assert is_red(right) == 0, "what is nearer is drawn later"


ODD_NAMES = ["_under", "$x$", r"$\frac{$", "a$b", "Gebäude", "x" * 30]


def test_names_are_shown_as_they_are_and_no_formulas(path, figures):
    draw_confusion(path, np.ones((6, 6), np.int64), ODD_NAMES)
    draw_clouds(path, random_clouds(6), ODD_NAMES, ODD_NAMES[::-1])
    draw_scenes(path, np.ones((2, 3)), {"truth": np.zeros((2, 3), np.uint8)}, dict.fromkeys(ODD_NAMES, np.zeros(3, np.uint8)))
    assert len(figures[2].legends[0].get_texts()) == 6
    texts = [text for figure in figures for text in figure.findobj(mpl.text.Text) if "$" in text.get_text()]
    assert len(texts) >= 12
    assert not [text for text in texts if re.search(r"(?<!\\)\$", text.get_text())], "each dollar sign is escaped"


def test_a_legend_is_as_wide_as_its_picture(path, figures):
    legend = {f"a class of a long name {number}": np.zeros(3, np.uint8) for number in range(20)}
    draw_scenes(path, np.random.default_rng(0).random((9, 3)), {"truth": np.zeros((9, 3), np.uint8)}, legend)
    box = figures[0].legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figures[0].bbox.x1


def test_a_scene_looks_the_same_wherever_it_lies(path):
    points = np.random.default_rng(0).random((200, 3)).round(3)
    pictures = []
    for offset in (0, np.array([448_256.0, 5_411_840.0, 128.0])):
        draw_scenes(path, points + offset, {"truth": np.zeros((200, 3), np.uint8)})
        pictures.append(read_png(path).astype(int))
    assert pictures[0].shape == pictures[1].shape
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.5
