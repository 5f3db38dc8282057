"""Sparse voxels: the tensor, its sites and kernel maps, convolution and pooling, and what torch functions do on it."""

from i2p_zoo.sparse import functions as functions  # fills the table of torch functions
from i2p_zoo.sparse import token_functions as token_functions
