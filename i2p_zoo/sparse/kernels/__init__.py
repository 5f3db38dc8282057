"""The numba kernels of the CPU backend.

Each works on one chunk of rows (see `i2p_zoo.sparse.threads`), releases the GIL and is compiled on first use, cached on disk.
"""
