"""What decoding a picture keeps alive at its fullest moment, by arithmetic. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalekv.infinity_patch.pieces import LARGE, STRIP

if TYPE_CHECKING:
    from scalekv.infinity_patch.planning.footprint import Work


def decoder_bytes(work: Work) -> int:
    """Of one element of the decoder's weights and maps, which are bf16 where the blocks are."""
    return 2 if work.dtype == "bf16" else 4


def decoding(work: Work) -> int:
    """Activations of the decoder, which takes one picture at a time; the codes of the others wait.

    Maps of at least `LARGE` numbers are worked on in strips, a block's input and output whole.
    """
    tokenizer, element = work.preset.tokenizer, decoder_bytes(work)
    height, width = work.picture.scales[-1]
    size = height * width * (4 if tokenizer.patchify else 1)
    widths = [tokenizer.ch * multiple for multiple in tokenizer.ch_mult]
    before = widths[-1]
    codes = work.pictures * size * tokenizer.bits * 4
    moments = [_residual(work, before, before, size)]
    for level in reversed(range(len(widths))):
        for inputs in (before, widths[level]):
            moments.append(_residual(work, inputs, widths[level], size))
        before = widths[level]
        if level:
            moments.append(_doubled(work, before, size))
            size *= 4
    # the last norm, and the picture in the maps' dtype, in float32 and clamped
    last = (3 * before * element if not _in_strips(before * size) else 0) * size
    moments.append(last or size * before * element + _strip(work, before, 3, size))
    moments.append(size * 3 * (element + 4 + 4))
    return codes + max(moments)


def _in_strips(numbers: int) -> bool:
    return numbers >= LARGE


def _residual(work: Work, inputs: int, outputs: int, size: int) -> int:
    """A residual block: its input, and either the norm of it and the activation, or three maps of
    its output; in strips its input and its output."""
    element = decoder_bytes(work)
    if not _in_strips(inputs * size):
        return element * size * max(3 * inputs, inputs + 3 * outputs)
    whole = element * size * (inputs + outputs)
    strips = (_strip(work, inputs, outputs, size), _strip(work, outputs, outputs, size))
    return whole + max(strips)


def _doubled(work: Work, channels: int, size: int) -> int:
    """A map and its copy of twice the size, convolved; in strips the map and the result."""
    element = decoder_bytes(work)
    if not _in_strips(channels * size):
        return element * size * channels * 9
    strip = min(_strip_numbers(work), 4 * channels * size)
    several = strip < 4 * channels * size
    return element * (size * channels * 5 + (4 if several else 2) * strip)


def _strip(work: Work, inputs: int, outputs: int, size: int) -> int:
    """One strip on its way through norm and convolution: in float32, where the maps are not that
    already twice; or its activation and a padded copy; or that copy and the result. Where there
    are several, the padded copy and the result of the one before are still there."""
    element = decoder_bytes(work)
    strip = min(_strip_numbers(work), inputs * size)
    result = element * strip * outputs // inputs
    several = strip < inputs * size
    before = element * strip + result if several else 0
    normed = 4 * strip if element == 4 else 8 * strip
    convolved = element * strip + result * (2 if several else 1)
    return max(before + normed, before + 2 * element * strip, convolved)


def _strip_numbers(work: Work) -> int:
    return STRIP.get(work.device, LARGE)
