"""What torch functions do on sparse tensors, one file a kind; importing the package fills the table.

A sparse tensor with features (N, C1, C2, ...) stands for a (B, C1, C2, ..., H, W) tensor, or for (B, H, W, C1, C2, ...) after a
permutation. A call that has no meaning on sites raises; nothing falls through.
"""

from i2p_zoo.sparse.functions import arithmetic, channelwise, dimensions, elementwise, reductions, resampling  # noqa: F401
