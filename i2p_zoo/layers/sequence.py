"""Recurrent layers along one side of an image (Sequencer)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.layers.registry import keep, replaces, take_over
from i2p_zoo.sparse.tokens.layout import Atom, channel, describe, site_atoms
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_rows import TokenRows


class SequenceLSTM(nn.LSTM):
    """torch's LSTM over the tokens of each group in the order of their place, with the leaf's own parameters."""

    def __init__(self, leaf: nn.LSTM) -> None:
        nn.Module.__init__(self)
        take_over(self, leaf)

    def forward(self, x: Any, state: Any = None) -> Any:
        """Runs along the tokens of each group; those of equal number run together.

        Args:
            x: tokens (groups, tokens, channels): a group's are a row, a column or any run of one side of the image.
            state: None; dense tensors may have one.

        Returns:
            (groups, tokens, hidden) and None: the last state has no meaning where groups differ in length.

        Raises:
            UnsupportedError: other tokens, or a state for them.
        """
        if isinstance(x, Tensor):
            return super().forward(x, state)
        x = as_tokens(x)
        if x.ndim != 3 or not self.batch_first or x.is_pairs or x.rows.prefix or state is not None:
            raise UnsupportedError(
                f"An LSTM of {x!r}: expected (groups, tokens, channels), without class tokens or a first state."
            )
        shared, along = site_atoms((x.dims[0],)), site_atoms((x.dims[1],))
        if not along or not all(atom.is_digit for atom in along):
            raise UnsupportedError(f"An LSTM along {describe((x.dims[1],))} of {x!r}: expected tokens of an image's side.")
        rank = _order(x.rows, along).argsort()  # of each token among all
        groups = x.rows.blocks(shared)
        parts = []
        for _, index, _ in groups.parts:  # (G, n) rows
            sort = rank[index].argsort(1)
            out, _ = super().forward(x.values[index.gather(1, sort)])
            parts.append(torch.zeros_like(out).scatter(1, sort[..., None].expand_as(out), out))
        values = groups.scatter(parts)
        return make_tokens(x.space, [values], (*x.dims[:2], (channel(values.shape[1]),))), None


def _order(rows: TokenRows, along: Sequence[Atom]) -> Tensor:
    """(rows,) int64: the rows in the order of their places, also of those beyond the canvas."""
    order = torch.arange(len(rows.coords), device=rows.coords.device)
    for atom in reversed(along):  # the least significant first, each sort stable
        place = rows.digit(rows.coords[:, rows.column(atom.role)].long(), atom)
        order = order[place[order].argsort(stable=True)]
    return order


@replaces(nn.LSTM)
def build_lstm(leaf: nn.LSTM, axis: str, depth: int | None, inflation: str) -> SequenceLSTM:
    """Builds the counterpart of an LSTM: its parameters, read along tokens."""
    return SequenceLSTM(leaf)


keep(SequenceLSTM)
