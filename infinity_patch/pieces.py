"""How large the pieces are that work is done in. No torch: plans use them too."""

ROWS = 512
"""Rows of hidden states, of all sequences together, that go through a chain of operations at a
time on a CPU: enough for matrix products to run at full rate, few enough for what lies between
them to stay in the last-level cache."""

LARGE = 1 << 24
"""Numbers in a decoder's map from which it is worked on in strips."""

STRIP = {"cpu": 1 << 22, "cuda": 1 << 25}
"""Numbers in a strip: on a CPU a few megabytes, which stay in cache; enough to fill a GPU, whose
memory holds several copies of one, in float32 too."""

TEXT_ROWS = 16
"""Rows of text of the shortest prompts on a device; longer ones take a power of two, so that few
lengths are to be told apart, each a multiple of what attention kernels want."""

REMEMBERED = 512
"""Texts whose features are kept in the host's memory; those of a long one take 4 MiB."""


def padded_text(tokens: int, most: int) -> int:
    """Rows that a text of `tokens` takes on a device, at most `most` where that holds it."""
    rows = TEXT_ROWS
    while rows < tokens:
        rows *= 2
    return max(min(rows, most), tokens)
