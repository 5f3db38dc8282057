"""Layouts: what the dimensions of a tensor are made of, and what reshaping does to them. Symbols only, no data.

An image (B, C, H, W) of which each pixel is a row has the dimensions b, c, y, x, one atom each. `flatten(2).transpose(1, 2)`
makes them b, (y x), c: no row moves. A window partition splits y into the windows' number y/7 and the place y%7 within one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from i2p_zoo.errors import UnsupportedError


@dataclass(frozen=True)
class Atom:
    """A factor of a dimension.

    Attributes:
        role: "c" a run of channels (a feature dimension of the data); "b" the batch; "y", "x" a digit of a site's height or
            width; "t" tokens: `prefix` extra ones (class, registers), then the sites by `inner`.
        extent: as the 2D network sees it.
        place: of a digit, whose value is coordinate // place, modulo the extent unless it is the top one.
        top: whether a digit is the highest: in a cloud it has no bound.
        side: 0, or 1 for the keys of a tensor of pairs.
        prefix, inner: of "t".
    """

    role: str
    extent: int
    place: int = 1
    top: bool = True
    side: int = 0
    prefix: int = 0
    inner: tuple[Atom, ...] = ()

    @property
    def is_channel(self) -> bool:
        """Whether it is a feature dimension of the data."""
        return self.role == "c"

    @property
    def is_digit(self) -> bool:
        """Whether it is a digit of a site's height or width."""
        return self.role in ("y", "x")

    @property
    def is_whole_side(self) -> bool:
        """Whether it is all of an image's height or width."""
        return self.is_digit and self.place == 1 and self.top

    def split(self, high: int) -> tuple[Atom, Atom]:
        """Splits into a factor of extent `high` and the rest; raises UnsupportedError for the batch and for tokens."""
        low = self.extent // high
        if self.is_channel:
            return replace(self, extent=high), replace(self, extent=low)
        if self.is_digit:
            return replace(self, extent=high, place=self.place * low), replace(self, extent=low, top=False)
        name = "batch" if self.role == "b" else "tokens with class tokens before them"
        raise UnsupportedError(f"The {name}, of extent {self.extent}, cannot be split into {high} x {low}.")

    def __str__(self) -> str:
        if self.role == "t":
            sites = "*".join(map(str, self.inner))
            return f"{self.prefix}+{sites}" if sites else str(self.extent)
        digit = ("" if self.place == 1 else f"/{self.place}") + ("" if self.top else f"%{self.extent}")
        return f"{self.role}{digit}{'′' * self.side}"


Dim = tuple[Atom, ...]
Dims = tuple[Dim, ...]


def channel(extent: int) -> Atom:
    """Returns a channel atom."""
    return Atom("c", extent)


def extent(dim: Dim) -> int:
    """Returns the size of a dimension."""
    return prod(atom.extent for atom in dim)


def sizes(dims: Dims) -> tuple[int, ...]:
    """Returns the shape that dimensions make."""
    return tuple(extent(dim) for dim in dims)


def atoms(dims: Dims) -> list[Atom]:
    """Returns all atoms in the order of traversal."""
    return [atom for dim in dims for atom in dim]


def channel_extents(dims: Dims) -> list[int]:
    """Returns the extents of the feature dimensions, in the order of traversal."""
    return [atom.extent for atom in atoms(dims) if atom.is_channel]


def site_atoms(dims: Dims) -> list[Atom]:
    """Returns the atoms that are no channels."""
    return [atom for atom in atoms(dims) if not atom.is_channel]


def describe(dims: Dims) -> str:
    """Returns what dimensions are made of, for messages.

    Example:
        >>> y, x = Atom("y", 14), Atom("x", 14)
        >>> windows = (Atom("b", 2), y.split(2)[0], x.split(2)[0])
        >>> describe((windows, (y.split(2)[1], x.split(2)[1]), (channel(96),)))
        '(b y/7 x/7) (y%7 x%7) c'
    """
    return " ".join(str(dim[0]) if len(dim) == 1 else f"({' '.join(map(str, dim))})" if dim else "1" for dim in dims)


def merge(dim: Sequence[Atom]) -> Dim:
    """Joins neighbours that are one factor: channels, and consecutive digits of one side of the image.

    Example:
        >>> merge([channel(2), channel(3)]) == (channel(6),)
        True
        >>> merge(Atom("y", 14).split(2)) == (Atom("y", 14),)
        True
    """
    out: list[Atom] = []
    for atom in dim:
        last = out[-1] if out else None
        if last is not None and last.is_channel and atom.is_channel:
            out[-1] = channel(last.extent * atom.extent)
        elif last is not None and _continues(last, atom):
            out[-1] = replace(last, extent=last.extent * atom.extent, place=atom.place)
        else:
            out.append(atom)
    return tuple(out)


