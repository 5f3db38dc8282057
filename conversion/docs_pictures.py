"""The pictures of the README and of the pages about concepts, from real weights, a photograph and a cloud of the checkout."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import i2p_zoo
from conversion.small_pictures import shrink_png
from i2p_zoo import data, finetune
from i2p_zoo._extras import require
from i2p_zoo.choices import INFLATIONS
from i2p_zoo.downloading import HubOptions
from i2p_zoo.experiments.photographs import load_photographs, preprocess, top_classes
from i2p_zoo.layers.kernel_inflation import inflate_weight
from i2p_zoo.pictures import make_figure
from i2p_zoo.staging import replacing
from i2p_zoo.zoo.sources import load_source

IMAGES = Path(__file__).parents[1] / "docs" / "images"
_NETWORK = "i2p-tf_efficientnet_lite0"
_SHOWN = "coffee"  # the photograph
_CLASS = "LED_THT"  # of the cloud


def draw_pictures(folder: Path = IMAGES, steps: int = 60) -> None:
    """Draws first.png, voxels.png, inflation.png and halvings.png.

    Args:
        folder: to write them into.
        steps: for which the network of the cloud's class is finetuned.

    Raises:
        MissingExtraError: the extra "demo" is not installed.
        I2PError, OSError: as `i2p_zoo.from_pretrained` and `i2p_zoo.finetune.train`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, _ = load_source(_NETWORK.removeprefix("i2p-"), "", HubOptions(), [])
    image = preprocess([load_photographs()[_SHOWN]], source)
    network = i2p_zoo.from_pretrained(_NETWORK)
    with torch.no_grad():
        flat, solid = (top_classes(logits)[0][0] for logits in (source(image), network(i2p_zoo.image_to_plane(image))))
    shown = f"2D: {flat[0]} {flat[1]:.4f}\n3D: {solid[0]} {solid[1]:.4f}"
    pixels = (image[0] * 0.5 + 0.5).clamp(0, 1)
    filters = source.get_parameter("conv_stem.weight")
    kernel = filters[filters.abs().sum((1, 2, 3)).argmax()][None, :1]
    points, answer = _classify(steps)
    _draw_first(folder / "first.png", pixels, shown, inflate_weight(kernel, "average")[0, ..., 0], points, answer)
    _draw_voxels(folder / "voxels.png", pixels, points)
    _draw_inflation(folder / "inflation.png", {name: inflate_weight(kernel, name)[0, ..., 0] for name in INFLATIONS})
    _draw_halvings(folder / "halvings.png", points)


def _classify(steps: int) -> tuple[NDArray[np.float32], str]:
    """Returns a test cloud of kicad-mini and what a network finetuned as the README says calls it."""
    train_set, test_set = data.load_data("kicad-mini")
    settings: dict[str, Any] = {"inflation": "average", "stem": "point", "skip_downsamples": 3, "voxel_size": 0.07}
    model = i2p_zoo.from_pretrained(_NETWORK, num_classes=len(train_set.classes), **settings)
    finetune.train(model, train_set, steps=steps, progress="finetuning")
    names = [str(name) for name in train_set.classes]
    points = test_set.cloud(int(np.flatnonzero(test_set.labels == names.index(_CLASS))[0]))["points"]
    with torch.no_grad():
        shares = model([points]).softmax(1)[0]
    return points, f"{names[int(shares.argmax())]} {float(shares.max()):.2f}"


def _draw_first(
    path: Path, pixels: torch.Tensor, shown: str, kernel: torch.Tensor, points: NDArray[np.float32], answer: str
) -> None:
    figure, axes = make_figure(1, 3, (11, 4), "3d")
    _draw_plane(axes[0, 0], pixels)
    axes[0, 0].set_title(shown, fontsize=11)
    _draw_planes_of_kernel(axes[0, 1], kernel)
    axes[0, 1].set_title("a kernel, inflated\nto three planes", fontsize=11)
    _draw_cubes(axes[0, 2], points, 0.1)
    axes[0, 2].set_title(f"a cloud, after 60 steps:\n{answer}", fontsize=11)
    _save(figure, path)


def _draw_voxels(path: Path, pixels: torch.Tensor, points: NDArray[np.float32]) -> None:
    figure, axes = make_figure(1, 3, (11, 4), "3d")
    _draw_plane(axes[0, 0], pixels)
    axes[0, 0].set_title("a photograph: a plane of voxels")
    axes[0, 1].scatter(*points.T, c=points[:, 2], cmap="viridis", s=2)
    axes[0, 1].set_box_aspect(np.ptp(points, axis=0), zoom=1.02)
    axes[0, 1].set_axis_off()
    axes[0, 1].set_title(f"a cloud: {len(points):,} points")
    count = _draw_cubes(axes[0, 2], points, 0.1)
    axes[0, 2].set_title(f"its {count} voxels of 0.1")
    _save(figure, path)


