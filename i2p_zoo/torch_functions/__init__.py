"""What torch functions do on sparse tensors, one file a kind; importing the package fills the table.

A sparse tensor with features (N, C1, C2, ...) stands for a (B, C1, C2, ..., H, W) tensor, or for (B, H, W, C1, C2, ...) after a
permutation. A call that has no meaning on sites raises; nothing falls through.
"""

from i2p_zoo.torch_functions import arithmetic, dimensions, elementwise, normalization, reductions, windows
from i2p_zoo.torch_functions.registry import methods, sparse_op

__all__ = ["arithmetic", "dimensions", "elementwise", "methods", "normalization", "reductions", "sparse_op", "windows"]
