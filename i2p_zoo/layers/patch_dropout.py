"""Patch dropout on tokens: in training each cloud keeps a part of its tokens, drawn anew."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.patch_dropout import PatchDropout, PatchDropoutWithIndices
from torch import nn

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.layers.registry import replaces
from i2p_zoo.sparse.row_index import count_rows
from i2p_zoo.sparse.tokens.site_tokens import make_tokens
from i2p_zoo.sparse.tokens.token_rows import TokenRows
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor


@replaces(PatchDropout, PatchDropoutWithIndices)
class TokenDropout(nn.Module):
    """timm's patch dropout (Li et al. 2023, "Scaling language-image pre-training via masking") on each cloud's own tokens.

    A cloud of n tokens keeps max(1, floor(n * (1 - prob))) of them and its extra tokens. They keep their places, so that there
    are no indices to give on: rotary embeddings are read by coordinates.

    Args:
        leaf: timm's layer.
        **_: a builder's other arguments.
    """

    def __init__(self, leaf: PatchDropout | PatchDropoutWithIndices, **_: Any) -> None:
        super().__init__()
        self.prob = leaf.prob
        self.gives_indices = type(leaf) is PatchDropoutWithIndices

    def forward(self, x: Any) -> Any:
        """Drops tokens of (batch, tokens, channels), in training."""
        if self.training and self.prob:
            x = _drop(x, self.prob)
        return (x, None) if self.gives_indices else x

    def extra_repr(self) -> str:
        """Describes the layer in `print(model)`."""
        return f"prob={self.prob}"


def _drop(x: Any, prob: float) -> Any:
    if not isinstance(x, TokenTensor) or x.rows.level is None:
        raise UnsupportedError(f"Patch dropout of {x!r}, which is no sequence of a cloud's tokens.")
    rows = x.rows
    first = rows.batch_size * rows.prefix  # rows of extra tokens stand before those of sites
    batch = rows.batch[first:]
    counts = count_rows(batch, rows.batch_size)
    order = torch.rand(len(batch), device=batch.device).argsort()
    order = order[batch[order].argsort(stable=True)]  # sample after sample, in a random order within each
    rank = torch.arange(len(order), device=batch.device) - (counts.cumsum(0) - counts)[batch[order]]
    kept = order[rank < (counts * (1 - prob)).long().clamp(min=1)[batch[order]]].sort().values
    coords = rows.coords[kept]
    values = torch.cat([x.values[:first], x.values[first:].index_select(0, kept)])
    fewer = TokenRows.of(coords, rows.cache, rows.batch_size, rows.axis, rows.prefix, rows.level)
    return make_tokens(fewer, [values], x.dims)
