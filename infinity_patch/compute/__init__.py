"""How tensors are computed and moved: products, attention, offload, memory."""
