"""The tensors that are held, layer by layer, and where attention reads them."""
