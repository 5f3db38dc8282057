"""2D leaves and their sparse 3D layers, one file a kind; importing the package fills the table."""

from timm.layers.linear import Linear as TimmLinear
from torch import nn

from i2p_zoo.layers import (
    batch_norm_act,
    bilinear_attention,
    blur_pool,
    conditional_convolution,
    convolution,
    global_context,
    normalization,
    space_to_depth,
    standardized_convolution,
)
from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.layers.registry import find_builder, is_supported, keep, replaces, supported_types

keep(nn.Linear, TimmLinear, nn.Conv1d)
keep(SparseConv3d, standardized_convolution.SparseStdConv3d, conditional_convolution.SparseCondConv3d)
keep(blur_pool.SparseBlurPool3d)

__all__ = [
    "SparseConv3d",
    "batch_norm_act",
    "bilinear_attention",
    "blur_pool",
    "conditional_convolution",
    "convolution",
    "find_builder",
    "global_context",
    "is_supported",
    "keep",
    "normalization",
    "replaces",
    "space_to_depth",
    "standardized_convolution",
    "supported_types",
]
