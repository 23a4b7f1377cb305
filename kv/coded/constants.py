"""What a coded cache knows of a model: means, variances, importances, bases; and the format they
are kept in. Knows arrays and bytes; no torch, no files."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalekv.kv.coded.levels import OCTAVE
from scalekv.kv.coded.units import BANDS, MapUnits
from scalekv.kv.errors import UserError

FORMAT = "scalekv coded constants 1"
GUIDED, ALONE = slice(0, 2), slice(2, 3)
"""Which parts of a pair of guidance halves c, u are coded: the middle (c + u) / 2 and the side
(c - u) / 2; or, where there is no unconditional half, c alone."""

Halves = NDArray[np.float16]
Whole = NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Constants:
    """Constants of a model's keys (turned back by their rotary angle) and values.

    Axes: layer, keys then values, part (middle, side, conditional alone), head, map, band, channel.
    Channels of means are the model's own, all others those of the basis. Logarithms are to the
    base 2, in whole `OCTAVE`ths.

    Attributes:
        mean: (N, 2, 2, H, K, D) of each map's tokens, of middle and side; the conditional half's is
            their sum.
        basis: (N, 2, H, D, D) orthonormal columns.
        variance_unit: (N, 2, 3, H, K, BANDS) of a unit's coefficients over the channels' common
            ones; of a transformed map's band 0, per token of the map.
        variance_channel: (N, 2, 3, H, G, D) of a channel, in each of G groups of units: all alike
            (1), by band (1 + BANDS: maps that are not transformed, then each band of those that
            are), or each unit by itself (K * BANDS).
        weight_map: (N, 2, 3, H, K, BANDS) how much an error in a unit's coefficients matters, or
            (N, 2, 1, H, K, 1), in a map's, where parts and bands were not told apart.
        weight_channel: (N, 2, 3, H, D) how much one in a channel matters besides; zeros where
            that was not measured.
        about: where they come from, as JSON values; "model" and "weights" name whose they are.
    """

    mean: Halves
    basis: Halves
    variance_unit: Whole
    variance_channel: Whole
    weight_map: Whole
    weight_channel: Whole
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layers, _, heads, dim, _ = self.basis.shape
        maps = self.mean.shape[4]
        groups = self.variance_channel.shape[4]
        if groups not in (1, 1 + BANDS, maps * BANDS):
            groups = 1
        apart = self.weight_map.ndim == 6 and self.weight_map.shape[5] != 1
        expected = {
            "mean": (layers, 2, 2, heads, maps, dim),
            "basis": (layers, 2, heads, dim, dim),
            "variance_unit": (layers, 2, 3, heads, maps, BANDS),
            "variance_channel": (layers, 2, 3, heads, groups, dim),
            "weight_map": (layers, 2, 3 if apart else 1, heads, maps, BANDS if apart else 1),
            "weight_channel": (layers, 2, 3, heads, dim),
        }
        for name, shape in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != _DTYPES[name]:
                raise UserError(
                    f"{name} is {array.dtype} {array.shape}",
                    where="constants of a coded cache",
                    rule=f"it has to be {np.dtype(_DTYPES[name])} {shape}",
                    fix="make them anew: scalekv calibrate --coded",
                )

    @property
    def layers(self) -> int:
        """Of the model."""
        return int(self.basis.shape[0])

    @property
    def heads(self) -> int:
        """Of each layer."""
        return int(self.basis.shape[2])

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return int(self.basis.shape[3])

    def channels(self, parts: slice) -> int:
        """Of keys and values of a layer, all heads, so many parts."""
        return int(2 * (parts.stop - parts.start) * self.heads * self.head_dim)

    @property
    def maps(self) -> int:
        """Maps they were measured on; later ones of a longer schedule are taken to be alike."""
        return int(self.mean.shape[4])

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return sum(getattr(self, name).nbytes for name in _DTYPES)

    def variances(self, layer: int, parts: slice, units: MapUnits) -> NDArray[np.int32]:
        """(2, P, H, U, D) logarithms of the variances of a map's coefficients."""
        number, bands = min(units.number, self.maps - 1), list(units.bands)
        unit = self.variance_unit[layer, :, parts, :, number][..., bands].astype(np.int32)
        if units.transformed:  # a map's mean, transformed, grows with the square root of its size
            unit[..., 0] += round(OCTAVE * np.log2(units.tokens))
        channel = self.variance_channel[layer, :, parts, :][..., self.channel_groups(units), :]
        return unit[..., None] + channel

    def channel_groups(self, units: MapUnits) -> list[int]:
        """Of each unit of a map the group, of `variance_channel`, that its channels are in."""
        number, groups = min(units.number, self.maps - 1), self.variance_channel.shape[4]
        if groups == 1:
            return [0] * len(units.bands)
        if groups == 1 + BANDS:
            return [1 + band if units.transformed else 0 for band in units.bands]
        return [number * BANDS + band for band in units.bands]

    def importances(self, layer: int, parts: slice, units: MapUnits) -> NDArray[np.int32]:
        """(2, P, H, U, D) logarithms of what leaving a coefficient out would cost."""
        weight = self.weight_map[layer, ..., min(units.number, self.maps - 1), :].astype(np.int32)
        if weight.shape[-1] == BANDS:
            weight = weight[:, parts][..., list(units.bands)]
        channel = self.weight_channel[layer, :, parts, :, None].astype(np.int32)
        return self.variances(layer, parts, units) + weight[..., None] + channel

    def means(self, layer: int, parts: slice, number: int) -> NDArray[np.float32]:
        """(2, P, H, D) of the tokens of map `number`."""
        mean = self.mean[layer, :, :, :, min(number, self.maps - 1)].astype(np.float32)
        return mean if parts == GUIDED else mean.sum(1, keepdims=True)

    @cached_property
    def sha256(self) -> str:
        """Of everything that codes depend on: the arrays, not where they come from."""
        digest = hashlib.sha256()
        for name in _DTYPES:
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(getattr(self, name)).data)
        return digest.hexdigest()


