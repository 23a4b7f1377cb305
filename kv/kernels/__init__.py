"""Kernels for what caches and policies do to many tokens at once, one file a kernel: a plain
formula in torch, which is what every processor computes, and beside it a Triton kernel for CUDA
devices."""
