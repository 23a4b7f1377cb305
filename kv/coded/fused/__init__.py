"""The same codes on CUDA devices, by a few kernels."""
