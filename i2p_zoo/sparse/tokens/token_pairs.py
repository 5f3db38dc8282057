"""TokenPairs: the pairs of a query and a key of one group, in dense blocks without padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.coordinates import unique_rows
from i2p_zoo.sparse.tokens.layout import Atom
from i2p_zoo.sparse.tokens.token_groups import GroupBlocks
from i2p_zoo.sparse.tokens.token_rows import TokenRows


class TokenPairs:
    """All pairs of a query row and a key row of the same group.

    Attributes:
        queries, keys: the rows.
        query_blocks, key_blocks: both in groups, stacked alike.
    """

    def __init__(self, queries: TokenRows, keys: TokenRows, shared_q: Sequence[Atom], shared_k: Sequence[Atom]) -> None:
        self.queries, self.keys = queries, keys
        self.shared = list(shared_q)
        ids_q, coords_q = queries.groups(shared_q)
        ids_k, coords_k = keys.groups(shared_k)
        if (coords_q is None) != (coords_k is None):
            raise UnsupportedError("Queries and keys are grouped by unlike dimensions.")
        count = queries.batch_size
        if coords_q is not None and coords_k is not None:
            both, inverse = unique_rows(torch.cat([coords_q, coords_k]))
            count = len(both)
            ids_q, ids_k = inverse[: len(coords_q)][ids_q], inverse[len(coords_q) :][ids_k]
        roles = torch.bincount(ids_q, minlength=count) * (2**31) + torch.bincount(ids_k, minlength=count)
        if queries is keys and torch.equal(ids_q, ids_k):
            self.query_blocks = self.key_blocks = GroupBlocks(ids_q, count)
        else:
            self.query_blocks, self.key_blocks = GroupBlocks(ids_q, count, roles), GroupBlocks(ids_k, count, roles)

    @classmethod
    def of(cls, queries: TokenRows, keys: TokenRows, shared_q: Sequence[Atom], shared_k: Sequence[Atom]) -> TokenPairs:
        """The one object of these pairs."""
        names = [tuple(sorted((a.role, a.extent, a.place, a.top) for a in shared)) for shared in (shared_q, shared_k)]
        key = ("pairs", id(keys), *names)
        queries.memo.setdefault(("kept", id(keys)), keys)
        result: TokenPairs = queries.remember(key, lambda: cls(queries, keys, shared_q, shared_k))
        return result

    def index(self, atom: Atom) -> list[Tensor]:
        """A block (G, n, 1) or (G, 1, n) for each size: where its query or key stands along an atom."""
        if atom.side:
            return [part.unsqueeze(1) for part in self.key_blocks.gather(self.keys.index(atom))]
        return [part.unsqueeze(2) for part in self.query_blocks.gather(self.queries.index(atom))]

    @property
    def batch(self) -> list[Tensor]:
        """A block (G, n, 1) of sample ids for each size."""
        return [part.unsqueeze(2) for part in self.query_blocks.gather(self.queries.batch)]
