"""2D leaves and their sparse 3D layers, one file a kind; importing the package fills the table."""

from timm.layers.linear import Linear as TimmLinear
from torch import nn

from i2p_zoo.layers import (  # noqa: F401 (they fill the table)
    batch_norm_act,
    bilinear_attention,
    blur_pool,
    conditional_convolution,
    convolution,
    drop_block,
    feature_convolution,
    global_context,
    normalization,
    patch_dropout,
    relative_positions,
    sequence,
    space_to_depth,
    standardized_convolution,
    transposed_convolution,
)
from i2p_zoo.layers.registry import keep

keep(nn.Linear, TimmLinear, nn.Conv1d)
