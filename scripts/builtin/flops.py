"""How much arithmetic a training picture is, and how many pictures a GPU's minutes are.

    python -m scripts.builtin.flops

A multiplication and an addition are two operations; a backward pass is twice a forward one. Knows
shapes; runs no model. No torch.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from scalekv.configs.spec import TokenizerSpec, TransformerSpec
from scalekv.infinity_patch.model.parameters import mlp_width
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.schedule import Schedule

BACKWARD = 3  # a training step in forward passes
SECONDS = 225  # of a run, for the transformer
TEXT_TOKENS = 32
SPEEDS = (50, 100, 200)  # TFLOP/s that were reached; a bf16 product alone reaches 800 there


@dataclass(frozen=True)
class Forward:
    """Operations of one forward pass of one picture, by where they go."""

    products: float
    attention: float
    tokenizer: float

    @property
    def trained(self) -> float:
        """Of a training step of the transformer, in which the tokenizer has no part."""
        return BACKWARD * (self.products + self.attention)


def products(spec: TransformerSpec, schedule: Schedule, token_bits: int) -> float:
    """Matrix products of all tokens: projections, feed-forward, cross-attention, head."""
    width, tokens = spec.width, sum(schedule.tokens)
    block = 4 * width * width  # self-attention's projections
    block += 2 * width * width + 2 * width * TEXT_TOKENS  # cross-attention and what it looks at
    block += 2 * width * mlp_width(width)
    around = width * token_bits + width * 2 * token_bits
    return 2.0 * tokens * (spec.depth * block + around)


def attention(spec: TransformerSpec, schedule: Schedule) -> float:
    """Scores and weighted sums of block-causal self-attention: each scale sees those before it."""
    pairs = sum(n * (schedule.before(k) + n) for k, n in enumerate(schedule.tokens))
    return 4.0 * spec.depth * spec.width * pairs


def tokenizer(spec: TokenizerSpec, side: int) -> float:
    """Convolutions of encoder and decoder together."""
    total = 0.0
    widths = [spec.ch * multiple for multiple in spec.ch_mult]

    def conv(c_in: int, c_out: int, at: int, kernel: int = 3) -> float:
        return 2.0 * c_in * c_out * kernel * kernel * at * at

    def residual(c_in: int, c_out: int, at: int) -> float:
        passed = conv(c_in, c_out, at, 1) if c_in != c_out else 0.0
        return conv(c_in, c_out, at) + conv(c_out, c_out, at) + passed

    for blocks, encoding in ((spec.res_blocks, True), (spec.res_blocks + 1, False)):
        order = range(len(widths)) if encoding else reversed(range(len(widths)))
        before = spec.ch if encoding else widths[-1]
        for i in order:
            at = side >> i
            for _ in range(blocks):
                total += residual(before, widths[i], at)
                before = widths[i]
            if encoding and i < len(widths) - 1:
                total += conv(before, before, at // 2)
            if not encoding and i > 0:
                total += conv(before, before, at * 2)
        small = side >> (len(widths) - 1)
        total += 2 * residual(widths[-1], widths[-1], small)
        total += conv(3, spec.ch, side) + conv(widths[-1], spec.bits, small)  # and their mirrors
    return total


def forward(transformer: TransformerSpec, codes: TokenizerSpec, pixels: str) -> Forward:
    """One picture of a pixel class."""
    schedule = schedule_for("1:1", pixels)
    side = schedule.scales[-1][0] * codes.stride
    return Forward(
        products(transformer, schedule, codes.token_bits),
        attention(transformer, schedule),
        tokenizer(codes, side),
    )


def main() -> None:
    """Print both pixel classes, and what minutes are worth."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    from scripts.builtin.gpu.start import next_preset

    preset = next_preset()
    print("| pixels | products, forward | attention | a training step | tokenizer, forward |")
    print("| --- " * 5 + "|")
    for pixels in ("0.25M", "0.06M"):
        one = forward(preset.transformer, preset.tokenizer, pixels)
        parts = (one.products, one.attention, one.trained, one.tokenizer)
        print(f"| {pixels} | " + " | ".join(f"{part / 1e9:.1f} GFLOP" for part in parts) + " |")
    whole = forward(preset.transformer, preset.tokenizer, "0.25M").trained
    print(f"\n{SECONDS} s of ten-scale pictures:")
    for speed in SPEEDS:
        print(f"- at {speed} TFLOP/s: {SECONDS * speed * 1e12 / whole:,.0f} pictures")


if __name__ == "__main__":
    main()
