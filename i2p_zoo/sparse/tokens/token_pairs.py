"""TokenPairs: the pairs of a query and a key of one group, in dense blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.coordinates import unique_rows
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.tokens.layout import Atom
from i2p_zoo.sparse.tokens.token_groups import Bands, GroupBlocks, limits_for, read_sizes, split_by_size
from i2p_zoo.sparse.tokens.token_rows import TokenRows


class PairOffsets(NamedTuple):
    """Places of the pairs of a block in a flat table, as a sum.

    Attributes:
        queries: (G, n, 1) int64.
        keys: (G, 1, m) int64.
    """

    queries: Tensor
    keys: Tensor


class TokenPairs:
    """All pairs of a query row and a key row of the same group.

    Values of pairs are a block (G, queries, keys, ...) for each block of groups. Groups of like size share a block, in which
    the smaller ones repeat a row: what a repeated query has is dropped, and reductions over keys leave out the repeated ones.

    Attributes:
        queries, keys: the rows.
        shared: the atoms that the queries of a group have in common.
        query_blocks, key_blocks: both in groups, stacked alike.
        lead: how many dimensions of a block stand before its features.
    """

    lead = 3

    def __init__(self, queries: TokenRows, keys: TokenRows, shared_q: Sequence[Atom], shared_k: Sequence[Atom]) -> None:
        self.queries, self.keys = queries, keys
        self.shared = list(shared_q)
        self._key = ("pairs", keys.key, _names(shared_q), _names(shared_k))
        self.query_blocks, self.key_blocks = queries.remember(
            self._key, lambda: _stack_alike(queries, keys, shared_q, shared_k)
        )

    @classmethod
    def of(cls, queries: TokenRows, keys: TokenRows, shared_q: Sequence[Atom], shared_k: Sequence[Atom]) -> TokenPairs:
        """The one object of these pairs, for as long as anything holds it.

        Args:
            queries, keys: the rows; of as many samples.
            shared_q, shared_k: atoms of the queries and of the keys that a group has in common, in the same order.

        Raises:
            UnsupportedError: they have no group in common: the samples of the batch are joined, or either has extra tokens and
                groups smaller than a sample.
        """
        key = ("pairs", keys.key, _names(shared_q), _names(shared_k))
        return queries.share(key, lambda: cls(queries, keys, shared_q, shared_k))

    def offsets(self, atoms: Sequence[Atom]) -> list[PairOffsets]:
        """Where each pair stands in a table over some atoms, flattened: an offset of its query plus one of its key."""
        return self.queries.remember((*self._key, "offsets", tuple(atoms)), lambda: self._offsets(atoms))

    def _offsets(self, atoms: Sequence[Atom]) -> list[PairOffsets]:
        sides = [torch.zeros_like(self.queries.batch), torch.zeros_like(self.keys.batch)]
        for atom in atoms:
            sides = [side * atom.extent for side in sides]
            sides[atom.side] += (self.keys if atom.side else self.queries).index(atom)
        parts = zip(self.query_blocks.gather(sides[0]), self.key_blocks.gather(sides[1]), strict=True)
        return [PairOffsets(queries.unsqueeze(2), keys.unsqueeze(1)) for queries, keys in parts]


def _names(shared: Sequence[Atom]) -> tuple[tuple[str, int, int, bool], ...]:
    return tuple(sorted((atom.role, atom.extent, atom.place, atom.top) for atom in shared))


def _stack_alike(
    queries: TokenRows, keys: TokenRows, shared_q: Sequence[Atom], shared_k: Sequence[Atom]
) -> tuple[GroupBlocks, GroupBlocks]:
    """Stacks the groups of queries and of keys in the same blocks."""
    groups_q, coords_q = queries.groups(shared_q)
    same = queries is keys and _names(shared_q) == _names(shared_k)
    groups_k, coords_k = (groups_q, coords_q) if same else keys.groups(shared_k)
    if (coords_q is None) != (coords_k is None):
        raise UnsupportedError(f"Expected queries and keys grouped by like dimensions; got {shared_q} and {shared_k}.")
    if coords_q is not None and coords_k is not None and not same:
        both, inverse = unique_rows(torch.cat([coords_q, coords_k]))
        groups_q = RowIndex(inverse[: len(coords_q)][groups_q.rows], len(both))
        groups_k = RowIndex(inverse[len(coords_q) :][groups_k.rows], len(both))
    sizes = read_sizes([groups_q] if same else [groups_q, groups_k])
    # by sites alone, so that pairs with and without extra tokens are in the same blocks
    lengths = [size.lengths - rows.prefix for size, rows in zip((sizes[0], sizes[-1]), (queries, keys), strict=True)]
    device = groups_q.rows.device
    bands = Bands.of(split_by_size(lengths[0], lengths[1], limits_for(groups_q.rows)), device)
    blocks = GroupBlocks(groups_q, sizes[0], bands)
    return blocks, blocks if same else GroupBlocks(groups_k, sizes[1], bands)
