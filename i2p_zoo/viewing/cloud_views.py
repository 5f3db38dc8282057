"""What there is to see of a cloud: its points, its voxels at each stride of a network, and the classes that it is given."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.cloud_files import read_with_losses
from i2p_zoo.data.scenes import select_features
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.classification import classify, name_classes, normalize
from i2p_zoo.networks.unet import UNet
from i2p_zoo.segmentation.crops import as_cloud, center
from i2p_zoo.segmentation.voting import segment
from i2p_zoo.sparse.geometry import Triple, unfold_stride
from i2p_zoo.sparse.point_features import parse_features
from i2p_zoo.sparse.point_values import fix_range
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.voxelization import voxelize
from i2p_zoo.wording import count_of

STRIDES = (1, 2, 4, 8)
"""Shown where there is no network, which would tell its own."""
_ACROSS = 40  # voxels along the longest side of a cloud where nobody says their size


@dataclass(frozen=True)
class VoxelLevel:
    """Voxels at one stride.

    Attributes:
        stride: voxels of the input a voxel, along x, y, z.
        sites: (M, 3) integers x, y, z, none twice.
        edge: (3,) of a voxel, in the points' unit.
        origin: (3,) corner of the voxel (0, 0, 0), in the points' unit.
        colors: (M, 3) uint8, the mean of the points', or None.
    """

    stride: Triple
    sites: NDArray[np.int64]
    edge: NDArray[np.float64]
    origin: NDArray[np.float64]
    colors: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class CloudView:
    """What is shown of a cloud.

    Attributes:
        title: such as a file's name.
        points: (N, 3) as the network reads them: objects that are normalised in the unit sphere, scenes in their own unit.
        colors: (N, 3) uint8, where the points have any.
        levels: the voxels, finest first.
        classes: the likeliest of an object with their probabilities, or those of a scene with their share of the points.
        labels: (N,) the class of each point of a scene, or None.
        names: of the classes that `labels` numbers.
        notes: what was left out, and the like, a sentence each.
    """

    title: str
    points: NDArray[Any]
    colors: NDArray[np.uint8] | None
    levels: tuple[VoxelLevel, ...]
    classes: Mapping[str, float] = field(default_factory=dict)
    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Returns in one line how large the cloud is, what it is taken for, and the notes."""
        parts = [count_of(len(self.points), "point"), f"{count_of(len(self.levels[0].sites), 'voxel')} of {self.edge:.3g}"]
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(self.classes.items())[:3])
        return " ".join([f"{', '.join(parts)}{f'; {shares}' if shares else ''}.", *self.notes])

    @property
    def meaning(self) -> str:
        """What the shares of the classes are, in words."""
        return "classes" if self.labels is None else "shares of the points"

    @property
    def edge(self) -> float:
        """The edge of a voxel, in the points' unit."""
        return float(self.levels[0].edge[0])


def view_file(path: str | os.PathLike[str], model: Any = None, *, columns: str | None = None, **options: Any) -> CloudView:
    """Reads a file as `i2p-zoo predict` does, of a U-Net as `i2p-zoo segment predict` does, and looks at its cloud.

    Args:
        path: of a cloud or mesh, as `i2p_zoo.data.read_cloud` reads it.
        model: a network whose classes and strides are shown, or None.
        columns: as `i2p_zoo.data.read_cloud`.
        options: as `view_cloud`.

    Raises:
        I2PError: as `i2p_zoo.data.read_cloud` and `view_cloud`.
    """
    cloud, losses = read_with_losses(path, scene=isinstance(model, UNet), columns=columns)
    view = view_cloud(cloud, model, **{"title": Path(path).name, **options})
    lost = losses.text()
    notes = (f"{lost[0].upper()}{lost[1:]}.",) if lost else ()
    return CloudView(**{**vars(view), "notes": (*view.notes, *notes)})


