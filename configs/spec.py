"""Architectures as data: what a transformer and a tokenizer are made of. No torch."""

from __future__ import annotations

from dataclasses import dataclass

DTYPES = ("auto", "fp32", "bf16", "fp16")
"""What models compute in, as people may ask for it, and as a preset may name it."""

PLAIN = DTYPES[1:]
"""Ways to hold weights that are also ways to multiply them."""
EIGHT_BITS = ("int8", "fp8")
"""Ways to hold weights in half of what bf16 takes."""
WEIGHTS = ("auto", *PLAIN, *EIGHT_BITS)
"""How a transformer's blocks may hold their weights, as people may ask for it."""
TEXT_DTYPES = (*DTYPES, "int8")
"""What the text encoder computes in; "int8": it computes as with "auto", and holds the weights of
its linear layers in 8 bits."""

PIXELS = ("0.06M", "0.25M", "0.60M", "1M")
"""Pixel classes, by people and presets alike."""
PIXELS_IN_WORDS = (
    "0.06M (256x256), 0.25M (512x512), 0.60M (768x768) or 1M (1024x1024), in brackets the pixels "
    "of a square picture of the published models; emoji's are half as wide"
)


@dataclass(frozen=True)
class TransformerSpec:
    """Sizes of an Infinity transformer (arXiv 2412.04431, table of model sizes).

    depth: blocks; width: C; heads: H; chunks: groups the blocks are named by; text_width: width of
    the text encoder's output; text_max: most text tokens; level_embed_every_chunk: add the scale's
    embedding before every chunk instead of once.
    """

    depth: int
    width: int
    heads: int
    chunks: int
    text_width: int
    text_max: int = 512
    level_embed_every_chunk: bool = False

    @property
    def head_dim(self) -> int:
        """Width of one head, D = C / H."""
        return self.width // self.heads


@dataclass(frozen=True)
class TokenizerSpec:
    """Sizes of a picture tokenizer.

    bits: bits a code; stride: pixels a code; patchify: whether a token carries 2 x 2 codes;
    ch, ch_mult: base width and its multiples per level; res_blocks: residual blocks a level of the
    encoder (the decoder has one more).
    """

    bits: int
    stride: int
    patchify: bool
    ch: int
    ch_mult: tuple[int, ...]
    res_blocks: int

    @property
    def token_bits(self) -> int:
        """Bits a transformer token, d."""
        return self.bits * (4 if self.patchify else 1)


@dataclass(frozen=True)
class TextSpec:
    """Sizes of a T5 encoder with gated feed-forward; its width is the transformer's `text_width`.

    layers: blocks; heads, head_width: of attention; hidden: width of the feed-forward; vocabulary:
    rows of the embedding.
    """

    layers: int
    heads: int
    head_width: int
    hidden: int
    vocabulary: int


@dataclass(frozen=True)
class Sampling:
    """Default sampling of a preset: guidance, temperature, nucleus, guidance layer (0: logits)."""

    cfg: float
    tau: float
    top_p: float
    cfg_layer: int = 0
