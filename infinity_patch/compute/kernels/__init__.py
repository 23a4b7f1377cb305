"""Kernels of a transformer block, one file a kernel: a plain formula in torch, which is what every
processor computes, and beside it a Triton kernel for CUDA devices."""
