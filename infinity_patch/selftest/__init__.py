"""Whether a model is what it should be, measured on the model itself."""
