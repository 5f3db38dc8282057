"""Sparse voxels: the tensor, its sites and kernel maps, convolution and pooling, and what torch functions do on it."""
