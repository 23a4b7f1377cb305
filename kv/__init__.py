"""Caches of next-scale image models: arithmetic, tensors and eviction policies. Knows nothing of
Infinity, files or the command line. Importing the package itself does not import torch."""