def _draw_inflation(path: Path, kernels: dict[str, torch.Tensor]) -> None:
    figure, axes = make_figure(1, len(kernels) + 1, (11, 3.2), "3d")
    limit = max(float(kernel.detach().abs().max()) for kernel in kernels.values())
    flat = kernels["center"][1:2]
    for axis, (name, kernel) in zip(axes[0], {"the 2D kernel": flat, **kernels}.items(), strict=True):
        _draw_planes_of_kernel(axis, kernel, limit)
        axis.set_title(name)
    _save(figure, path)


def _draw_halvings(path: Path, points: NDArray[np.float32]) -> None:
    strides = (1, 2, 4, 8)
    figure, axes = make_figure(1, len(strides), (11, 3.2), "3d")
    for axis, stride in zip(axes[0], strides, strict=True):
        count = _draw_cubes(axis, points, 0.05 * stride)
        axis.set_title(f"stride {stride}: {count} voxels")
    _save(figure, path)


def _draw_plane(axis: Any, pixels: torch.Tensor) -> None:
    """Draws an image (3, H, W) in 0 to 1 as squares that stand in space."""
    step = max(pixels.shape[-1] // 56, 1)
    colors = pixels[:, ::step, ::step].permute(1, 2, 0).numpy()
    height, width = colors.shape[:2]
    y, x = np.mgrid[:height, :width]
    axis.scatter(x, np.zeros_like(x), height - y, c=colors.reshape(-1, 3), marker="s", s=10, depthshade=False)
    axis.set(ylim=(-height / 3, height / 3))
    axis.set_box_aspect((1, 0.6, 1), zoom=1.25)
    axis.view_init(elev=12, azim=-68)
    axis.set_axis_off()


def _draw_planes_of_kernel(axis: Any, kernel: torch.Tensor, limit: float | None = None) -> None:
    """Draws the planes of a kernel (kz, ky, kx) behind one another, red above zero and blue below; zeros are left clear."""
    weights = kernel.detach().numpy()
    limit = limit or float(np.abs(weights).max())
    shades = require("matplotlib", extra="finetune").colormaps["RdBu_r"](weights / limit / 2 + 0.5)
    shades[..., 3] = 0.9
    filled = weights != 0
    depth = len(weights)
    spread = np.zeros((kernel.shape[2], 2 * depth - 1, kernel.shape[1]), bool)  # x, z with gaps, y upward
    colors = np.zeros((*spread.shape, 4))
    spread[:, ::2], colors[:, ::2] = filled.transpose(2, 0, 1)[:, :, ::-1], shades.transpose(2, 0, 1, 3)[:, :, ::-1]
    axis.voxels(spread, facecolors=colors, edgecolors="#55555555", linewidth=0.5)
    axis.set(xlim=(0, 3), ylim=(-1, 6) if depth > 1 else (-3, 4), zlim=(0, 3))
    axis.set_box_aspect((1, 2, 1), zoom=1.3)
    axis.view_init(elev=18, azim=-50)
    axis.set_axis_off()


def _draw_cubes(axis: Any, points: NDArray[np.float32], size: float) -> int:
    """Draws the voxels that points fall into, shaded by height; returns their number."""
    sites = np.unique(np.floor(points / size).astype(int), axis=0)
    sites -= sites.min(0)
    filled = np.zeros(sites.max(0) + 1, bool)
    filled[tuple(sites.T)] = True
    heights = np.arange(filled.shape[2]) / max(filled.shape[2] - 1, 1)
    colors = np.broadcast_to(require("matplotlib", extra="finetune").colormaps["viridis"](heights), (*filled.shape, 4))
    axis.voxels(filled, facecolors=colors, edgecolors="#33333366", linewidth=0.3)
    axis.set_box_aspect(filled.shape, zoom=1.02)
    axis.set_axis_off()
    return len(sites)


def _save(figure: Any, path: Path) -> None:
    """Writes a figure as a small PNG."""
    whole = io.BytesIO()
    figure.savefig(whole, dpi=100, format="png", bbox_inches="tight", pad_inches=0.1)
    with replacing(path) as temporary:
        temporary.write_bytes(shrink_png(whole.getvalue()))
