"""The numba kernels of the CPU backend.

Each works on one chunk of rows (see `_threads`), releases the GIL and is compiled on first use, cached on disk.
"""
