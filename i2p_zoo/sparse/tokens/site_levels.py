"""The finer sites that a tensor was strided from, and the coarser ones that a stride would make."""

from __future__ import annotations

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.geometry import simplify_stride, unfold_stride
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.token_rows import TokenRows


def finer_sites(x: SparseTensor, factor: int) -> SparseTensor:
    """Returns a tensor without features on the sites that another was strided from.

    Raises:
        UnsupportedError: no layer with that stride lies behind the tensor.
    """
    coords, shape, ratio = x.coords, x.spatial_shape, 1
    while ratio < factor:
        origin = x.cache.origins.get(id(coords))
        if origin is None:
            raise UnsupportedError(f"Up-sampling {x!r} by {factor} needs the finer sites that it was strided from.")
        coords, shape, ratio = origin.parent, origin.parent_shape, ratio * origin.stride[0]
    z, y, x_axis = (step // factor for step in unfold_stride(x.stride))
    canvas = x.canvas and (x.canvas[0] * factor, x.canvas[1] * factor)
    out = x.derive(
        x.features.new_empty((len(coords), 0)),
        coords=coords,
        spatial_shape=shape,
        stride=simplify_stride((z, y, x_axis)),
        canvas=canvas,
        channels_last=False,
    )
    return out.with_plan(level=max(x.plan.level - (factor.bit_length() - 1), 0))


def coarser_sites(x: SparseTensor, factor: int) -> SparseTensor:
    """Returns a tensor without features on the sites that a layer of that stride makes of another's."""
    rows, _ = TokenRows.of(x.coords, x.cache, x.batch_size, x.plan.axis, level=x.level).strided((factor, factor))
    empty = x.features.new_empty((len(rows.coords), 0))
    return SparseTensor.on_level(rows.level or x.level, empty, rows.coords, rows.cache, rows.batch_size)
