"""How large the pieces are that large tensors are worked on in. No torch: plans use them too."""

ROWS = 512
"""Rows of hidden states, of all sequences together, that go through a chain of operations at a
time on a CPU: enough for matrix products to run at full rate, few enough for what lies between
them to stay in the last-level cache."""

LARGE = 1 << 24
"""Numbers in a decoder's map from which it is worked on in strips."""

STRIP = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Numbers in a strip: on a CPU a few megabytes, which stay in cache; enough to fill a GPU."""
