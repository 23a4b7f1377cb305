"""Statistics of a model's keys and values from forward passes alone, for the constants of a coded
cache. Knows tensors; nothing of Infinity, files or budgets.

Two passes over the same pictures, so that no matrix of channels by channels is ever held for more
than a head: first means and one scatter matrix a head, which give the bases; then variances in
these bases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scalekv.kv.coded.levels import QUERIES
from scalekv.kv.coded.signals import signals_of, transformed
from scalekv.kv.coded.units import BANDS, MapUnits, units_of
from scalekv.kv.schedule import Schedule

PARTS = 3  # middle, side, and the conditional half alone


def _signals(k: Tensor, v: Tensor, turns: Tensor | None, parts: int) -> Iterator[Tensor]:
    """Of keys, then of values, (H, P, n, B, D)."""
    yield signals_of(k, turns, parts)
    yield signals_of(v, None, parts)


class Moments:
    """The first pass: means of each map's tokens and the scatter around them, per layer and head.

    Attributes:
        tokens: (K,) of each map so far, of one part.
        sums: (N, 2, P, H, K, D) float64 of the tokens' signals.
        scatter: (N, 2, H, D, D) float64, both parts together, around nothing yet.
    """

    def __init__(self, schedule: Schedule, layers: int, heads: int, dim: int, parts: int) -> None:
        maps = len(schedule) - 1
        self._schedule, self._parts = schedule, parts
        self.tokens = torch.zeros(layers, maps, dtype=torch.float64)
        self.sums = torch.zeros((layers, 2, parts, heads, maps, dim), dtype=torch.float64)
        self.scatter = torch.zeros((layers, 2, heads, dim, dim), dtype=torch.float64)

    def add(self, layer: int, number: int, k: Tensor, v: Tensor, turns: Tensor | None) -> None:
        """Takes a map's k and v (P * B, H, n, D)."""
        for which, signals in enumerate(_signals(k, v, turns, self._parts)):  # (H, P, n, B, D)
            if which == 0:
                self.tokens[layer, number] += signals.shape[2] * signals.shape[3]
            sums = signals.sum((2, 3)).transpose(0, 1)
            self.sums[layer, which, :, :, number] += sums.double().cpu()
            rows = signals.flatten(1, 3)
            self.scatter[layer, which] += (rows.mT @ rows).double().cpu()

    def means(self) -> Tensor:
        """(N, 2, P, H, K, D) float64."""
        return self.sums / self.tokens[:, None, None, None, :, None]

    def basis(self) -> Tensor:
        """(N, 2, H, D, D) float64: orthonormal columns, the eigenvectors of the scatter around the
        means of the maps."""
        means = self.means()
        heavy = means * self.tokens[:, None, None, None, :, None]
        around = torch.einsum("lsphkd,lsphke->lshde", heavy, means)
        basis: Tensor = torch.linalg.eigh(self.scatter - around)[1]
        return basis


