"""How many tokens each layer may hold: asked for, shared out, kept to at every moment."""