def view_cloud(
    cloud: Mapping[str, NDArray[Any]] | NDArray[Any],
    model: Any = None,
    *,
    title: str = "cloud",
    top: int = 5,
    as_is: bool = False,
    voxel_size: float | None = None,
    extent: ArrayLike | None = None,
    overlap: float = 0.25,
) -> CloudView:
    """Looks at a cloud: its points, its voxels at each stride, and what a network takes it or its points for.

    Args:
        cloud: points (N, 3), or a mapping as `i2p_zoo.data.read_cloud` returns it.
        model: a classifier or a `UNet`; None for the voxels alone.
        title: what the cloud is called.
        top: how many classes of an object are told.
        as_is: do not centre and scale an object into the unit sphere before a network sees it.
        voxel_size: edge of a voxel where there is no network, by default a fortieth of the longest side.
        extent, overlap: of the blocks of a scene, as `i2p_zoo.segmentation.segment`.

    Returns:
        The voxels at strides 1, 2, 4 and 8, or at those that the network's features have; sites are floor(voxel / stride).

    Raises:
        InvalidInputError: arguments that do not go together, or a cloud that the network or `i2p_zoo.voxelize` refuses.
        DivergedError: the network's outputs are not finite.

    Example:
        >>> view = view_cloud(np.array([[0.0, 0, 0], [1, 0, 0], [3.9, 0, 0]]), voxel_size=1)
        >>> [(level.stride[0], level.sites[:, 0].tolist()) for level in view.levels]
        [(1, [0, 1, 3]), (2, [0, 1]), (4, [0]), (8, [0])]
    """
    arrays = dict(cloud) if isinstance(cloud, Mapping) else {"points": np.asarray(cloud)}
    if model is not None and voxel_size is not None:
        raise InvalidInputError(f"A network has its own voxel size; leave out the voxel size of {voxel_size}, or the network.")
    if extent is not None and not isinstance(model, UNet):
        raise InvalidInputError("Blocks are of scenes, which a U-Net segments: leave out the edge of the blocks.")
    if model is None:
        size = _default_size(arrays["points"]) if voxel_size is None else voxel_size
        x, index = voxelize({"points": arrays["points"]}, size, "ones", return_index=True)
        strides = [(stride, stride, stride) for stride in STRIDES]
        return CloudView(title, arrays["points"][:, :3], _colors_of(arrays), _find_levels(x, x, index, strides, size, arrays))
    names = parse_features(model.settings.features)
    with _strides_met(model) as met:
        if isinstance(model, UNet):
            scene = select_features(title, arrays, names)
            labels = segment(model, scene, extent, overlap).argmax(1)
            seen, network = center(as_cloud(scene)), model.encoder
        else:
            arrays, labels = arrays if as_is else normalize(arrays), None
            classes = classify(model, arrays, top)
            seen, network = select_features(title, arrays, names), model
    if labels is not None:
        classes = _shares_of(labels, name_classes(model))
    x, index = model.settings.voxelize([seen])
    levels = _find_levels(x, network.prepare(x), index, sorted(met), model.settings.voxel_size, arrays)
    named = name_classes(model) if labels is not None else ()
    return CloudView(title, seen["points"][:, :3], _colors_of(arrays), levels, classes, labels, named, _notes_of(model, as_is))


def _default_size(points: NDArray[Any]) -> float:
    longest = float(np.ptp(points[:, :3].astype(np.float64), axis=0).max()) if len(points) else 0.0
    return longest / _ACROSS if 0 < longest < np.inf else 1.0


def _colors_of(cloud: Arrays) -> NDArray[np.uint8] | None:
    if "rgb" not in cloud:
        return None
    rgb = cloud["rgb"]
    return rgb if rgb.dtype == np.uint8 else np.rint(255 * fix_range([rgb])[0]).astype(np.uint8)


def _notes_of(model: Any, as_is: bool) -> tuple[str, ...]:
    if isinstance(model, UNet) or as_is or model.settings.normalization == "unit_sphere":
        return ()
    return ("The network notes no normalisation: the cloud was centred and scaled to the unit sphere.",)


def _shares_of(labels: NDArray[np.int64], names: tuple[str, ...]) -> dict[str, float]:
    shares = np.bincount(labels, minlength=len(names)) / len(labels)
    return {names[number]: float(shares[number]) for number in np.argsort(-shares, kind="stable") if shares[number] > 0}


@contextlib.contextmanager
def _strides_met(model: torch.nn.Module) -> Iterator[set[Triple]]:
    """Gives the strides (z, y, x) of the voxels that a network's modules return while it runs, and that of its input."""
    met: set[Triple] = {(1, 1, 1)}

    def note(_: Any, inputs: Any, output: Any) -> None:
        for x in output if isinstance(output, list | tuple) else [output]:
            if isinstance(x, SparseTensor):
                met.add(unfold_stride(x.stride))

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        yield met
    finally:
        for handle in handles:
            handle.remove()


def _find_levels(
    x: SparseTensor, prepared: SparseTensor, index: torch.Tensor, strides: Any, voxel_size: float, cloud: Arrays
) -> tuple[VoxelLevel, ...]:
    """Returns the voxels at each stride (z, y, x), where the cloud is, though a canvas moves what the network reads."""
    coords = prepared.coords[:, 1:].cpu().numpy().astype(np.int64)
    shift = (x.coords[0, 1:].cpu().numpy() - coords[0])[::-1] * voxel_size
    colors, rows = _colors_of(cloud), index.cpu().numpy()
    levels = []
    for stride in strides:
        sites, inverse = np.unique(coords // stride, axis=0, return_inverse=True)
        means = None if colors is None else _mean_colors(colors, inverse.reshape(-1)[rows], len(sites))
        edge = np.array(stride[::-1]) * float(voxel_size)
        levels.append(VoxelLevel(stride[::-1], sites[:, ::-1], edge, shift.astype(np.float64), means))
    return tuple(levels)


def _mean_colors(colors: NDArray[np.uint8], voxels: NDArray[np.int64], count: int) -> NDArray[np.uint8]:
    sums = [np.bincount(voxels, weights=channel, minlength=count) for channel in colors.T.astype(np.float64)]
    means = np.stack(sums, axis=1) / np.maximum(np.bincount(voxels, minlength=count), 1)[:, None]
    rounded: NDArray[np.uint8] = np.rint(means).astype(np.uint8)
    return rounded