_DTYPES: dict[str, Any] = {
    "mean": np.float16,
    "basis": np.float16,
    "variance_unit": np.int16,
    "variance_channel": np.int16,
    "weight_map": np.int16,
    "weight_channel": np.int16,
}
assert [f.name for f in fields(Constants)] == [*_DTYPES, "about"]


def write_constants(constants: Constants) -> bytes:
    """The content of a file: safetensors, with JSON in its metadata."""
    from safetensors.numpy import save

    about = {"format": FORMAT, "about": json.dumps(constants.about), "sha256": constants.sha256}
    arrays = {name: np.ascontiguousarray(getattr(constants, name)) for name in _DTYPES}
    content: bytes = save(arrays, about)
    return content


def read_constants(content: bytes, where: str = "constants") -> Constants:
    """The inverse of `write_constants`; `where` names the file in messages.

    Raises:
        UserError: damaged, or something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(content)
        (size,) = struct.unpack("<Q", content[:8])
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        if metadata.get("format") != FORMAT or set(arrays) != set(_DTYPES):
            raise _no_constants(where, f"it says {metadata.get('format', 'nothing')!r}")
        about = json.loads(metadata.get("about", "{}"))
    except (SafetensorError, ValueError) as error:
        raise _no_constants(where, str(error)) from error
    if arrays["weight_map"].ndim == 4:  # as 0.2.0 wrote it
        arrays["weight_map"] = arrays["weight_map"][:, :, None, ..., None]
    checked = Constants(**arrays, about=about)
    if metadata.get("sha256") != checked.sha256:
        raise _no_constants(where, "its content does not have the hash it names")
    return checked


def _no_constants(where: str, why: str) -> UserError:
    return UserError(
        f"these are no constants of a coded cache: {why}",
        where=where,
        rule=f"a safetensors file that says {FORMAT!r}",
        fix="make one: scalekv calibrate --coded",
    )
