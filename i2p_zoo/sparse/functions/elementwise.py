"""Functions of each value alone, which act on the features."""

from __future__ import annotations

from typing import Any

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import methods, sparse_op
from i2p_zoo.sparse.function_lists import ELEMENTWISE
from i2p_zoo.sparse.tensor import SparseTensor


def _register_elementwise(function: Any) -> None:
    @sparse_op(function)
    def elementwise(x: Any, *args: Any, **kwargs: Any) -> SparseTensor:
        if not isinstance(x, SparseTensor) or any(isinstance(a, SparseTensor) for a in (*args, *kwargs.values())):
            raise UnsupportedError(f"`{function.__name__}` takes one sparse tensor, its first argument, and numbers.")
        result = function(x.features, *args, **kwargs)
        return x if result is x.features else x.derive(result)

    elementwise.__qualname__ = f"elementwise {function.__name__}"


for _function in ELEMENTWISE + methods("type_as"):
    _register_elementwise(_function)


@sparse_op(*methods("contiguous"), takes_padding=True)
def contiguous(x: SparseTensor, memory_format: Any = None) -> SparseTensor:
    """Lays the features out row by row; torch's memory formats are of images and mean nothing here."""
    return x.derive(x.features.contiguous())


@sparse_op(*methods("is_contiguous"), takes_padding=True)
def is_contiguous(x: SparseTensor, memory_format: Any = None) -> bool:
    """Whether the features lie row by row."""
    return x.features.is_contiguous()
