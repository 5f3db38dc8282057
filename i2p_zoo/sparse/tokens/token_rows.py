"""TokenRows: the tokens of a batch, each a voxel or an extra token; where they stand, and what groups they fall into."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.coordinates import SiteCache, derive_sites, move_sites, unique_rows
from i2p_zoo.sparse.device_path import takes_device_path
from i2p_zoo.sparse.geometry import Level, Pair, Plan, Window, insert_axis
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.sample_boxes import fit_places, sample_boxes
from i2p_zoo.sparse.site_search import search_table
from i2p_zoo.sparse.tokens.layout import Atom
from i2p_zoo.sparse.tokens.token_groups import GroupBlocks
from i2p_zoo.sparse.voxel_keys import pack_on_device

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
        coords: (N, 4) int32, batch, z, y, x.
        cache: what was derived from the input's sites.
        batch_size: number of samples.
        axis: the axis (of z, y, x) that the 2D network did not have.
        prefix: extra tokens a sample.
        level: what the sites are where the rows can be a sparse tensor's; None for windows, which stand nowhere.
        rolled: how far back (height, width) `torch.roll` moved the sites; they stay apart from what wraps around in 2D.
        home: the rows before that, or None.
        bordered: whether the image ends at its border, so that windows beyond it are none.
        key: what they are; equal rows have equal keys.
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
        level: Level | None = None,
        *,
        rolled: Pair = (0, 0),
        home: TokenRows | None = None,
        bordered: bool = False,
    ) -> None:
        self.coords, self.cache, self.batch_size, self.axis = coords, cache, batch_size, axis
        self.prefix, self.level = prefix, level
        self.rolled, self.home = rolled, home
        self.bordered = bordered or (level is not None and level.spatial_shape is not None)
        self.key: Hashable = ("rows", cache.key(coords), batch_size, axis, prefix, rolled, level, self.bordered)

    @classmethod
    def of(
        cls, coords: Tensor, cache: SiteCache, batch_size: int, axis: int, prefix: int = 0, level: Level | None = None
    ) -> TokenRows:
        """Returns the one object of these rows, so that two tensors on the same rows hold the same object."""
        rows = cls(coords, cache, batch_size, axis, prefix, level)
        result: TokenRows = live_objects(cache).setdefault(rows.key, rows)
        return result

    def with_prefix(self, prefix: int) -> TokenRows:
        """Returns the same sites with another number of extra tokens before them; rolled sites have none."""
        if prefix == self.prefix:
            return self
        if self.rolled != (0, 0):
            raise UnsupportedError("Class tokens beside sites that `torch.roll` moved: roll the sites back first.")
        return TokenRows.of(self.coords, self.cache, self.batch_size, self.axis, prefix, self.level)

    def __len__(self) -> int:
        return self.batch_size * self.prefix + len(self.coords)

    @property
    def plane(self) -> Pair:
        """The columns of (z, y, x) that are height and width."""
        return Plan(axis=self.axis).plane

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

        return self.remember("batch", make)

    @property
    def batch_index(self) -> RowIndex:
        """The sample of each row, to add up over samples."""
        return self.remember("batch index", lambda: RowIndex(self.batch, self.batch_size))

    # -- places -----------------------------------------------------------------------------------------------------------

    def column(self, role: str) -> int:
        """Returns the column of `coords` that holds the height ("y") or the width ("x")."""
        return 1 + self.plane["yx".index(role)]

    @staticmethod
    def digit(column: Tensor, atom: Atom) -> Tensor:
        """Returns the (N,) digits of int64 coordinates; the top one has no bound and may be negative."""
        digit = torch.div(column, atom.place, rounding_mode="floor") if atom.place > 1 else column
        return digit if atom.top else digit % atom.extent

    def index(self, atom: Atom) -> Tensor:
        """(rows,) int64 in 0 <= i < extent: where each row stands along an atom of the canvas.

        A sample that is larger than the canvas stands there as if shrunk to it; what is beyond all the same, at its edge.
        """
        return self.remember(("index", replace(atom, side=0)), lambda: self._index(atom))

    def number(self, atoms: Sequence[Atom]) -> Tensor:
        """(rows,) int64: the row-major number of each row's place along several atoms."""

        def make() -> Tensor:
            number = torch.zeros_like(self.batch)
            for atom in atoms:
                number = number * atom.extent + self.index(atom)
            return number

        return self.remember(("number", tuple(atoms)), make)

    def offsets(self, atoms: Sequence[Atom]) -> list[Tensor]:
        """(rows,) int64, in a list as of the blocks of pairs: where each row stands in a table over some atoms, flattened."""
        return [self.number(atoms)]

    def _index(self, atom: Atom) -> Tensor:
        if atom.role == "b":
            return self.batch
        if atom.role == "t":
            sites = self.with_prefix(0).number(atom.inner)
            extra = torch.arange(self.prefix, device=sites.device).repeat(self.batch_size)
            return torch.cat([extra, sites + self.prefix])
        if self.prefix:
            raise UnsupportedError(
                f"{self.prefix} class tokens a sample have no place along an image's side: slice them off first."
            )
        column = self.coords[:, self.column(atom.role)].long()
        if not atom.top:
            return self.digit(column, atom)
        offset, whole = self.rolled["yx".index(atom.role)], atom.place * atom.extent
        if not offset:
            return torch.div(self._fit(self.column(atom.role) - 1, column, whole), atom.place, rounding_mode="floor")
        digit = self.digit(column, atom)
        if self.level is not None and self.level.spatial_shape is None:
            return digit.clamp(0, max(atom.extent - 2, 0))  # the last window is where 2D has the two ends of an image meet
        inside = (column + offset >= 0) & (column + offset < whole)
        return torch.where(inside, self.digit(column % whole, atom), digit.clamp(0, atom.extent - 1))

    def _fit(self, column: int, coordinates: Tensor, extent: int) -> Tensor:
        """(N,) int64 places 0 <= i < extent of int64 coordinates along a column of (z, y, x)."""
        return fit_places(coordinates, *self._box(column), extent, centred=column == self.axis)

    def _box(self, column: int) -> tuple[Tensor, Tensor]:
        """(N,) int64: where each site's sample begins and ends along a column of (z, y, x)."""

        def make() -> tuple[Tensor, Tensor]:
            samples = self.coords[:, 0].long()
            low, high = sample_boxes(samples, self.coords[:, 1 + column], self.batch_size)
            return low[samples], high[samples]

        return self.remember(("box", column), make)

    @property
    def is_plane(self) -> bool:
        """Whether all sites are at one place of the third axis."""
        third = self.coords[:, 1 + self.axis]
        return bool(self.remember("plane", lambda: bool((third == third[:1]).all())))

    def upright(self, extent: int) -> tuple[TokenRows, TokenRows]:
        """The same rows with a place along the third axis for their height: each site's own, and the middle of its sample."""

        def make() -> list[Tensor]:
            low, high = self._box(self.axis)
            result = [self.coords.clone(), self.coords.clone()]
            for coords, at in zip(result, (self.coords[:, 1 + self.axis].long(), (low + high) // 2), strict=True):
                coords[:, 1 + self.plane[0]] = self._fit(self.axis, at, extent).int()
            return result

        upright, middle = (
            TokenRows.of(coords, self.cache, self.batch_size, self.axis, self.prefix)
            for coords in self.remember(("upright", extent), make)
        )
        return upright, middle

    # -- coarser rows -----------------------------------------------------------------------------------------------------

    def compact(self, kept: Sequence[Atom]) -> tuple[Tensor, dict[Atom, Atom]]:
        """Keeps some digits only.

        Returns:
            (N, 4) int32 coordinates made of the kept digits, closed up; and for each kept atom the one it is there.

        Raises:
            UnsupportedError: the batch is not kept.
        """
        _require_batch(kept)
        out = torch.zeros_like(self.coords)
        out[:, 0] = self.coords[:, 0]
        new: dict[Atom, Atom] = {atom: atom for atom in kept if atom.role == "b"}
        for role in "yx":
            columns = [self.column(role), 1 + self.axis] if role == "y" else [self.column(role)]
            place = 1
            for atom in sorted((a for a in kept if a.role == role), key=lambda a: a.place):
                for column in columns:
                    out[:, column] += (self.digit(self.coords[:, column].long(), atom) * place).int()
                new[atom] = replace(atom, place=place)
                place *= atom.extent
        return out, new

    def project(self, kept: Sequence[Atom]) -> tuple[TokenRows, RowIndex, dict[Atom, Atom]]:
        """Returns the distinct places of some digits.

        Returns:
            The coarser rows, which of them each row belongs to, and the kept atoms' counterparts there.

        Raises:
            UnsupportedError: class tokens, which have no digits, or the batch is not kept.
        """
        if self.prefix:
            raise UnsupportedError(f"{self.prefix} class tokens a sample are at no place of the image: slice them off first.")
        kept = tuple(replace(atom, side=0) for atom in kept)
        key, steps = ("project", frozenset(kept)), _strides(kept)
        if steps is not None and self.rolled == (0, 0):
            new = self.remember((key, "atoms"), lambda: self.compact(kept)[1])
            if steps == (1, 1):
                number = torch.arange(len(self.coords), device=self.coords.device)
                return self, RowIndex(number, len(self.coords), is_sorted=True), new
            return (*self.strided(steps), new)

        def make() -> tuple[Tensor, RowIndex, dict[Atom, Atom]]:
            compact, new = self.compact(kept)
            unique, inverse = unique_rows(compact)
            return unique.contiguous(), RowIndex(inverse, len(unique)), new

        coords, index, new = self.remember(key, make)
        return TokenRows.of(coords, self.cache, self.batch_size, self.axis), index, new

    def strided(self, steps: Pair) -> tuple[TokenRows, RowIndex]:
        """Returns the sites that a convolution of strides (height, width) makes, and which of them each row is in."""
        stride = insert_axis(steps, steps[0], self.axis)
        level = None if self.level is None else self.level.strided(stride)
        shape, out_shape = (None if each is None else each.spatial_shape for each in (self.level, level))

        def make() -> tuple[Tensor, RowIndex]:
            coords = derive_sites(self.cache, self.coords, shape, stride, (0, 0, 0), out_shape)
            rows = find_rows(coords, move_sites(self.coords, stride, (0, 0, 0)), missing=True)  # none is
            return coords, RowIndex(rows, len(coords))

        coords, index = self.remember(("strided", steps), make)
        return TokenRows.of(coords, self.cache, self.batch_size, self.axis, level=level), index

    # -- groups -----------------------------------------------------------------------------------------------------------

    def groups(self, shared: Sequence[Atom]) -> tuple[RowIndex, Tensor | None]:
        """Returns which group each row is in.

        Args:
            shared: the atoms that the rows of a group have in common; of rows with extra tokens the batch alone.

        Returns:
            The group of each row, and the groups' (M, 4) coordinates, None where the groups are the samples.

        Raises:
            UnsupportedError: groups across samples, or windows of class tokens.
        """
        _require_batch(shared)
        if all(atom.role == "b" for atom in shared):
            return self.batch_index, None
        if self.prefix:
            raise UnsupportedError(f"{self.prefix} class tokens a sample are in no window: slice them off first.")

        def make() -> tuple[RowIndex, Tensor]:
            compact, _ = self.compact(shared)
            unique, inverse = unique_rows(compact)
            return RowIndex(inverse, len(unique)), unique

        return self.remember(("groups", frozenset(replace(a, side=0) for a in shared)), make)

    def blocks(self, shared: Sequence[Atom]) -> GroupBlocks:
        """Returns the groups as dense blocks of equal size; raises as `groups`."""
        key = ("blocks", frozenset(replace(a, side=0) for a in shared))
        return self.remember(key, lambda: GroupBlocks(self.groups(shared)[0]))


def _require_batch(kept: Sequence[Atom]) -> None:
    if not any(atom.role == "b" for atom in kept):
        raise UnsupportedError("A function that joins the samples of a batch has no sparse counterpart.")


def _strides(kept: Sequence[Atom]) -> Pair | None:
    """The strides (height, width) where the kept digits are the upper ones, all of them; else None."""
    lowest = []
    for role in "yx":
        digits = sorted((a for a in kept if a.role == role), key=lambda a: a.place)
        if not digits or not digits[-1].top or any(a.place * a.extent != b.place for a, b in pairwise(digits)):
            return None
        lowest.append(digits[0].place)
    return (lowest[0], lowest[1])


def find_rows(coords: Tensor, target: Tensor, *, missing: bool = False) -> Tensor:
    """Returns which row of some sites each of others is.

    Args:
        coords: (N, 4) distinct sites.
        target: (M, 4) sites to look for.
        missing: give -1 for a site that is not among `coords`, instead of raising.

    Returns:
        (M,) int64.

    Raises:
        UnsupportedError: a site is not there.
    """
    if takes_device_path(coords):
        cache = SiteCache()
        cache.orders[cache.key(coords)] = pack_on_device(coords)[0].argsort()  # no wait to see whether they are sorted
        matches = search_table(cache, coords, target.int(), Window(kernel=(1, 1, 1)))[0].long()
    else:
        unique, inverse = unique_rows(torch.cat([coords, target.to(coords.dtype)]))
        rows = torch.full((len(unique),), -1, dtype=torch.int64)
        rows[inverse[: len(coords)]] = torch.arange(len(coords))
        matches = rows[inverse[len(coords) :]]
    if not missing and bool((matches < 0).any()):
        raise UnsupportedError(
            f"{len(target)} tokens stand on other sites than {len(coords)} do that they are to be joined with."
        )
    return matches


def same_sites(first: TokenRows, second: TokenRows) -> bool:
    """Whether two rows are the same tokens in the same order."""
    return (first.prefix, first.rolled) == (second.prefix, second.rolled) and (
        first.coords is second.coords or torch.equal(first.coords, second.coords)
    )