class Spectra:
    """The second pass: variances of coefficients in the bases, and how much errors matter.

    Attributes:
        energy: (N, 2, PARTS or 1, H, K, BANDS, D) float64 sums of squares.
        count: (K, BANDS) coefficients that went into each sum, of one channel.
        weight: (N, 2, H, K) float64 sums of what one token's error does, keys and values.
        sequences: (N,) that went into them.
        reach: of the shape of `energy`, float64 sums of squared gradients with respect to
            coefficients; None where there are none.
    """

    def __init__(
        self, schedule: Schedule, means: Tensor, basis: Tensor, gradients: bool = False
    ) -> None:
        layers, _, parts, heads, maps, dim = means.shape
        self._schedule, self._parts = schedule, parts
        self._means, self._basis = means.float(), basis.float()
        kinds = PARTS if parts == 2 else 1
        shape = (layers, 2, kinds, heads, maps, BANDS, dim)
        self.energy = torch.zeros(shape, dtype=torch.float64)
        self.count = torch.zeros((layers, maps, BANDS), dtype=torch.float64)
        self.weight = torch.zeros((layers, 2, heads, maps), dtype=torch.float64)
        self.sequences = torch.zeros(layers, dtype=torch.float64)
        self.reach = torch.zeros_like(self.energy) if gradients else None

    def add(self, layer: int, number: int, k: Tensor, v: Tensor, turns: Tensor | None) -> None:
        """Takes a map's k and v (P * B, H, n, D)."""
        units = units_of(self._schedule)[number]
        for which, signals in enumerate(_signals(k, v, turns, self._parts)):
            mean = self._means[layer, which, :, :, number].to(k.device).transpose(0, 1)
            signals -= mean[:, :, None, None]
            plain = transformed(signals, units)
            basis = self._basis[layer, which].to(k.device)
            y = (plain.flatten(1, 3) @ basis).view(plain.shape)
            if self._parts == 2:
                y = torch.cat((y, y.sum(1, keepdim=True)), dim=1)
            _add_squares(y, units, self.energy[layer, which, :, :, number])
        for band, size in zip(units.bands, units.sizes, strict=True):
            self.count[layer, number, band] += size * (len(k) // self._parts)

    def add_gradients(self, layer: int, which: int, g: Tensor, turns: Tensor) -> None:
        """Takes gradients with respect to a layer's keys (`which` 0) or values (1) of the whole
        history, (P * B, H, T, D)."""
        assert self.reach is not None, "asked for gradients"
        for units in units_of(self._schedule):
            rows = slice(*(self._schedule.before(units.number + i) for i in (0, 1)))
            signals = signals_of(g[:, :, rows], None if which else turns[rows], self._parts)
            plain = transformed(signals, units)
            y = (plain.flatten(1, 3) @ self._basis[layer, which].to(g.device)).view(plain.shape)
            if self._parts == 2:  # of middle and side: the sum and the difference of the halves'
                y = torch.cat((2 * y, y.sum(1, keepdim=True)), dim=1)
            _add_squares(y, units, self.reach[layer, which, :, :, units.number])

    def weigh(self, layer: int, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> None:
        """Takes the attention of the last scale; see `reach_of_errors`."""
        for which, reach in enumerate(reach_of_errors(q, k, v, output)):
            for number in range(len(self._schedule) - 1):
                rows = slice(self._schedule.before(number), self._schedule.before(number + 1))
                mean = reach[:, :, rows].mean(2).sum(0).double().cpu()
                self.weight[layer, which, :, number] += mean
        self.sequences[layer] += len(q)


def _add_squares(y: Tensor, units: MapUnits, sums: Tensor) -> None:
    """Adds those of a map's coefficients (H, P, n, B, D) to what their units have, (P, H, BANDS,
    D)."""
    for band, span in zip(units.bands, units.spans, strict=True):
        squares = y[:, :, span].square().sum((2, 3)).transpose(0, 1)
        sums[:, :, band] += squares.double().cpu()


def reach_of_errors(q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """How far an error in one token's key, or value, reaches into a layer's output, squared and
    summed over queries: (S, H, T) float32 each.

    An error in a value reaches the output by its weight of attention; one in a key by that times
    the query and how far the token's value is from what the head answers.

    Args:
        q: (S, H, L, D); k, v: (S, H, T, D).
        output: the output projection's weight, (C, H * D).
    """
    heads, dim = k.shape[1], k.shape[3]
    columns = output.float().unflatten(1, (heads, dim))
    gram = torch.einsum("chd,che->hde", columns, columns)
    on_keys, on_values = [], []
    for queries, keys, values in zip(q, k.float(), v.float(), strict=True):
        lengths_of_values = ((values @ gram) * values).sum(-1)  # (H, T)
        by_key, by_value = (torch.zeros_like(lengths_of_values) for _ in range(2))
        for stretch in queries.float().split(QUERIES, dim=1):
            weights = (stretch @ keys.mT).softmax(-1)
            answers = weights @ values
            turned = answers @ gram
            far = (turned @ values.mT).mul_(-2).add_(lengths_of_values[:, None])
            far.add_((turned * answers).sum(-1, keepdim=True)).clamp_min_(0)
            weights.square_()
            by_value += weights.sum(1)
            far.mul_(weights).mul_(stretch.square().sum(-1, keepdim=True) / dim)
            by_key += far.sum(1)
        on_keys.append(by_key)
        on_values.append(by_value * gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None] / dim)
    return torch.stack(on_keys), torch.stack(on_values)


@dataclass(frozen=True, eq=False)
class Measured:
    """Both passes together, as they go into constants; see `scalekv.kv.coded.fitting`.

    Attributes:
        pictures: that were measured.
        means, basis: of `Moments`.
        variance: (N, 2, PARTS, H, K, BANDS, D) float64; of a transformed map's band 0, per token.
        sizes: (K, BANDS) coefficients of each unit; 0 where a map has no such band.
        weight: (N, 2, H, K) of an error in a token of a map, by attention.
        reach: (N, 2, PARTS or 1, H, K, BANDS, D) of one in a coefficient, by gradients; None where
            there are none.
    """

    pictures: int
    means: Tensor
    basis: Tensor
    variance: Tensor
    sizes: Tensor
    weight: Tensor
    reach: Tensor | None = None


def measured(schedule: Schedule, pictures: int, moments: Moments, spectra: Spectra) -> Measured:
    """What the passes over so many pictures found."""
    each = spectra.count[:, None, None, None, :, :, None].clamp_min(1)
    variance = spectra.energy / each
    sizes = spectra.count[0] / pictures
    for units in units_of(schedule):
        if units.transformed:
            variance[:, :, :, :, units.number, 0] /= units.tokens
    weight = spectra.weight / spectra.sequences[:, None, None, None].clamp_min(1)
    reach = None if spectra.reach is None else spectra.reach / each
    return Measured(pictures, moments.means(), moments.basis(), variance, sizes, weight, reach)
