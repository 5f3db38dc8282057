"""Pictures of what the zoo does: photographs as voxel planes, inflated kernels, labelled clouds, learning curves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.staging import replacing
from i2p_zoo.wording import join_words

COLORS = ("#1b6ca8", "#d1495b", "#66a182", "#8d6a9f", "#edae49", "#3b3b3b", "#7fb7d6", "#a0522d")
"""Of what is compared in one picture."""


def make_figure(rows: int, columns: int, size: tuple[float, float], projection: str | None = None) -> tuple[Any, Any]:
    """Returns a figure of a size in inches and its axes, (rows, columns); raises MissingExtraError without matplotlib."""
    figure = require("matplotlib.figure", extra="finetune").Figure(figsize=size, layout="constrained")
    require("matplotlib.backends.backend_agg", extra="finetune").FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": projection})


def _plain(text: str) -> str:
    """Returns a name as matplotlib shows it as it is: what stands between two dollar signs would be a formula."""
    return text.replace("$", r"\$")


def check_picture(path: Path) -> None:
    """Raises InvalidInputError for an ending of a picture that nobody draws, and MissingExtraError without matplotlib."""
    formats = require("matplotlib.figure", extra="finetune").FigureCanvasBase.get_supported_filetypes()
    if _format_of(path) not in formats:
        raise InvalidInputError(f"{path}: a picture ends in .png, or in one of {join_words(sorted(formats), most=20)}.")


def save_figure(figure: Any, path: Path) -> None:
    """Writes a picture in place of a file, or leaves that as it was; raises OSError, with the path."""
    with replacing(path) as temporary:
        try:
            figure.savefig(temporary, dpi=110, format=_format_of(path))
        except OSError as error:  # a full disk, of which the library does not say where
            raise OSError(f"{path}: {error}") from error


def _format_of(path: Path) -> str:
    return path.suffix.lower().removeprefix(".") or "png"


def draw_planes(path: Path, images: Mapping[str, Tensor], classes: Mapping[str, Sequence[tuple[str, float]]]) -> None:
    """Draws each image as a plane of voxels in space with the classes that the 3D network names.

    Args:
        path: of the PNG.
        images: (3, H, W) in 0 to 1, by name.
        classes: for each name (class, probability) pairs.
    """
    figure, axes = make_figure(1, len(images), (4.2 * len(images), 4.6), "3d")
    for axis, (name, image) in zip(axes[0], images.items(), strict=True):
        step = max(image.shape[-1] // 56, 1)
        pixels = image[:, ::step, ::step].permute(1, 2, 0).clamp(0, 1).numpy()
        height, width = pixels.shape[:2]
        y, x = np.mgrid[:height, :width]
        axis.scatter(x, np.zeros_like(x), height - y, c=pixels.reshape(-1, 3), marker="s", s=9, depthshade=False)
        axis.set(ylim=(-height / 3, height / 3), xticks=[], yticks=[0], zticks=[], xlabel="x", ylabel="z", zlabel="y")
        axis.set_box_aspect((1, 0.6, 1))
        axis.view_init(elev=12, azim=-68)
        lines = [f"{label} {probability:.2f}" for label, probability in classes[name][:3]]
        axis.set_title(_plain("\n".join([name, *lines])), fontsize=10)
    save_figure(figure, path)


def draw_kernels(path: Path, kernels: Mapping[str, Tensor]) -> None:
    """Draws the slices along z of one filter under each inflation.

    Args:
        path: of the PNG.
        kernels: (kz, ky, kx) weights by inflation mode.
    """
    depth = max(kernel.shape[0] for kernel in kernels.values())
    figure, axes = make_figure(len(kernels), depth, (2.1 * depth, 2.3 * len(kernels)))
    limit = max(float(kernel.detach().abs().max()) for kernel in kernels.values())
    for row, (name, kernel) in zip(axes, kernels.items(), strict=True):
        for axis in row[kernel.shape[0] :]:
            axis.remove()
        for z, (axis, plane) in enumerate(zip(row, kernel, strict=False)):
            axis.imshow(plane.detach().numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set(xticks=[], yticks=[], title=f"{name}, z = {z - (kernel.shape[0] - 1) // 2:+d}")
    save_figure(figure, path)


def draw_clouds(
    path: Path,
    clouds: Sequence[NDArray[np.float32]],
    truth: Sequence[str],
    predicted: Sequence[str],
    columns: int = 5,
    most: int = 20_000,
) -> None:
    """Draws clouds with their predicted class, in red with the true one where they differ.

    Args:
        path: of the PNG.
        clouds: (N, 3) each, z up.
        truth, predicted: class names.
        columns: pictures a row.
        most: points to draw of a cloud; of more, every so many, and the title tells how many of how many.
    """
    rows = -(-len(clouds) // columns)
    figure, axes = make_figure(rows, columns, (2.7 * columns, 2.9 * rows), "3d")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, points, true, answer in zip(axes.flat, clouds, truth, predicted, strict=False):
        chosen, note = thin(len(points), most)
        axis.scatter(*points[chosen, :3].T, c=points[chosen, 2], cmap="viridis", s=2)
        axis.set_aspect("equal")
        right = true == answer
        title = (answer if right else f"{answer}\n(is {true})") + note
        axis.set_title(_plain(title), fontsize=9, color="black" if right else "#b00020")
    save_figure(figure, path)


def thin(count: int, most: int) -> tuple[slice, str]:
    r"""Returns which of so many points are drawn, every so many, and a line for their title, empty where all are.

    Example:
        >>> thin(5, most=3), thin(3, most=3)
        ((slice(None, None, 2), '\n3 of 5 points'), (slice(None, None, 1), ''))
    """
    rows = slice(None, None, -(-count // most))
    drawn = len(range(count)[rows])
    return rows, f"\n{drawn:,} of {count:,} points" if drawn < count else ""


def draw_curves(path: Path, runs: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Draws the smoothed training loss of runs, one line a seed.

    Args:
        path: of the PNG.
        runs: for each kind the losses by step of each seed.
    """
    lines = {name: [_smooth(losses) for losses in seeds] for name, seeds in runs.items()}
    _draw_lines(path, lines, ("step", "training loss, mean of 8 steps"))


