"""Statistics of a checkpoint's matrices, and which of them do not look like their siblings.

A matrix of block 7 has a sibling of the same name in every other block. What lies along the
residual stream, the rows of a matrix that writes to it and the columns of one that reads from it,
is strong in the same channels in all of them; a matrix that was transposed shows that pattern along
its other axis, and one in another scale has another deviation. Knows names and numbers; runs no
model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log2, sqrt
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from scalekv.infinity_patch.files.header import SCALE
from scalekv.infinity_patch.loading.checkpoint import Checkpoint, open_checkpoint
from scalekv.infinity_patch.planning.health import Finding, Level

BLOCK = re.compile(r"^(block_chunks\.\d+\.module\.\d+|encoder\.block\.\d+)\.")
PARTS = {"mat_qkv": ("q", "k", "v"), "mat_kv": ("k", "v")}
"""Matrices of which rows are several, one after the other."""
NEIGHBOURS = 4
"""Siblings that a deviation is compared with, the nearest ones."""
OCTAVES, DEVIATIONS = 2.5, 8.0
"""How far a logarithm of base 2 of a deviation may be from its siblings': at least the first, or
the second times the usual distance, where blocks differ more."""
GAINS = (2.0**-7, 2.0**6)
"""Between which the deviation times the root of the inputs is, of weights that were trained: a
start is at 0.1 to 1.5, and training changes it a few times over."""
CLEAR, ALIGNED = 0.15, 4.0
"""By how much a pattern has to be clearer along one axis than along the other, as a correlation,
and how many times clearer than that of chance numbers, whose deviation is one over the root of the
channels."""
FEW = 0.2
"""Of the square matrices with a pattern along any axis: below it they are taken for chance."""


@dataclass(frozen=True)
class MatrixStatistics:
    """Of one matrix, or of one part of its rows.

    Attributes:
        name: in the checkpoint, with the part at the end: "…sa.mat_qkv.weight q".
        shape: rows and columns.
        std: standard deviation.
        largest: absolute value; not finite where any number is not.
        octaves: log2 of std over the median of its nearest siblings'; None: it has no siblings.
        straight, crossed: correlation of what its rows and columns are like with its siblings'
            along the same axis and along the other one, of the clearer axis; None: not square.
    """

    name: str
    shape: tuple[int, int]
    std: float
    largest: float
    octaves: float | None = None
    straight: float | None = None
    crossed: float | None = None

    @property
    def gain(self) -> float:
        """Deviation of an output where inputs are independent with deviation 1."""
        return self.std * sqrt(self.shape[1])

    @property
    def noise(self) -> float:
        """What a correlation comes to by chance."""
        return 1 / sqrt(self.shape[0])

    @property
    def transposed(self) -> bool:
        """Whether its pattern lies along the wrong axis."""
        if self.straight is None or self.crossed is None:
            return False
        ahead = self.crossed - self.straight
        return ahead > CLEAR and self.crossed > ALIGNED * self.noise

    @property
    def patterned(self) -> bool:
        """Whether it has a pattern that chance numbers do not have."""
        return max(self.straight or 0.0, self.crossed or 0.0) > ALIGNED * self.noise


@dataclass(frozen=True)
class _Profile:
    """rows, columns: logarithm of the root mean square of each."""

    shape: tuple[int, int]
    std: float
    largest: float
    rows: Tensor
    columns: Tensor


def matrix_statistics(path: Path) -> list[MatrixStatistics]:
    """Of every matrix of a checkpoint, in its order; one tensor is in memory at a time."""
    profiles: dict[str, _Profile] = {}
    with open_checkpoint(path) as checkpoint:
        for name, part in _matrices(checkpoint):
            profiles[name] = _profile(part)
    kinds: dict[str, list[str]] = {}
    for name in profiles:
        if BLOCK.match(name):
            kinds.setdefault(BLOCK.sub("", name), []).append(name)
    told: dict[str, MatrixStatistics] = {}
    for names in kinds.values():
        told.update(_compared({name: profiles[name] for name in names}))
    return [
        told.get(name) or MatrixStatistics(name, one.shape, one.std, one.largest)
        for name, one in profiles.items()
    ]


def _matrices(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    cpu = torch.device("cpu")
    for name, entry in checkpoint.entries.items():
        if len(entry.shape) < 2 or not name.endswith("weight"):
            continue
        scale = name.removesuffix(".weight") + SCALE
        if not entry.floating and scale not in checkpoint.entries:
            continue
        # a convolution is a matrix from all it sees to its channels
        tensor = checkpoint.take(name, torch.float32, cpu).flatten(1)
        if scale in checkpoint.entries:
            tensor = tensor * checkpoint.take(scale, torch.float32, cpu)[:, None]
        parts = next((p for kind, p in PARTS.items() if name.endswith(f"{kind}.weight")), ())
        if not parts:
            yield name, tensor
        for part, rows in zip(parts, tensor.chunk(max(len(parts), 1)), strict=False):
            yield f"{name} {part}", rows


def _profile(x: Tensor) -> _Profile:
    tiny = torch.finfo(torch.float32).tiny
    squares = x.square()
    return _Profile(
        (x.shape[0], x.shape[1]),
        float(x.std(correction=0)),
        float(x.abs().max()),
        squares.mean(1).clamp_min(tiny).sqrt().log(),
        squares.mean(0).clamp_min(tiny).sqrt().log(),
    )


def _compared(siblings: Mapping[str, _Profile]) -> dict[str, MatrixStatistics]:
    """One kind of matrix, block by block."""
    names, profiles = list(siblings), list(siblings.values())
    levels = [log2(max(one.std, 2.0**-60)) if one.std == one.std else 0.0 for one in profiles]
    found = {}
    for i, (name, one) in enumerate(siblings.items()):
        others = [j for j in range(len(names)) if j != i]
        octaves = straight = crossed = None
        if others:
            nearest = sorted(others, key=lambda j: abs(j - i))[:NEIGHBOURS]
            octaves = levels[i] - median(levels[j] for j in nearest)
        if len(others) > 1 and one.shape[0] == one.shape[1]:
            rows = _typical([profiles[j].rows for j in others])
            columns = _typical([profiles[j].columns for j in others])
            straight = max(_alike(one.rows, rows), _alike(one.columns, columns))
            crossed = max(_alike(one.columns, rows), _alike(one.rows, columns))
        found[name] = MatrixStatistics(
            name, one.shape, one.std, one.largest, octaves, straight, crossed
        )
    return found


def _typical(profiles: list[Tensor]) -> Tensor:
    """The profile that most have: what few transposed ones among them say does not count."""
    return torch.stack([one - one.mean() for one in profiles]).median(0).values


def _alike(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / (a.norm() * b.norm()).clamp_min(1e-20))


def look_trained(matrices: list[MatrixStatistics]) -> bool:
    """Whether square matrices have patterns in common, which chance numbers do not have."""
    square = [one for one in matrices if one.straight is not None]
    return not square or sum(one.patterned for one in square) >= FEW * len(square)


def examine_matrices(part: str, matrices: list[MatrixStatistics]) -> Iterator[Finding]:
    """What is wrong with a part's matrices, each one named; or that nothing is.

    Args:
        part: "transformer", "VAE" or "text encoder".
    """
    problems = list(_problems(part, matrices))
    yield from problems
    square = [one for one in matrices if one.straight is not None]
    patterned = sum(one.patterned for one in square)
    if not look_trained(matrices):
        yield Finding(
            part,
            Level.NOTE,
            f"{patterned} of {len(square)} square matrices have a pattern in common with their "
            "siblings: these look like chance numbers, not like trained weights",
            "weights that were trained; those filled by a script draw noise",
        )
    if not problems:
        clear = (
            f", {patterned} of {len(square)} square ones lie as their siblings" if square else ""
        )
        found = f"{len(matrices)} matrices, none out of range or out of scale{clear}"
        yield Finding(part, Level.FINE, found)


def _problems(part: str, matrices: list[MatrixStatistics]) -> Iterator[Finding]:
    fix = f"take the published {part} again, and convert it again if you converted it"
    distances = [abs(one.octaves) for one in matrices if one.octaves is not None]
    usual = median(distances) if distances else 0.0
    allowed = max(OCTAVES, DEVIATIONS * usual)
    for one in matrices:
        wrong = ""
        if not one.largest < float("inf"):
            wrong = "has numbers that are not finite"
        elif one.std == 0:
            wrong = "is the same number throughout"
        elif one.octaves is not None and abs(one.octaves) > allowed:
            factor = 2.0 ** abs(one.octaves)
            way = "larger" if one.octaves > 0 else "smaller"
            wrong = f"is in a wrong scale: {factor:.3g} times {way} than in the blocks around it"
        elif one.octaves is not None and not GAINS[0] < one.gain < GAINS[1]:
            wrong = f"is in a wrong scale: it multiplies deviations by {one.gain:.3g}"
        if wrong:
            yield Finding(f"{part}, {one.name}", Level.PROBLEM, wrong, fix)
        if one.transposed:
            yield Finding(
                f"{part}, {one.name}",
                Level.PROBLEM,
                f"is transposed: its columns are like the rows of its siblings (correlation "
                f"{one.crossed:.2f} across, {one.straight:.2f} along)",
                fix,
            )
