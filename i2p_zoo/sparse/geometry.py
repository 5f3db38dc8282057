"""Axes, strides, paddings and windows: plain values, with no tensor among them."""

from __future__ import annotations

import itertools
import operator
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from i2p_zoo import choices
from i2p_zoo.errors import InvalidInputError

Pair = tuple[int, int]
Triple = tuple[int, int, int]
AXES = {name: number for number, name in enumerate(choices.AXES)}


@dataclass(frozen=True)
class Plan:
    """How the 2D network's geometry runs in 3D.

    Attributes:
        axis: 0, 1 or 2 (z, y, x): the axis that the 2D network did not have.
        skip_downsamples: how many of its first halvings run at stride 1.
        level: how many halvings lie behind this tensor, the skipped ones included.
    """

    axis: int = 0
    skip_downsamples: int = 0
    level: int = 0

    @property
    def plane(self) -> Pair:
        """The two axes (indices into z, y, x) on which the image's height and width lie."""
        return ((1, 2), (0, 2), (0, 1))[self.axis]


@dataclass(frozen=True)
class Level:
    """What sites are in a network, apart from where they stand: their stride, their extent and what lies behind them.

    Attributes:
        stride, spatial_shape, plan, canvas: as a `SparseTensor`'s.
    """

    stride: int | Triple = 1
    spatial_shape: Triple | None = None
    plan: Plan = field(default_factory=Plan)
    canvas: Pair | None = None

    @property
    def extent(self) -> Pair | None:
        """(height, width) of the border or, of a cloud, of the canvas it stands on; None without either."""
        if self.spatial_shape is None:
            return self.canvas
        height, width = self.plan.plane
        return (self.spatial_shape[height], self.spatial_shape[width])

    def strided(self, stride: Triple) -> Level:
        """Returns the level behind a layer of a stride (z, y, x), which keeps what is left over at the end of a side."""
        height, width = (stride[axis] for axis in self.plan.plane)
        z, y, x = (old * new for old, new in zip(unfold_stride(self.stride), stride, strict=True))
        shape = self.spatial_shape and (
            -(-self.spatial_shape[0] // stride[0]),
            -(-self.spatial_shape[1] // stride[1]),
            -(-self.spatial_shape[2] // stride[2]),
        )
        canvas = self.canvas and (-(-self.canvas[0] // height), -(-self.canvas[1] // width))
        plan = replace(self.plan, level=self.plan.level + height.bit_length() - 1)
        return Level(simplify_stride((z, y, x)), shape, plan, canvas)


@dataclass(frozen=True)
class Padding:
    """What a 2D network put around the image, or cut off where negative, for the next window to see; sites stay until then.

    Attributes:
        rows: at the top and the bottom.
        columns: at the left and the right.
        zeros: whether zeros were put there, of which a maximum takes notice.
    """

    rows: Pair = (0, 0)
    columns: Pair = (0, 0)
    zeros: bool = False


@dataclass(frozen=True, kw_only=True)
class Window:
    """Geometry of a convolution's or pool's window; triples are (z, y, x) in voxels of the input.

    `new_axis` is the axis the 2D window did not have: padding there is centred and its extent shrinks by the stride alone.
    `given_before` and `given_after` are the parts of the padding that a 2D network put there itself and takes for image;
    `zeros` says that it holds zeros.
    """

    kernel: Triple
    stride: Triple = (1, 1, 1)
    before: Triple = (0, 0, 0)
    after: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    new_axis: int = 0
    ceil_mode: bool = False
    given_before: Triple = (0, 0, 0)
    given_after: Triple = (0, 0, 0)
    zeros: bool = False

    @property
    def offsets(self) -> list[Triple]:
        """Each tap's offset from the stride-scaled output site, taps in (z, y, x) order, x fastest."""
        z, y, x = self.axis_offsets
        return list(itertools.product(z, y, x))

    @property
    def axis_offsets(self) -> list[list[int]]:
        """The taps' offsets along z, y and x, ascending."""
        return [[tap * d - p for tap in range(k)] for k, d, p in zip(self.kernel, self.dilation, self.before, strict=True)]

    @property
    def shift(self) -> Triple:
        """How far a stride-1 axis of the image moves its sites back because its padding is not the centred one."""
        shifts = []
        for axis in range(3):
            before, span = self.before[axis], (self.kernel[axis] - 1) * self.dilation[axis]
            keeps = axis == self.new_axis or self.stride[axis] > 1 or before in (span // 2, -(-span // 2))
            shifts.append(0 if keeps else span // 2 - before)
        return (shifts[0], shifts[1], shifts[2])

    def out_shape(self, shape: Triple) -> Triple:
        """Returns the output extent that torch gives for an input extent (torch.nn.Conv2d, MaxPool2d: "Shape")."""
        extents = []
        for axis in range(3):
            kernel, stride, dilation = self.kernel[axis], self.stride[axis], self.dilation[axis]
            if axis == self.new_axis:
                extents.append(-(-shape[axis] // stride))
                continue
            room = shape[axis] + self.before[axis] + self.after[axis] - dilation * (kernel - 1) - 1
            extent = (-(-room // stride) if self.ceil_mode else room // stride) + 1
            if self.ceil_mode and (extent - 1) * stride >= shape[axis] + self.before[axis] + self.given_after[axis]:
                extent -= 1
            extents.append(extent)
        return (extents[0], extents[1], extents[2])


def check_axis(axis: str) -> int:
    """Returns 0, 1 or 2 for "z", "y" or "x"; raises InvalidInputError for anything else."""
    if axis not in AXES:
        raise InvalidInputError(f"`axis` must be 'z', 'y' or 'x'; got {axis!r}.")
    return AXES[axis]


def check_voxel_size(value: Any) -> float:
    """Returns the edge of a voxel as a float; numpy's shorter floats as they are written: 0.05 is not 0.05000000074505806.

    Raises:
        InvalidInputError: no positive number.
    """
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool | np.complexfloating)
    size = float(str(value)) if is_number and isinstance(value, np.floating) else value
    if not is_number or not 0 < size <= sys.float_info.max:  # JSON may hold whole numbers beyond
        raise InvalidInputError(f"`voxel_size` must be a positive number; got {value!r}.")
    return float(size)


def check_shape(value: Any, name: str) -> Triple:
    """Returns one positive int or three as a (z, y, x) triple; raises InvalidInputError that quotes `name`."""
    try:
        z, y, x = (operator.index(v) for v in (value if isinstance(value, list | tuple) else (value,) * 3))
    except (TypeError, ValueError):
        z = y = x = 0
    if min(z, y, x) < 1 or isinstance(value, bool):
        raise InvalidInputError(f"`{name}` must be one positive integer or three (z, y, x); got {value!r}.")
    return (z, y, x)


def unfold_stride(stride: int | Triple) -> Triple:
    """Returns a stride that is one number or three as (z, y, x)."""
    return (stride, stride, stride) if isinstance(stride, int) else stride


def simplify_stride(stride: Triple) -> int | Triple:
    """Returns one number for a stride that is the same along all axes, as torch's modules take it."""
    return stride[0] if stride[0] == stride[1] == stride[2] else stride


def as_pair(value: int | tuple[int, ...] | list[int]) -> Pair:
    """Returns torch's "one number or two" as (height, width); raises InvalidInputError for anything else."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) == 1:
        values = values * 2
    if len(values) != 2:
        raise InvalidInputError(f"Expected one number or (height, width); got {value!r}.")
    return (int(values[0]), int(values[1]))


def insert_axis(pair: Pair, new: int, axis: int) -> Triple:
    """Returns (height, width) and the new axis's value as a (z, y, x) triple."""
    values = list(pair)
    values.insert(axis, new)
    return (values[0], values[1], values[2])


def centred_padding(kernel: int, dilation: int) -> Pair:
    """Returns the padding (before, after) of one axis that keeps its extent at stride 1, the lesser half first."""
    span = (kernel - 1) * dilation
    return (span // 2, span - span // 2)


def same_padding(extent: int, kernel: int, stride: int, dilation: int) -> Pair:
    """Returns TensorFlow's 'same' padding (before, after) of one axis."""
    total = max((-(-extent // stride) - 1) * stride + (kernel - 1) * dilation + 1 - extent, 0)
    return (total // 2, total - total // 2)
