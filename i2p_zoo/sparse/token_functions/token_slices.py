"""Parts of tokens: channels, extra tokens, and sites by their place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.token_functions.token_dimensions import unsqueeze
from i2p_zoo.sparse.tokens.layout import Atom, Dim, channel, site_atoms
from i2p_zoo.sparse.tokens.pair_operations import cut_pairs, write_pairs
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, change_layout, make_tokens
from i2p_zoo.sparse.tokens.token_rows import TokenRows
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, feature_dim, positive, to_dense


def _register_splitting(name: str) -> None:
    for function in methods(name):

        @token_op(function)
        def splitting(x: Any, *args: Any, **kwargs: Any) -> Any:
            return split_tokens(x, name, *args, **kwargs)

        splitting.__qualname__ = name


def split_tokens(x: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    x = as_tokens(x)
    args_left = list(args)
    dim = kwargs.pop("dim", None)
    if name == "unbind":
        dim = args_left.pop(0) if args_left else (dim or 0)
        at = positive(x, dim)
        return tuple(select(x, at, i) for i in range(x.shape[at]))
    reduction = args_left.pop(0) if args_left else next(iter(kwargs.values()))
    dim = args_left.pop(0) if args_left else (dim or 0)
    at, size = positive(x, dim), x.shape[positive(x, dim)]
    if name == "chunk":
        step = -(-size // reduction)
        lengths = [min(step, size - start) for start in range(0, size, step)]
    elif isinstance(reduction, int):
        lengths = (
            [min(reduction, size - start) for start in range(0, size, reduction)]
            if name != "tensor_split"
            else [size // reduction] * reduction
        )
    else:
        lengths = list(reduction)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return tuple(cut(x, at, start, start + length) for start, length in zip(starts, lengths, strict=True))


for _name in ("chunk", "split", "unbind", "tensor_split", "split_with_sizes"):
    _register_splitting(_name)


def select(x: Any, dim: int, index: int) -> Any:
    """One entry of a dimension, which goes."""
    x = as_tokens(x)
    if not isinstance(x, TokenTensor):
        return x.select(dim, index)
    index = index + x.shape[dim] if index < 0 else index
    role = x.dims[dim]
    if role == ():
        return change_layout(x, (*x.dims[:dim], *x.dims[dim + 1 :]))
    part = cut(x, dim, index, index + 1)
    if isinstance(part, Tensor):
        return part.squeeze(dim)
    part = as_tokens(part)
    if site_atoms((part.dims[dim],)):
        raise UnsupportedError(f"Entry {index} of dimension {dim} of {x!r}.")
    return change_layout(part, (*part.dims[:dim], *part.dims[dim + 1 :]))


def cut(x: Any, dim: int, start: int, stop: int, step: int = 1) -> Any:
    """A slice of one dimension: channels, tokens before or behind the extra ones, or sites by their place."""
    x = as_tokens(x)
    if not isinstance(x, TokenTensor):
        return x.narrow(dim, start, stop - start) if step == 1 else x[(slice(None),) * dim + (slice(start, stop, step),)]
    size = x.shape[dim]
    if (start, stop, step) == (0, size, 1):
        return make_tokens(x.space, x.blocks, x.dims)
    roles = x.dims[dim]
    if start == stop and site_atoms((roles,)) and all(a.role == "b" for a in site_atoms(x.dims[:dim] + x.dims[dim + 1 :])):
        return x.new_empty((*x.shape[:dim], 0, *x.shape[dim + 1 :]))
    if len(roles) == 1 and roles[0].is_channel:
        at = feature_dim(x, dim, "slice")
        index = (slice(None),) * at + (slice(start, stop, step),)
        blocks = [block[index] for block in x.blocks]
        dims = (*x.dims[:dim], (channel(blocks[0].shape[at]),), *x.dims[dim + 1 :])
        return make_tokens(x.space, blocks, dims)
    if len(roles) == 1 and roles[0].role == "t" and step == 1:
        return _cut_tokens(x, dim, start, stop)
    if len(roles) == 1 and roles[0].role in "yx" and roles[0].place == 1 and roles[0].top:
        return cut_sites(x, dim, start, stop, step)
    raise UnsupportedError(f"Slice {start}:{stop}:{step} of dimension {dim} of {x!r}.")


def _cut_tokens(x: TokenTensor, dim: int, start: int, stop: int) -> Any:
    (token,) = x.dims[dim]
    prefix, size = token.prefix, token.extent
    if x.is_pairs:
        return cut_pairs(x, dim, start, stop)
    rows, batch = x.rows, x.batch_size
    extra = x.values[: batch * prefix].unflatten(0, (batch, prefix))
    if stop <= prefix:
        kept = extra[:, start:stop]
        dims = (*x.dims[:dim], (Atom("t", stop - start),), *x.dims[dim + 1 :])
        return to_dense(kept, "bt", dims)
    if stop != size:
        raise UnsupportedError(f"Tokens {start} to {stop} of {x!r}: the sites' tokens are not to be parted.")
    left = prefix - start
    if left < 0:
        raise UnsupportedError(f"Tokens {start} to {stop} of {x!r}: the sites' tokens are not to be parted.")
    values = x.values[batch * prefix :]
    if left:
        values = torch.cat([extra[:, start:].flatten(0, 1), values])
        inner: Dim = (Atom("t", size - start, prefix=left, inner=token.inner),)
    else:
        inner = token.inner
    return make_tokens(rows.changed(prefix=left), [values], (*x.dims[:dim], inner, *x.dims[dim + 1 :]))


@token_op(Tensor.__getitem__)
def getitem(x: Any, index: Any) -> Any:
    x = as_tokens(x)
    if isinstance(x, Tensor):
        raise UnsupportedError("A dense tensor was indexed by tokens.")
    indices = list(index) if isinstance(index, tuple) else [index]
    known = [i for i in indices if i is not None and i is not Ellipsis]
    if any(i is Ellipsis for i in indices):
        at = next(n for n, i in enumerate(indices) if i is Ellipsis)
        indices[at : at + 1] = [slice(None)] * (x.ndim - len(known))
    out: Any = x
    steps = steps_of(x, indices) if None not in indices else None
    if steps is not None:
        out = subsample(x, steps)
        indices = [slice(None) if isinstance(i, slice) and i.step not in (None, 1) else i for i in indices]
    dim = 0
    for i in indices:
        if i is None:
            out = as_tokens(out)
            out = unsqueeze(out, dim) if isinstance(out, TokenTensor) else out.unsqueeze(dim)
            dim += 1
        elif isinstance(i, int):
            out = select(out, dim, i)
        elif isinstance(i, slice):
            start, stop, step = i.indices(out.shape[dim])
            out = cut(out, dim, start, stop, step)
            dim += 1
        elif isinstance(i, Tensor | list):
            out = as_tokens(out)
            if isinstance(out, TokenTensor):
                at = feature_dim(out, dim, "index")
                blocks = [block.index_select(at, torch.as_tensor(i, device=block.device)) for block in out.blocks]
                out = make_tokens(out.space, blocks, (*out.dims[:dim], (channel(len(i)),), *out.dims[dim + 1 :]))
            else:
                out = out.index_select(dim, torch.as_tensor(i))
            dim += 1
        else:
            raise UnsupportedError(f"Indexing {x!r} with {index!r}.")
    return make_tokens(out.space, out.blocks, out.dims) if isinstance(out, TokenTensor) else out


@token_op(Tensor.__setitem__)
def setitem(x: Any, index: Any, value: Any) -> None:
    """Writes `x[:, :, p:, p:] = value` of pairs; the tensor itself is changed, as in torch."""
    write_pairs(x, index, as_tokens(value))


@token_op(*methods("select"))
def select_op(x: Any, dim: int, index: int) -> Any:
    return select(as_tokens(x), positive(x, dim), index)


@token_op(*methods("narrow"))
def narrow(x: Any, dim: int, start: int, length: int) -> Any:
    return cut(as_tokens(x), positive(x, dim), start, start + length)


def cut_sites(x: TokenTensor, dim: int, start: int, stop: int, step: int) -> Any:
    """Crops a side of the image to start <= c < stop; only a plane with a border loses sites."""
    if step != 1:
        raise UnsupportedError(f"Every {step}th site along dimension {dim} of {x!r} alone.")
    rows = x.rows
    if rows.site is None or rows.rolled != (0, 0) or rows.prefix:
        raise UnsupportedError(f"A slice of {x!r}: its rows are no sites of a level.")
    role = x.dims[dim][0].role
    column = rows.plane["yx".index(role)]
    key = ("cut", role, start, stop)
    coords, kept = rows.remember(key, lambda: _crop_coords(rows, column, start, stop))
    cropped = rows.share(key, lambda: _cropped_rows(rows, coords, role, start, stop, x.dims[dim][0].extent))
    values = x.values if kept is None else x.values.index_select(0, kept)
    dims = (*x.dims[:dim], (replace(x.dims[dim][0], extent=stop - start),), *x.dims[dim + 1 :])
    return make_tokens(cropped, [values], dims)


def _crop_coords(rows: TokenRows, column: int, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
    """Coordinates from `start` on along a column, and which rows stay; None where there is no border and all do."""
    coords, kept = rows.coords, None
    if rows.site is not None and rows.site.spatial_shape is not None:
        at = coords[:, 1 + column]
        kept = ((at >= start) & (at < stop)).nonzero().squeeze(1)
        coords = coords[kept]
    coords = coords.clone()
    coords[:, 1 + column] -= start
    return coords, kept


def _cropped_rows(rows: TokenRows, coords: Tensor, role: str, start: int, stop: int, extent: int) -> TokenRows:
    """The rows of cropped coordinates; where a padding is cut off, those that it was put around, so that branches meet."""
    site = rows.site
    assert site is not None
    shape = site.spatial_shape
    if shape is not None:
        sizes = list(shape)
        sizes[rows.plane["yx".index(role)]] = stop - start
        shape = (sizes[0], sizes[1], sizes[2])
    unpadded = None
    if rows.unpadded is not None:
        home, top, left = rows.unpadded
        whole, other = (top, left) if role == "y" else (left, top)
        if start == whole[0] and stop == extent - whole[1]:
            if other == (0, 0):
                return home
            unpadded = (home, (0, 0), left) if role == "y" else (home, top, (0, 0))
    new = site.derive(site.features, coords=coords, spatial_shape=shape)
    if site.canvas is not None:
        new.canvas = (stop - start, site.canvas[1]) if role == "y" else (site.canvas[0], stop - start)
    return TokenRows(coords, rows.cache, rows.batch_size, rows.axis, site=new, unpadded=unpadded)


def subsample(x: TokenTensor, steps: tuple[int, int]) -> Any:
    """Every s-th site, `x[:, ::s, ::s]`: a site of the coarser level reads the voxel nearest to its corner.

    On a plane that is the corner itself. A cloud may have no voxel there.
    """
    rows = x.rows
    coarse, inverse = rows.strided(steps)

    def make() -> torch.Tensor:
        height, width = rows.plane
        columns = ((rows.axis, steps[0]), (height, steps[0]), (width, steps[1]))
        away = torch.zeros(len(rows.coords), dtype=torch.int64, device=rows.coords.device)
        for column, step in columns:
            away = away * step + rows.coords[:, 1 + column].long() % step
        ranked = away * len(away) + torch.arange(len(away), device=away.device)
        first = torch.full((len(coarse),), 2**62, device=away.device).scatter_reduce(0, inverse, ranked, "amin")
        return first % len(away)

    nearest = rows.remember(("nearest", steps), make)
    dims = []
    for dim in x.dims:
        new = []
        for atom in dim:
            if atom.role in "yx":
                new.append(replace(atom, extent=-(-atom.extent // steps["yx".index(atom.role)])))
            else:
                new.append(atom)
        dims.append(tuple(new))
    return make_tokens(coarse, [x.values.index_select(0, nearest)], tuple(dims))


def steps_of(x: TokenTensor, indices: list[Any]) -> tuple[int, int] | None:
    """The steps (height, width) where an index takes every s-th site of both sides from the start; else None."""
    steps = {}
    for number, part in enumerate(indices):
        roles = x.dims[number] if number < x.ndim else ()
        if isinstance(part, slice) and part.step not in (None, 1) and len(roles) == 1 and roles[0].role in "yx":
            if part.start not in (None, 0) or part.stop is not None or not roles[0].top or roles[0].place != 1:
                return None
            steps[roles[0].role] = part.step
    return (steps["y"], steps["x"]) if len(steps) == 2 else None
