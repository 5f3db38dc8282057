"""From a 2D window's arguments to a 3D `Window`: the new axis, TensorFlow 'same' padding, and skipped strides."""

from __future__ import annotations

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.autograd_limits import check_transforms
from i2p_zoo.sparse.geometry import Padding, Pair, Plan, Window, centred_padding, insert_axis, same_padding
from i2p_zoo.sparse.tensor import SparseTensor, require_channels_first
from i2p_zoo.wording import count_of


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

    Raises:
        UnsupportedError: channels are last, the window's own padding would see what the 2D network cut off, or this runs
            inside a transform of `torch.func`.
    """
    require_channels_first(x, "A window")
    check_transforms()
    axis = x.plan.axis if axis is None else axis
    depth = max(kernel) if depth is None else depth
    halvings = max(stride).bit_length() - 1
    skipped = min(halvings, max(x.plan.skip_downsamples - x.plan.level, 0))
    around = x.padding
    if skipped:
        if any(side & (side - 1) and side % 2**skipped for side in stride):
            raise UnsupportedError(f"A stride of {max(stride)} cannot be halved {count_of(skipped, 'time')}.")
        stride = (max(stride[0] >> skipped, 1), max(stride[1] >> skipped, 1))
        if stride == (1, 1) and padding is not None:  # centred, since the padding was meant for the stride
            padding = (centred_padding(kernel[0], dilation[0]), centred_padding(kernel[1], dilation[1]))
            around = Padding()
    if padding is None:
        height, width = x.derive(x.features, plan=Plan(axis=axis)).shape[-2:]
        padding = (
            same_padding(height, kernel[0], stride[0], dilation[0]),
            same_padding(width, kernel[1], stride[1], dilation[1]),
        )
    centre = (depth - 1) // 2 * max(dilation)
    rows, columns = around.rows, around.columns
    if any(p > 0 > cut for p, cut in zip((*padding[0], *padding[1]), (*rows, *columns), strict=True)):
        raise UnsupportedError(f"A window padded by {padding} behind {around}: it would see what was cut off.")
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
        zeros=around.zeros,
    )
    return window, x.plan.level + halvings
