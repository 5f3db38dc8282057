"""Recurrent layers along one side of an image (Sequencer)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.layers.registry import keep, replaces
from i2p_zoo.sparse.tokens.layout import channel
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens


class SequenceLSTM(nn.LSTM):
    """torch's LSTM over the tokens of each group in the order of their place; its own parameters."""

    def forward(self, x: Any, state: Any = None) -> Any:
        """(groups, tokens, channels) to (groups, tokens, hidden)."""
        if isinstance(x, Tensor):
            return super().forward(x, state)
        x = as_tokens(x)
        if x.ndim != 3 or not self.batch_first or x.rows.prefix:
            raise UnsupportedError(f"An LSTM of {x!r}.")
        shared = [atom for atom in x.dims[0] if not atom.is_channel]
        along = [atom for atom in x.dims[1] if not atom.is_channel]
        rows = x.rows
        place = torch.zeros_like(rows.batch)
        for atom in along:
            column = rows.coords[:, 1 + rows.plane["yx".index(atom.role)]].long()
            place = place * (2**20) + rows.digit(column, atom) + 2**19
        order = place.argsort(stable=True)
        back = order.argsort()
        groups = rows.blocks(shared)
        parts = []
        for _, index, _ in groups.parts:
            sort = back[index].argsort(1)
            sequence = x.values[index.gather(1, sort)]
            out, _ = super().forward(sequence)
            parts.append(torch.zeros_like(out).scatter(1, sort[..., None].expand_as(out), out))
        values = groups.scatter(parts)
        return make_tokens(x.space, [values], (*x.dims[:2], (channel(values.shape[1]),))), None


@replaces(nn.LSTM)
def build_lstm(leaf: nn.LSTM, axis: str, depth: int | None, inflation: str) -> nn.Module:
    """Builds the counterpart of an LSTM: itself, told to read tokens."""
    twin = object.__new__(SequenceLSTM)
    twin.__dict__.update(leaf.__dict__)
    return twin


keep(SequenceLSTM)