def _continues(high: Atom, low: Atom) -> bool:
    same = low.is_digit and (high.role, high.side) == (low.role, low.side)
    return same and not low.top and high.place == low.place * low.extent


def resolve(shape: tuple[int, ...], target: Sequence[int]) -> list[int]:
    """Returns the sizes of a reshape with -1 replaced; raises UnsupportedError where they hold another number of values."""
    result = [int(size) for size in target]
    total = prod(shape)
    if result.count(-1) == 1:
        rest = prod(size for size in result if size != -1)
        if rest and total % rest == 0:
            result[result.index(-1)] = total // rest
    if prod(result) != total or min(result, default=1) < 0:
        raise UnsupportedError(f"`reshape` of shape {shape} to {tuple(target)}: the numbers of values differ.")
    return result


@lru_cache(maxsize=1024)  # a network reshapes alike in every block and every forward
def regroup(dims: Dims, target: tuple[int, ...]) -> Dims:
    """Returns the dimensions of a reshape to sizes without -1; atoms keep their order, so data does not move.

    Atoms of extent 1 say nothing about where they belong; they go as 2D networks mean them:

    - to a size of 1 that stands there (a batch of one), one each and the last the rest, but no top digit without its low ones;
    - else digits to the dimension before (windows to the batch), others to the one behind.
    - A size of 1 before a whole side takes the side's top digit: the one window of an image as large as a window, of which a
      larger cloud has several. Not so behind another whole side or a size of 1: there it is the place in a grid as large as
      the image, whose cells hold one pixel each.

    Raises:
        UnsupportedError: sizes that part the atoms.
    """
    if target == sizes(dims):
        return dims
    queue = [atom for dim in dims for atom in dim if not (atom.is_channel and atom.extent == 1)]
    out: list[list[Atom]] = []
    for number, size in enumerate(target):
        behind = list(target[number + 1 :])
        if size == 1:
            out.append(_take_units(queue, behind))
            continue
        taken = _take_factors(queue, size, dims, target)
        while behind[:1] != [1] and behind and _is_loose_digit(queue):
            taken.append(queue.pop(0))
        out.append(taken)
    if queue and not out:
        raise UnsupportedError(f"`reshape` of shape {sizes(dims)} to (): no dimension is left for {describe((tuple(queue),))}.")
    if queue:  # of extent 1, all of them
        out[-1] += queue
    return _split_tops([merge(dim) for dim in out])


def _take_units(queue: list[Atom], behind: list[int]) -> list[Atom]:
    """Takes from the queue what a size of 1 holds: the last of several sizes of 1 takes all that there are."""
    is_last = not behind or behind[0] != 1
    taken: list[Atom] = []
    while queue and queue[0].extent == 1 and (is_last or not taken) and not _is_whole(queue[:2]):
        taken.append(queue.pop(0))
    return taken


def _is_whole(pair: list[Atom]) -> bool:
    """Whether two atoms are one factor."""
    return len(pair) == 2 and len(merge(pair)) == 1


def _is_loose_digit(queue: list[Atom]) -> bool:
    return bool(queue) and queue[0].extent == 1 and queue[0].is_digit and not _is_whole(queue[:2])


def _take_factors(queue: list[Atom], size: int, dims: Dims, target: Sequence[int]) -> list[Atom]:
    """Takes atoms from the queue that make up a size, the last one split where it is larger than what is left."""
    taken: list[Atom] = []
    left = size
    while left > 1:
        atom = queue.pop(0)
        if atom.extent > left and atom.extent % left == 0:
            atom, low = atom.split(left)
            queue.insert(0, low)
        if left % atom.extent:
            raise UnsupportedError(
                f"`reshape` of shape {sizes(dims)}, which is {describe(dims)}, to {tuple(target)}: {size} parts {atom}, of "
                f"extent {atom.extent}. Sizes must be products of its factors."
            )
        taken.append(atom)
        left //= atom.extent
    return taken


def _split_tops(dims: list[Dim]) -> Dims:
    """Gives the top digit of a whole side to the dimension of extent 1 before it, unless the sizes of 1 are a grid's."""
    for i, dim in enumerate(dims[:-1]):
        behind = dims[i + 1]
        before = dims[i - 1] if i else None
        is_grid = before == () or (before is not None and len(before) == 1 and before[0].is_whole_side)
        if dim == () and not is_grid and len(behind) == 1 and behind[0].is_digit and behind[0].top and behind[0].extent > 1:
            high, low = behind[0].split(1)
            dims[i], dims[i + 1] = (high,), (low,)
    return tuple(dims)
