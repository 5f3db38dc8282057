"""matmul and einsum of tokens, pairs and dense tensors."""

from __future__ import annotations

from typing import Any

import torch

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.tokens.contraction import contract
from i2p_zoo.sparse.tokens.site_tokens import as_tokens


@token_op(*methods("matmul", "bmm", "__matmul__"))
def matmul(a: Any, b: Any) -> Any:
    """Any two of tokens, pairs and dense tensors."""
    a, b = as_tokens(a), as_tokens(b)
    count = max(a.ndim, b.ndim) - 2
    batch = [("batch", i) for i in range(count)]
    la, lb = [*batch[count - a.ndim + 2 :], "m", "c"], [*batch[count - b.ndim + 2 :], "c", "n"]
    return contract(a, la, b, lb, [*batch, "m", "n"])


@token_op(torch.Tensor.__rmatmul__)
def rmatmul(a: Any, b: Any) -> Any:
    """The product `b @ a`."""
    return matmul(b, a)


@token_op(torch.einsum)
def einsum(equation: str, *tensors: Any) -> Any:
    """Of two tensors, with a letter a dimension, and an arrow.

    Raises:
        UnsupportedError: any other equation; or the product has no meaning for tokens.
    """
    if len(tensors) == 1 and isinstance(tensors[0], list | tuple):
        tensors = tuple(tensors[0])
    terms, arrow, out = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    if not arrow or len(letters) != 2 or len(tensors) != 2 or not "".join(letters).isalpha():
        raise UnsupportedError(f"`einsum` of tokens by {equation!r}: expected two tensors, such as 'bnc,bmc->bnm'.")
    return contract(tensors[0], list(letters[0]), tensors[1], list(letters[1]), list(out))