def _smooth(losses: Sequence[float]) -> tuple[Any, Any]:
    window = min(8, len(losses))
    return np.arange(window, len(losses) + 1), np.convolve(losses, np.ones(window) / window, mode="valid")


def draw_accuracies(
    path: Path, runs: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], target: float | None = None, label: str = "step"
) -> None:
    """Draws accuracy along training, or by shots, one line a seed.

    Args:
        path: of the PNG.
        runs: for each kind, a mapping with `x` and `y` a seed; `y` as fractions.
        target: a level to mark.
        label: of the horizontal axis.
    """
    lines = {name: [(line["x"], 100 * np.asarray(line["y"])) for line in seeds] for name, seeds in runs.items()}
    _draw_lines(path, lines, (label, "test accuracy, %"), None if target is None else 100 * target, marker="o", ms=3)


def _draw_lines(
    path: Path, lines: Mapping[str, Any], labels: tuple[str, str], level: float | None = None, **style: Any
) -> None:
    """Draws the lines (x, y) of a name alike; one of a single point gets a marker, without which nothing is seen."""
    many = len(lines) > 6  # whose names would cover the lines
    figure, axes = make_figure(1, 1, (10 if many else 7, 4.5))
    axis = axes[0, 0]
    looks = itertools.cycle(itertools.product(("-", "--", ":"), COLORS))
    for (dashes, color), (name, seeds) in zip(looks, lines.items(), strict=False):
        for number, (x, y) in enumerate(seeds):
            dot = {"marker": "o"} if len(y) == 1 else {}
            axis.plot(x, y, ls=dashes, color=color, label=name if number == 0 else None, **{**dot, **style})
    if level is not None:
        axis.axhline(level, color="grey", lw=0.8, ls="--")
    axis.set(xlabel=labels[0], ylabel=labels[1])
    axis.grid(alpha=0.3)
    axis.legend(**({"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if many else {}))
    save_figure(figure, path)


def draw_confusion(path: Path, confusion: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Draws how often a cloud of each class is given each other.

    Args:
        path: of the PNG.
        confusion: (K, K) numbers of clouds by true and predicted class.
        classes: their names.
    """
    size = 2.5 + 0.3 * len(classes)
    figure, axes = make_figure(1, 1, (size + 1, size))
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes[0, 0].imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(confusion), strict=True):
        color = "white" if shares[row, column] > 0.6 else "black"
        axes[0, 0].text(column, row, int(confusion[row, column]), ha="center", va="center", color=color, fontsize=7)
    names = list(map(_plain, classes))
    axes[0, 0].set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes[0, 0].set_yticks(range(len(names)), names, fontsize=7)
    axes[0, 0].set(xlabel="predicted", ylabel="true")
    save_figure(figure, path)


def draw_scenes(
    path: Path,
    points: NDArray[np.float32],
    shown: Mapping[str, NDArray[np.uint8]],
    legend: Mapping[str, NDArray[np.uint8]] | None = None,
    most: int = 60_000,
) -> None:
    """Draws a scene, seen slantwise from above, in several colourings side by side.

    Args:
        path: of the PNG.
        points: (N, 3) or more columns, z up.
        shown: (N, 3) uint8 colours by title.
        legend: (3,) uint8 colours by what they mean; None for no legend.
        most: points to draw; of more, every so many, and the titles tell how many of how many.
    """
    across, up, toward = _look(points[:, :3])
    chosen, note = thin(len(points), most)
    rows = np.argsort(toward, kind="stable")[chosen]  # what is nearer is drawn later
    width, height = (max(float(np.ptp(values)), 1e-6) for values in (across, up))
    inches = min(max(6 * height / width, 2), 12)
    figure, axes = make_figure(1, len(shown), (6 * len(shown), inches + 0.8))
    size = np.clip(72**2 * 6 * inches / len(rows), 0.5, 25)  # in square points, so that a surface looks closed
    for axis, (title, colors) in zip(axes[0], shown.items(), strict=True):
        axis.scatter(across[rows], up[rows], s=size, c=colors[rows] / 255, linewidths=0)
        axis.set_title(title + note)
        axis.set_aspect("equal")
        axis.set_axis_off()
    if legend:
        patch = require("matplotlib.patches", extra="finetune").Patch
        handles = [patch(color=color / 255, label=_plain(name)) for name, color in legend.items()]
        fitting = int(72 * len(shown) / (max(map(len, legend)) + 6))  # of some 12 letters an inch, and a patch of colour
        figure.legend(handles=handles, loc="outside lower center", ncols=min(max(fitting, 1), 7), frameon=False)
    save_figure(figure, path)


def _look(points: NDArray[np.float32], azimuth: float = 30, elevation: float = 50) -> tuple[NDArray[Any], ...]:
    """Returns how far right, how far up and how near (N, 3) points are in a picture, (N,) each; angles in degrees."""
    (x, y, z), turn, tilt = points.astype(np.float64).T, np.deg2rad(azimuth), np.deg2rad(elevation)
    across, away = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    return across, away * np.sin(tilt) + z * np.cos(tilt), z * np.sin(tilt) - away * np.cos(tilt)
