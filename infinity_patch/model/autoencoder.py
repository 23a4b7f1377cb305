"""Convolutional encoder and decoder of the picture tokenizer, under the official tensor names.

Knows pictures and latent maps; nothing of bits, scales or the transformer. Shape and names follow
the published Infinity autoencoder (arXiv 2412.04431): convolutions and norms sit one level deeper
than in LDM (`conv1.conv.weight`, `norm1.norm.weight`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv.configs.spec import TokenizerSpec
from scalekv.infinity_patch.compute.exact import exact_float32
from scalekv.infinity_patch.pieces import LARGE as LARGE
from scalekv.infinity_patch.pieces import STRIP

NORM_EPS = 1e-6

Rows = Callable[[int, int], Tensor]
"""What gives rows `start` to `end` of a map that need not exist as a whole."""


class Conv(nn.Module):
    """A 2-D convolution one level down, as the published checkpoints name it."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Norm(nn.Module):
    """Group norm of 32 groups, 24 where 32 does not divide the channels."""

    def __init__(self, channels: int):
        super().__init__()
        groups = 32 if channels % 32 == 0 else 24
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out

    def activated(self, x: Tensor) -> Rows:
        """Rows of SiLU(norm(x)), for which the mean and variance of x are taken once."""
        factor, shift = (t[:, :, None, None] for t in self._factor_and_shift(x))

        def rows(start: int, end: int) -> Tensor:
            part = torch.addcmul(shift, x[:, :, start:end].float(), factor)
            return F.silu(part, inplace=True).to(x.dtype)

        return rows

    def _factor_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the norm multiplies each channel by and adds to it, (B, C) float32 each.

        Mean and variance are taken of what lies beyond a first guess of the mean, in float64: of
        squares as they are, a mean far from 0 would leave few digits of the variance.
        """
        batch, channels, height, width = x.shape
        groups = self.norm.num_groups
        each = channels // groups

        def by_group(channel_sums: Tensor) -> Tensor:
            grouped: Tensor = channel_sums.unflatten(-1, (groups, -1)).sum(-1)
            return grouped

        sums = torch.zeros(2, batch, channels, dtype=torch.float64, device=x.device)
        guess: Tensor | None = None
        for start, end in strips(x):
            part = x[:, :, start:end].float()
            if guess is None:
                first = by_group(part.sum((2, 3), dtype=torch.float64))
                first /= each * (end - start) * width
                guess = first.float().repeat_interleave(each, 1)[:, :, None, None]
            part = part - guess
            sums[0] += part.sum((2, 3), dtype=torch.float64)
            sums[1] += part.square_().sum((2, 3), dtype=torch.float64)
        assert guess is not None
        beyond, square = by_group(sums) / (each * height * width)
        spread = (square - beyond * beyond).clamp_min(0).add(NORM_EPS).rsqrt()
        beyond, spread = (t.repeat_interleave(each, 1) for t in (beyond, spread))
        mean = beyond + guess.double().flatten(1)
        factor = spread * self.norm.weight.double()
        return factor.float(), (self.norm.bias.double() - mean * factor).float()


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3 twice, plus the input (through a 1x1 where the width changes)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.norm1 = Norm(c_in)
        self.conv1 = Conv(c_in, c_out, 3, padding=1)
        self.norm2 = Norm(c_out)
        self.conv2 = Conv(c_out, c_out, 3, padding=1)
        self.nin_shortcut = Conv(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        if in_strips(x):
            h = convolved(self.conv1, self.norm1.activated(x), x)
            return convolved(self.conv2, self.norm2.activated(h), h, into=h, plus=self._passed(x))
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = h + self._passed(x)(0, x.shape[2])
        return out

    def _passed(self, x: Tensor) -> Rows:
        """Rows of x as they are added to what the block computes."""
        shortcut = self.nin_shortcut
        if shortcut is None:
            return lambda start, end: x[:, :, start:end]
        return lambda start, end: shortcut(x[:, :, start:end])


def in_strips(x: Tensor) -> bool:
    """Whether a map (B, C, H, W) is large enough to be worked on in strips, and may be."""
    return x.numel() >= LARGE and not torch.is_grad_enabled()


def strips(x: Tensor) -> Iterator[tuple[int, int]]:
    """Starts and ends of the strips of a map (B, C, H, W)."""
    height = x.shape[2]
    step = max(STRIP.get(x.device.type, LARGE) * height // x.numel(), 1)
    for start in range(0, height, step):
        yield start, min(start + step, height)


def convolved(
    conv: Conv, rows: Rows, like: Tensor, *, into: Tensor | None = None, plus: Rows | None = None
) -> Tensor:
    """A 3x3 convolution of the map that `rows` gives, strip by strip.

    `like` has the size of that map, (B, C, H, W); the result is written `into` it where given,
    even where `rows` reads from it: a strip is read before the one above it is written.
    """
    layer, height = conv.conv, like.shape[2]
    batch, _, _, width = like.shape
    out = into
    if out is None:
        shape = (batch, layer.out_channels, height, width)
        out = torch.empty(
            shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
        )
    waiting: tuple[int, int, Tensor] | None = None
    for start, end in strips(like):
        above, below = min(start, 1), min(height - end, 1)
        part = F.pad(rows(start - above, end + below), (0, 0, 1 - above, 1 - below))
        if waiting is not None:
            out[:, :, waiting[0] : waiting[1]] = waiting[2]
        done = F.conv2d(part, layer.weight, layer.bias, padding=(0, 1))
        waiting = start, end, done if plus is None else done.add_(plus(start, end))
    assert waiting is not None
    out[:, :, waiting[0] : waiting[1]] = waiting[2]
    return out


class Downsample(nn.Module):
    """Half the size: pad right and bottom by one, 3x3 with stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Twice the size: nearest neighbour, then 3x3."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if in_strips(x):

            def rows(start: int, end: int) -> Tensor:
                first = start // 2
                part = F.interpolate(x[:, :, first : (end + 1) // 2], scale_factor=2.0)
                return part[:, :, start - 2 * first : end - 2 * first]

            twice = x.new_empty(()).expand(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
            return convolved(self.conv, rows, twice)
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Middle(nn.Module):
    """Two residual blocks at the smallest size; the published models have no attention here."""

    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.block_1(x))
        return out


class ResolutionLevel(nn.Module):
    """The residual blocks of one size, with what changes the size after them."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(c_in, c_out) for c_in, c_out in pairwise(widths))
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def steps(self) -> Iterator[nn.Module]:
        """The modules in order. Run one by one, so that no map outlives its last reader."""
        yield from self.block
        if self.downsample is not None:
            yield self.downsample
        if self.upsample is not None:
            yield self.upsample


class Encoder(nn.Module):
    """(B, 3, H, W) in [-1, 1] to (B, bits, H / stride, W / stride)."""

    def __init__(self, spec: TokenizerSpec):
        super().__init__()
        widths = [spec.ch * m for m in spec.ch_mult]
        self.conv_in = Conv(3, spec.ch, 3, padding=1)
        self.down = nn.ModuleList()
        before = spec.ch
        for i, width in enumerate(widths):
            level = ResolutionLevel([before] + [width] * spec.res_blocks)
            if i < len(widths) - 1:
                level.downsample = Downsample(width)
            self.down.append(level)
            before = width
        self.mid = Middle(before)
        self.norm_out = Norm(before)
        self.conv_out = Conv(before, spec.bits, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            for step in level.steps():  # type: ignore[operator]
                h = step(h)
        h = self.mid(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out


class Decoder(nn.Module):
    """(B, bits, h, w) to (B, 3, h * stride, w * stride), not clamped."""

    def __init__(self, spec: TokenizerSpec):
        super().__init__()
        widths = [spec.ch * m for m in spec.ch_mult]
        before = widths[-1]
        self.conv_in = Conv(spec.bits, before, 3, padding=1)
        self.mid = Middle(before)
        levels: list[ResolutionLevel] = []
        for i in reversed(range(len(widths))):
            level = ResolutionLevel([before] + [widths[i]] * (spec.res_blocks + 1))
            if i > 0:
                level.upsample = Upsample(widths[i])
            levels.insert(0, level)  # names count from the largest size: up.0 runs last
            before = widths[i]
        self.up = nn.ModuleList(levels)
        self.norm_out = Norm(before)
        self.conv_out = Conv(before, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            for step in level.steps():  # type: ignore[operator]
                h = step(h)
        if in_strips(h):
            return convolved(self.conv_out, self.norm_out.activated(h), h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out


class Autoencoder(nn.Module):
    """Encoder and decoder of one tokenizer; the quantiser between them has no weights."""

    def __init__(self, spec: TokenizerSpec):
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)

    @exact_float32()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to latent maps (B, bits, h, w), before quantisation."""
        out: Tensor = self.encoder(images)
        return out

    @exact_float32()
    def decode(self, latent: Tensor) -> Tensor:
        """Summed codes (B, bits, h, w) to float32 pictures (B, 3, H, W) clamped to [-1, 1].

        What is not finite stays not finite.
        """
        dtype = self.decoder.conv_in.conv.weight.dtype
        # stored so that the channels of a place lie together, as processors multiply them
        latent = latent.to(dtype, memory_format=torch.channels_last)
        image = self.decoder(latent).float()
        return torch.clamp(image, -1, 1).masked_fill_(image.isinf(), torch.nan)
