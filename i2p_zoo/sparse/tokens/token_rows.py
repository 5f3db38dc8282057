"""TokenRows: the tokens of a batch, each a voxel or an extra token; where they stand, and what groups they fall into."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.coordinates import SiteCache, derive_sites, unique_rows
from i2p_zoo.sparse.geometry import insert_axis, simplify_stride
from i2p_zoo.sparse.sample_boxes import sample_boxes
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.layout import Atom
from i2p_zoo.sparse.tokens.token_groups import GroupBlocks

Computed = TypeVar("Computed")
_LIVE = "rows and pairs of tokens"  # in `SiteCache.derived`


def live_objects(cache: SiteCache) -> WeakValueDictionary[Hashable, Any]:
    """Returns the rows and pairs of one input that something still holds, by what they are.

    They hold the cache; the cache does not hold them, so that all goes with the last tensor, without the garbage collector.
    """
    result: WeakValueDictionary[Hashable, Any] = cache.derived.setdefault(_LIVE, WeakValueDictionary())
    return result


def has_tokens(cache: SiteCache) -> bool:
    """Whether any sites of an input were taken for tokens."""
    return _LIVE in cache.derived


class TokenRows:
    """Rows of tokens: first `prefix` extra ones of each sample, sample after sample, then the sites.

    The third axis follows the height: where a dimension splits the height into digits, the axis that the 2D network did not
    have is split by the same places, so that a window of 7 x 7 pixels is one of 7 x 7 x 7 voxels.

    Attributes:
        site: a sparse tensor on the sites (its features do not matter), or None where the rows are no sites of a level.
        coords: (N, 4) int32, batch, z, y, x.
        prefix: extra tokens a sample.
        rolled: how far back (height, width) `torch.roll` moved the sites; they stay apart from what wraps around in 2D.
        home: the rows that `rolled` moved; else None.
        unpadded: the rows that a padding was put around, and its width before and behind each side; else None.
        is_level: whether `site` has the coordinates of these rows.
        lead: how many dimensions of values stand before their features.
    """

    lead = 1

    def __init__(
        self,
        coords: Tensor,
        cache: SiteCache,
        batch_size: int,
        axis: int,
        prefix: int = 0,
        rolled: tuple[int, int] = (0, 0),
        site: SparseTensor | None = None,
        *,
        home: TokenRows | None = None,
        unpadded: tuple[TokenRows, tuple[int, int], tuple[int, int]] | None = None,
        is_level: bool = True,
    ) -> None:
        self.coords, self.cache, self.batch_size, self.axis = coords, cache, batch_size, axis
        self.prefix, self.rolled, self.site = prefix, rolled, site
        self.home, self.unpadded, self.is_level = home, unpadded, is_level
        extents = None if site is None else (site.spatial_shape, site.canvas)
        self.key: Hashable = ("rows", cache.key(coords), batch_size, axis, prefix, rolled, extents)

    @classmethod
    def of(
        cls,
        coords: Tensor,
        cache: SiteCache,
        batch_size: int,
        axis: int,
        prefix: int = 0,
        rolled: tuple[int, int] = (0, 0),
        site: SparseTensor | None = None,
    ) -> TokenRows:
        """The one object of these rows, so that two tensors on the same rows hold the same object."""
        rows = cls(coords, cache, batch_size, axis, prefix, rolled, site)
        result: TokenRows = live_objects(cache).setdefault(rows.key, rows)
        return result

    def changed(self, **changes: Any) -> TokenRows:
        """The same rows with some attributes changed."""
        fields = {
            "coords": self.coords,
            "cache": self.cache,
            "batch_size": self.batch_size,
            "axis": self.axis,
            "prefix": self.prefix,
            "rolled": self.rolled,
            "site": self.site,
        }
        return TokenRows.of(**{**fields, **changes})

    def __len__(self) -> int:
        return self.batch_size * self.prefix + len(self.coords)

    def __repr__(self) -> str:
        return f"Rows({len(self.coords)} sites, prefix={self.prefix}, batch_size={self.batch_size}, rolled={self.rolled})"

    @property
    def plane(self) -> tuple[int, int]:
        """The columns of (z, y, x) that are height and width."""
        return ((1, 2), (0, 2), (0, 1))[self.axis]

    def remember(self, key: Hashable, make: Callable[[], Computed]) -> Computed:
        """Computes arrays once for all equal rows, for as long as the cache lives. What holds rows belongs in `share`."""
        derived = self.cache.derived
        if (self.key, key) not in derived:
            derived[self.key, key] = make()
        result: Computed = derived[self.key, key]
        return result

    def share(self, key: Hashable, make: Callable[[], Computed]) -> Computed:
        """Makes an object that holds rows, the same one for as long as anything holds it."""
        live = live_objects(self.cache)
        result: Computed | None = live.get((self.key, key))
        if result is None:
            result = live[self.key, key] = make()
        return result

    @property
    def batch(self) -> Tensor:
        """(rows,) int64: the sample of each row."""

        def make() -> Tensor:
            sites = self.coords[:, 0].long()
            if not self.prefix:
                return sites
            extra = torch.arange(self.batch_size, device=sites.device).repeat_interleave(self.prefix)
            return torch.cat([extra, sites])

        result: Tensor = self.remember("batch", make)
        return result

    # -- places -----------------------------------------------------------------------------------------------------------

    def _column(self, atom: Atom) -> Tensor:
        return self.coords[:, 1 + self.plane["yx".index(atom.role)]].long()

    @staticmethod
    def digit(column: Tensor, atom: Atom) -> Tensor:
        digit = torch.div(column, atom.place, rounding_mode="floor") if atom.place > 1 else column
        return digit if atom.top else digit % atom.extent

    def index(self, atom: Atom) -> Tensor:
        """(rows,) int64 in 0 <= i < extent: where each row stands along an atom of the canvas.

        A sample that is larger than the canvas stands there as if shrunk to it; what is beyond all the same, at its edge.
        """
        return self.remember(("index", replace(atom, side=0)), lambda: self._index(atom))

    def _index(self, atom: Atom) -> Tensor:
        if atom.role == "b":
            return self.batch
        if atom.role == "t":
            sites = torch.zeros_like(self.coords[:, 0]).long()
            rows = self.changed(prefix=0)
            for inner in atom.inner:
                sites = sites * inner.extent + rows.index(inner)
            extra = torch.arange(self.prefix, device=sites.device).repeat(self.batch_size)
            return torch.cat([extra, sites + self.prefix])
        if self.prefix:
            raise UnsupportedError("Extra tokens have no place on the canvas.")
        column = self._column(atom)
        if not atom.top:
            return self.digit(column, atom)
        offset, whole = self.rolled["yx".index(atom.role)], atom.place * atom.extent
        if not offset:
            at = self.plane["yx".index(atom.role)]
            return torch.div(self._fit(at, whole), atom.place, rounding_mode="floor")
        digit = self.digit(column, atom)
        if self.site is not None and self.site.spatial_shape is None:
            return digit.clamp(0, max(atom.extent - 2, 0))  # the last window is where 2D has the two ends of an image meet
        inside = (column + offset >= 0) & (column + offset < whole)
        return torch.where(inside, self.digit(column % whole, atom), digit.clamp(0, atom.extent - 1))

    def _fit(self, column: int, extent: int, coordinates: Tensor | None = None) -> Tensor:
        """(N,) int64 places 0 <= i < extent of coordinates, by default the sites' own, along a column of (z, y, x).

        A sample whose box is longer is shrunk to fit, and along the third axis each stands in the middle; what is beyond all
        the same, at the edge.
        """
        low, high = self._box(column)
        own = self.coords[:, 1 + column].long() if coordinates is None else coordinates
        length = high - low + 1
        shrunk = torch.div((2 * (own - low) + 1) * extent, 2 * length, rounding_mode="floor")
        if column == self.axis:
            own = own - low + torch.div(extent - length, 2, rounding_mode="floor")
        return torch.where(length > extent, shrunk, own).clamp(0, extent - 1)

    def _box(self, column: int) -> tuple[Tensor, Tensor]:
        """(N,) int64: where each site's sample begins and ends along a column of (z, y, x)."""

        def make() -> tuple[Tensor, Tensor]:
            samples = self.coords[:, 0].long()
            low, high = sample_boxes(samples, self.coords[:, 1 + column], self.batch_size)
            return low[samples], high[samples]

        result: tuple[Tensor, Tensor] = self.remember(("box", column), make)
        return result

    @property
    def is_plane(self) -> bool:
        """Whether all sites are at one place of the third axis."""
        third = self.coords[:, 1 + self.axis]
        return bool(self.remember("plane", lambda: bool((third == third[:1]).all())))

    def upright(self, extent: int) -> tuple[TokenRows, TokenRows]:
        """The same rows with a place along the third axis for their height: each site's own, and the middle of its sample."""

        def make() -> list[Tensor]:
            low, high = self._box(self.axis)
            result = []
            for heights in (None, torch.div(low + high, 2, rounding_mode="floor")):
                coords = self.coords.clone()
                coords[:, 1 + self.plane[0]] = self._fit(self.axis, extent, heights).int()
                result.append(coords)
            return result

        own, middle = self.remember(("upright", extent), make)
        own, middle = (TokenRows.of(c, self.cache, self.batch_size, self.axis, self.prefix) for c in (own, middle))
        return own, middle

    def offsets(self, atoms: Sequence[Atom]) -> list[Tensor]:
        """(rows,) int64, in a list as of the blocks of pairs: where each row stands in a table over some atoms, flattened."""

        def make() -> Tensor:
            offset = torch.zeros_like(self.batch)
            for atom in atoms:
                offset = offset * atom.extent + self.index(atom)
            return offset

        return [self.remember(("offsets", tuple(atoms)), make)]

    # -- groups -----------------------------------------------------------------------------------------------------------

    def compact(self, kept: Sequence[Atom]) -> tuple[Tensor, dict[Atom, Atom]]:
        """Keeps some digits only.

        Returns:
            (N, 4) int32 coordinates made of the kept digits, closed up; and for each kept atom the one it is there.
        """
        if not any(atom.role == "b" for atom in kept):
            raise UnsupportedError("A function that joins the samples of a batch has no sparse counterpart.")
        out = torch.zeros_like(self.coords)
        out[:, 0] = self.coords[:, 0]
        new: dict[Atom, Atom] = {atom: atom for atom in kept if atom.role == "b"}
        for role, column in zip("yx", self.plane, strict=True):
            place = 1
            for atom in sorted((a for a in kept if a.role == role), key=lambda a: a.place):
                columns = [column, self.axis] if role == "y" else [column]
                for at in columns:
                    out[:, 1 + at] += (self.digit(self.coords[:, 1 + at].long(), atom) * place).int()
                new[atom] = replace(atom, place=place)
                place *= atom.extent
        return out, new

    def steps(self, kept: Sequence[Atom]) -> tuple[int, int] | None:
        """The strides (height, width) where the kept digits are the upper ones, all of them; else None."""
        matches = []
        for role in "yx":
            mine = sorted((a for a in kept if a.role == role), key=lambda a: a.place)
            if not mine or not mine[-1].top:
                return None
            if any(a.place * a.extent != b.place for a, b in zip(mine, mine[1:], strict=False)):
                return None
            matches.append(mine[0].place)
        return (matches[0], matches[1])

    def project(self, kept: Sequence[Atom]) -> tuple[TokenRows, Tensor, dict[Atom, Atom]]:
        """The distinct places of some digits.

        Returns:
            The coarser rows, (rows,) int64 which of them each row belongs to, and the kept atoms' counterparts there.
        """
        if self.prefix:
            raise UnsupportedError("Extra tokens have no digits.")
        kept = [replace(atom, side=0) for atom in kept]
        key = ("project", frozenset(kept))
        steps = self.steps(kept)
        if steps is not None and self.rolled == (0, 0):
            new = self.remember((key, "atoms"), lambda: self.compact(kept)[1])
            if steps == (1, 1):
                return self, torch.arange(len(self.coords), device=self.coords.device), new
            return (*self.strided(steps), new)

        def make() -> tuple[Tensor, Tensor, dict[Atom, Atom]]:
            compact, new = self.compact(kept)
            unique, inverse = unique_rows(compact)
            return unique.contiguous(), inverse, new

        coords, inverse, new = self.remember(key, make)
        return TokenRows.of(coords, self.cache, self.batch_size, self.axis), inverse, new

    def strided(self, steps: tuple[int, int]) -> tuple[TokenRows, Tensor]:
        """The sites of a strided level, as a convolution of these strides (height, width) makes them, and each row's there."""

        site = self.site
        stride = insert_axis(steps, steps[0], self.axis)
        shape = None if site is None else site.spatial_shape
        out_shape = None
        if shape is not None:
            out_shape = (-(-shape[0] // stride[0]), -(-shape[1] // stride[1]), -(-shape[2] // stride[2]))

        def make_arrays() -> tuple[Tensor, Tensor]:
            coords = derive_sites(self.cache, self.coords, shape, stride, (0, 0, 0), out_shape)
            divided = torch.div(self.coords, torch.tensor((1, *stride), device=coords.device), rounding_mode="floor").int()
            return coords, find_rows(coords, divided)

        def make_rows() -> TokenRows:
            coarse = None
            if site is not None:
                old = (site.stride,) * 3 if isinstance(site.stride, int) else site.stride
                coarse = site.derive(
                    site.features[:0],
                    coords=coords,
                    spatial_shape=out_shape,
                    stride=simplify_stride((old[0] * stride[0], old[1] * stride[1], old[2] * stride[2])),
                ).with_plan(level=site.plan.level + steps[0].bit_length() - 1)
                if site.canvas is not None:
                    coarse.canvas = (-(-site.canvas[0] // steps[0]), -(-site.canvas[1] // steps[1]))
            return TokenRows.of(coords, self.cache, self.batch_size, self.axis, site=coarse)

        coords, inverse = self.remember(("strided", steps), make_arrays)
        return self.share(("strided", steps), make_rows), inverse

    def groups(self, shared: Sequence[Atom]) -> tuple[Tensor, Tensor | None]:
        """Which group each row is in.

        Args:
            shared: the atoms that the rows of a group have in common; of rows with extra tokens the batch alone.

        Returns:
            (rows,) int64 group ids, and the groups' (M, 4) coordinates, None where the groups are the samples.
        """
        if all(atom.role == "b" for atom in shared):
            if not shared:
                raise UnsupportedError("A function that joins the samples of a batch has no sparse counterpart.")
            return self.batch, None
        if self.prefix:
            raise UnsupportedError("Extra tokens are in no window.")
        compact, _ = self.compact(shared)
        unique, inverse = unique_rows(compact)
        return inverse, unique

    def blocks(self, shared: Sequence[Atom]) -> GroupBlocks:
        """The groups as dense blocks of equal size."""
        key = ("blocks", frozenset(replace(a, side=0) for a in shared))

        def make() -> GroupBlocks:
            ids, coords = self.groups(shared)
            count = self.batch_size if coords is None else len(coords)
            return GroupBlocks(ids, count)

        result: GroupBlocks = self.remember(key, make)
        return result


def find_rows(coords: Tensor, target: Tensor, *, missing: bool = False) -> Tensor:
    """(M,) int64: the row of `coords` (N, 4) that each of `wanted` (M, 4) is; -1 where there is none and `missing` allows it."""
    unique, inverse = unique_rows(torch.cat([coords, target.to(coords.dtype)]))
    rows = torch.full((len(unique),), -1, dtype=torch.int64, device=coords.device)
    rows[inverse[: len(coords)]] = torch.arange(len(coords), device=coords.device)
    matches = rows[inverse[len(coords) :]]
    if not missing and bool((matches < 0).any()):
        raise UnsupportedError("Two tensors stand on unlike sites.")
    return matches


def same_sites(first: TokenRows, second: TokenRows) -> bool:
    return (
        first.prefix == second.prefix
        and first.rolled == second.rolled
        and (first.coords is second.coords or torch.equal(first.coords, second.coords))
    )
