"""Layouts: what the dimensions of a tensor are made of, and what reshaping and permuting them does. Symbols only, no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from i2p_zoo.errors import UnsupportedError


@dataclass(frozen=True)
class Atom:
    """A factor of a dimension.

    Attributes:
        kind: "c" a run of channels (a feature dimension of the data); "b" the batch; "y", "x" a digit of a site's height or
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
        return self.role == "c"

    def split(self, high: int) -> tuple[Atom, Atom]:
        """Splits into a factor of extent `high` and the rest."""
        low = self.extent // high
        if self.role == "c":
            return replace(self, extent=high), replace(self, extent=low)
        if self.role in "yx":
            return replace(self, extent=high, place=self.place * low), replace(self, extent=low, top=False)
        raise UnsupportedError(f"The {'batch' if self.kind == 'b' else 'tokens'} of extent {self.extent} cannot be split.")


Dim = tuple[Atom, ...]


Dims = tuple[Dim, ...]


def channel(extent: int) -> Atom:
    """A channel atom."""
    return Atom("c", extent)


def extent(dim: Dim) -> int:
    """The size of a dimension."""
    return prod(atom.extent for atom in dim)


def sizes(dims: Dims) -> tuple[int, ...]:
    """The shape that dimensions make."""
    return tuple(extent(dim) for dim in dims)


def atoms(dims: Dims) -> list[Atom]:
    """All atoms in the order of traversal."""
    return [atom for dim in dims for atom in dim]


def channel_extents(dims: Dims) -> list[int]:
    """The extents of the feature dimensions, in the order of traversal."""
    return [atom.extent for atom in atoms(dims) if atom.is_channel]


def site_atoms(dims: Dims) -> list[Atom]:
    """The atoms that are no channels."""
    return [atom for atom in atoms(dims) if not atom.is_channel]


def merge(dim: Sequence[Atom]) -> Dim:
    """Joins neighbours that are one factor: channels, and consecutive digits of one axis."""
    out: list[Atom] = []
    for atom in dim:
        last = out[-1] if out else None
        if last is not None and last.role == atom.role == "c":
            out[-1] = channel(last.extent * atom.extent)
        elif (
            last is not None
            and last.role == atom.role
            and atom.role in "yx"
            and last.side == atom.side
            and not atom.top
            and last.place == atom.place * atom.extent
        ):
            out[-1] = replace(last, extent=last.extent * atom.extent, place=atom.place)
        else:
            out.append(atom)
    return tuple(out)


def resolve(shape: tuple[int, ...], target: Sequence[int]) -> list[int]:
    """Replaces -1 in a wanted shape."""
    target = [int(size) for size in target]
    total = prod(shape)
    if target.count(-1) == 1:
        rest = prod(size for size in target if size != -1)
        if rest and total % rest == 0:
            target[target.index(-1)] = total // rest
    if prod(target) != total or min(target, default=1) < 0:
        raise UnsupportedError(f"`reshape` of shape {shape} to {tuple(target)}: the sizes differ.")
    return target


def regroup(dims: Dims, target: Sequence[int]) -> Dims:
    """Returns the dimensions of a reshape to sizes without -1; atoms keep their order, so data does not move.

    Sizes of 1 take the atoms of extent 1 that stand there (a batch of one), one each and the last the rest, but no top digit from
    its low one; where there is no such size, digits
    go to the dimension before (windows to the batch) and others to the one behind. A size of 1 before a whole side takes that side's top digit: the one window of an image as
    large as a window, of which a larger cloud has several.
    """
    have = sizes(dims)
    if tuple(target) == have:
        return dims
    queue = [atom for dim in dims for atom in dim if not (atom.is_channel and atom.extent == 1)]
    out: list[list[Atom]] = []
    for number, size in enumerate(target):
        taken: list[Atom] = []
        count = 1
        if size == 1:
            more = next((i for i, other in enumerate(target[number + 1 :]) if other != 1), len(target) - number - 1)
            while queue and queue[0].extent == 1 and (not taken or not more) and len(merge(queue[:2])) == min(len(queue), 2):
                taken.append(queue.pop(0))
        while count < size:
            atom = queue.pop(0)
            need = size // count
            if atom.extent > need:
                if size % count or atom.extent % need:
                    raise UnsupportedError(f"`reshape` of {have} to {tuple(target)}: {atom} does not divide.")
                atom, low = atom.split(need)
                queue.insert(0, low)
            elif size % (count * atom.extent):
                raise UnsupportedError(f"`reshape` of {have} to {tuple(target)}: {atom} does not divide.")
            taken.append(atom)
            count *= atom.extent
        behind = target[number + 1] if number + 1 < len(target) else 1
        while size > 1 and behind != 1 and queue and queue[0].extent == 1 and queue[0].role in "yx":
            if len(merge(queue[:2])) < 2:
                break
            taken.append(queue.pop(0))
        out.append(taken)
    if queue:  # atoms of extent 1
        if not out:
            raise UnsupportedError(f"`reshape` of {have} to {tuple(target)}.")
        out[-1] += queue
    result = [merge(dim) for dim in out]
    for i in range(len(result) - 1):
        behind = result[i + 1]
        if result[i] == () and len(behind) == 1 and behind[0].role in "yx" and behind[0].top and behind[0].extent > 1:
            high, low = behind[0].split(1)
            result[i], result[i + 1] = (high,), (low,)
    return tuple(result)
