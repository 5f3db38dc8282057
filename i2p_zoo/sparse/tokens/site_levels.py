"""The finer sites that a tensor was strided from, and the coarser ones that a stride would make."""

from __future__ import annotations

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.site_tokens import site_of
from i2p_zoo.sparse.tokens.token_rows import TokenRows


def finer_sites(x: SparseTensor, factor: int) -> SparseTensor:
    """The sites that a tensor was strided from."""
    coords, shape, ratio = x.coords, x.spatial_shape, 1
    while ratio < factor:
        origin = x.cache.origins.get(id(coords))
        if origin is None:
            raise UnsupportedError(f"Up-sampling {x!r} by {factor} needs the finer sites that it was strided from.")
        coords, shape, ratio = origin.parent, origin.parent_shape, ratio * origin.stride[0]
    old = (x.stride,) * 3 if isinstance(x.stride, int) else x.stride
    out = x.derive(x.features, coords=coords, spatial_shape=shape, stride=tuple(s // factor for s in old))
    out = out.with_plan(level=max(x.plan.level - (factor.bit_length() - 1), 0))
    if x.canvas is not None:
        out.canvas = (x.canvas[0] * factor, x.canvas[1] * factor)
    return out


def coarser_sites(x: SparseTensor, factor: int) -> SparseTensor:
    rows = TokenRows.of(x.coords, x.cache, x.batch_size, x.plan.axis, site=site_of(x))
    return rows.strided((factor, factor))[0].site
