"""How many weights a model has, from its sizes alone: arithmetic of its parts' shapes. No torch.

Each function mirrors one part's module; tests hold them to the modules' own tensors.
"""

from __future__ import annotations

from itertools import pairwise

from scalekv.configs.spec import TextSpec, TokenizerSpec, TransformerSpec

LEVELS = 15  # rows of the level embedding in every published checkpoint
BUCKETS = 32  # of relative distances, in every T5


def mlp_width(width: int) -> int:
    """Hidden width of the transformer's feed-forward: the nearest multiple of 256 to 4 C."""
    return round(4 * width / 256) * 256


def blocks(spec: TransformerSpec) -> int:
    """Weights of all blocks of the transformer, which are kept in the dtype of the products."""
    width, hidden = spec.width, mlp_width(spec.width)
    self_attention = _linear(width, 3 * width, bias=False) + 2 * width + spec.heads
    cross_attention = _linear(width, 2 * width, bias=False) + width + _linear(width, width)
    projections = 2 * _linear(width, width)
    feed_forward = _linear(width, hidden) + _linear(hidden, width)
    modulation, norm = 6 * width, 2 * width
    parts = (self_attention, cross_attention, projections, feed_forward, modulation, norm)
    return spec.depth * sum(parts)


def linear_layers(spec: TransformerSpec) -> tuple[int, int]:
    """Numbers in the weights of the blocks' linear layers, and the rows they lie in."""
    width, hidden = spec.width, mlp_width(spec.width)
    return spec.depth * (8 * width**2 + 2 * width * hidden), spec.depth * (9 * width + hidden)


def around_blocks(spec: TransformerSpec, token_bits: int) -> int:
    """Weights of the transformer outside its blocks, which are kept in float32."""
    width, text = spec.width, spec.text_width
    pool = _linear(text, 2 * width, bias=False) + width + _linear(width, width) + width
    return sum(
        (
            spec.text_max * text,  # the learned rows that stand for no text
            width,  # the start's position
            text,  # the text norm
            pool,
            _linear(text, width) + _linear(width, width),
            LEVELS * width,
            _linear(token_bits, width),
            _linear(width, 6 * width),
            _linear(width, 2 * width),
            _linear(width, 2 * token_bits),
        )
    )


def autoencoder(spec: TokenizerSpec) -> tuple[int, int]:
    """Weights of encoder and decoder of the picture tokenizer."""
    widths = [spec.ch * multiple for multiple in spec.ch_mult]
    top = widths[-1]
    middle = 2 * _residual(top, top)
    levels = list(zip([spec.ch, *widths], widths, strict=False))
    encoder = _conv(3, spec.ch) + middle + _norm(top) + _conv(top, spec.bits)
    encoder += sum(_level(before, width, spec.res_blocks) for before, width in levels)
    decoder = _conv(spec.bits, top) + middle + _norm(widths[0]) + _conv(widths[0], 3)
    upwards = pairwise([top, *reversed(widths)])
    decoder += sum(_level(before, width, spec.res_blocks + 1) for before, width in upwards)
    # every level but the one of the largest, or smallest, map ends with a change of size
    encoder += sum(_conv(width, width) for width in widths[:-1])
    decoder += sum(_conv(width, width) for width in widths[1:])
    return encoder, decoder


def text_encoder(spec: TextSpec, width: int) -> tuple[int, int]:
    """Weights of a T5 encoder: those in its dtype, and those that stay in float32 where that dtype
    is float16."""
    inner = spec.heads * spec.head_width
    attention = 4 * width * inner
    gates = 2 * width * spec.hidden
    norms = 2 * width
    kept = spec.layers * spec.hidden * width
    rest = spec.layers * (attention + gates + norms)
    return spec.vocabulary * width + BUCKETS * spec.heads + width + rest, kept


def text_linear_layers(spec: TextSpec, width: int) -> tuple[int, int]:
    """Numbers in the weights of a T5 encoder's linear layers, and the rows they lie in."""
    inner = spec.heads * spec.head_width
    numbers = 4 * width * inner + 3 * width * spec.hidden
    return spec.layers * numbers, spec.layers * (3 * inner + 2 * spec.hidden + 2 * width)


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    return inputs * outputs + (outputs if bias else 0)


def _conv(inputs: int, outputs: int, kernel: int = 3) -> int:
    return inputs * outputs * kernel**2 + outputs


def _norm(channels: int) -> int:
    return 2 * channels


def _residual(inputs: int, outputs: int) -> int:
    shortcut = _conv(inputs, outputs, 1) if inputs != outputs else 0
    return (
        _norm(inputs) + _conv(inputs, outputs) + _norm(outputs) + _conv(outputs, outputs) + shortcut
    )


def _level(before: int, width: int, count: int) -> int:
    return _residual(before, width) + (count - 1) * _residual(width, width)
