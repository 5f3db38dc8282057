"""From a 2D window's arguments to a 3D `Window`: the new axis, TensorFlow 'same' padding, and skipped strides."""

from __future__ import annotations

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.coordinates import Triple
from i2p_zoo.sparse.kernel_maps import Window
from i2p_zoo.sparse.tensor import Padding, SparseTensor, require_channels_first

Pair = tuple[int, int]


def as_pair(value: int | tuple[int, ...] | list[int]) -> Pair:
    """Returns torch's "one number or two" as (height, width)."""
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


def same_padding(extent: int, kernel: int, stride: int, dilation: int) -> Pair:
    """TensorFlow's 'same' padding (before, after) of one axis."""
    total = max((-(-extent // stride) - 1) * stride + (kernel - 1) * dilation + 1 - extent, 0)
    return (total // 2, total - total // 2)


def _centred(kernel: int, dilation: int) -> Pair:
    span = (kernel - 1) * dilation
    return (span // 2, span - span // 2)


def plan_window(
    x: SparseTensor,
    kernel: Pair,
    stride: Pair,
    padding: tuple[Pair, Pair] | None,
    dilation: Pair = (1, 1),
    *,
    depth: int | None = None,
    axis: int | None = None,
    ceil_mode: bool = False,
) -> tuple[Window, int]:
    """Turns a 2D window into the 3D one that runs on `x`.

    Along the new axis the kernel's length is `depth`, stride and dilation are the larger of the two, and padding is the
    centred one. The first `Plan.skip_downsamples` halvings run at stride 1, centred.

    Args:
        x: the input; its plan and extent count.
        kernel, stride, dilation: (height, width).
        padding: ((top, bottom), (left, right)), or None for TensorFlow 'same'.
        depth: kernel length along the new axis; by default the larger of the two.
        axis: the new axis (0, 1, 2 for z, y, x); by default the plan's.
        ceil_mode: torch's rounding of the output extent.

    Returns:
        The window, and the `Plan.level` of its output.
    """
    require_channels_first(x, "A window")
    axis = x.plan.axis if axis is None else axis
    depth = max(kernel) if depth is None else depth
    halvings = max(stride).bit_length() - 1
    keep = min(halvings, max(x.plan.skip_downsamples - x.plan.level, 0))
    given = x.padding
    if keep:
        stride = (max(stride[0] >> keep, 1), max(stride[1] >> keep, 1))
        if stride == (1, 1) and padding is not None:  # centred, since the padding was meant for the stride
            padding, given = (_centred(kernel[0], dilation[0]), _centred(kernel[1], dilation[1])), Padding()
    if padding is None:
        height, width = x.derive(x.features, plan=type(x.plan)(axis=axis)).shape[-2:]
        padding = (
            same_padding(height, kernel[0], stride[0], dilation[0]),
            same_padding(width, kernel[1], stride[1], dilation[1]),
        )
    centre = (depth - 1) // 2 * max(dilation)
    rows, columns = given.rows, given.columns
    for own, cut in zip(padding, (rows, columns), strict=True):
        if any(o > 0 > c for o, c in zip(own, cut, strict=True)):
            raise UnsupportedError(f"A window padded by {padding} behind {given}: it would see what was cut off.")
    window = Window(
        kernel=insert_axis(kernel, depth, axis),
        stride=insert_axis(stride, max(stride), axis),
        before=insert_axis((padding[0][0] + rows[0], padding[1][0] + columns[0]), centre, axis),
        after=insert_axis((padding[0][1] + rows[1], padding[1][1] + columns[1]), centre, axis),
        dilation=insert_axis(dilation, max(dilation), axis),
        new_axis=axis,
        ceil_mode=ceil_mode,
        given_before=insert_axis((rows[0], columns[0]), 0, axis),
        given_after=insert_axis((rows[1], columns[1]), 0, axis),
        zeros=given.zeros,
    )
    return window, x.plan.level + halvings
