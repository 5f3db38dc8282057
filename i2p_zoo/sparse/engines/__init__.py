"""What computes convolutions and maxima over kernel maps: numba on the CPU, torch on any device, Triton and spconv on CUDA."""
