"""The tensors of a checkpoint as a model uses them, whose blocks may hold their weights in 8 bits:
read, and quantised where the file has them whole, one after another.

Knows checkpoints and modules; where tensors are put is others' business.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalekv.configs.models import ModelPreset
from scalekv.configs.spec import EIGHT_BITS, PLAIN
from scalekv.configs.values import AUTO
from scalekv.infinity_patch.compute.quantised import (
    KINDS,
    hold_linear_layers,
    quantised,
)
from scalekv.infinity_patch.files.header import SCALE, STORED, kind_of_weights
from scalekv.infinity_patch.loading.checkpoint import Checkpoint, WeightsDamaged
from scalekv.infinity_patch.loading.fitting import (
    PARTS,
    UNCONDITIONAL,
    check_fits,
    computes_in,
    unconditional_rows,
)
from scalekv.infinity_patch.loading.placement import check_weights
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.kv.dtypes import DTYPE_NAMES
from scalekv.kv.errors import UserError


def hold_in_8_bits(model: Infinity, kind: str, dtype: torch.dtype) -> None:
    """Has the linear layers of the blocks hold 8-bit weights, whose numbers are still to be given.

    Args:
        kind: "int8" or "fp8".
        dtype: of the products.
    """
    hold_linear_layers(model.block_chunks, KINDS[kind], lambda _: dtype)


def fit(
    model: Infinity, file: Checkpoint, preset: ModelPreset, asked: str, dtype: torch.dtype
) -> str:
    """Has a transformer on the meta device hold its weights as it is to, and refuses a file that is
    not its own.

    Args:
        asked: one of `WEIGHTS`; "auto" is as the file has them.
        dtype: of the blocks' products.

    Returns:
        How the blocks hold them: "int8", "fp8", or as they multiply, "bf16" and so on.

    Raises:
        UserError: an unknown name, or something that the file or the dtype cannot be.
        WeightsDamaged: not the file of this model.
    """
    check_weights(asked)
    stored = kind_of_weights({name: entry.kind for name, entry in file.entries.items()})
    own = DTYPE_NAMES[dtype]
    kind = (stored or own) if asked == AUTO else asked
    if stored is not None and kind != stored:
        raise UserError(
            f"the file has weights in {stored}, not in {asked}",
            where="--weights",
            rule="what was quantised stays as it is",
            fix="leave out --weights, or give the files that it was made from",
        )
    if kind in PLAIN and kind != own:
        raise UserError(
            f"weights in {kind}, and products in {own}",
            where="--weights and --dtype",
            rule="weights of 16 or 32 bits are held as they are multiplied",
            fix=f"--dtype {kind}, or leave out --weights",
        )
    if stored is not None:
        hold_in_8_bits(model, kind, dtype)
    check_fits(model, file, preset, PARTS[0])
    if stored is None and kind in EIGHT_BITS:
        hold_in_8_bits(model, kind, dtype)
    return kind


def kept_in(name: str, parameter: Tensor, precision: torch.dtype) -> torch.dtype:
    """The dtype that a tensor is kept in, where the blocks' products are in `precision`.

    Args:
        parameter: its place in a module.
    """
    held = parameter.dtype
    return held if held in KINDS.values() else computes_in(name, precision)


class CheckpointReader:
    """Reads the tensors of one file for one module."""

    def __init__(self, file: Checkpoint, module: nn.Module, precision: torch.dtype) -> None:
        """
        Args:
            file: that fits the module, or would if nothing in it were in 8 bits.
            module: may be on the meta device.
            precision: of the blocks' products.
        """
        self._file, self._precision = file, precision
        self._expected = dict(module.named_parameters())
        self._scales: dict[str, Tensor] = {}

    def read(self, name: str, device: torch.device) -> Tensor:
        """A tensor as it is kept, on a device; the scale of a weight is to be asked for after it.

        Raises:
            WeightsDamaged: the file cannot be read there, or has a scale that is none.
            UserError: numbers that do not fit fp16, where that is wanted.
        """
        dtype = kept_in(name, self._expected[name], self._precision)
        if name.endswith(SCALE) and name in self._scales:
            return self._scales.pop(name)
        if dtype in KINDS.values() and self._file.entries[name].kind not in STORED:
            with self._file.passing(name) as whole:
                held, scale = quantised(whole, dtype, device)
            self._scales[name.removesuffix(".weight") + SCALE] = scale
            return held
        tensor = self._file.take(name, dtype, device)
        if name.endswith(SCALE) and not ((tensor > 0) & tensor.isfinite()).all():
            raise WeightsDamaged(
                f"{name} has scales that are none",
                where=str(self._file.path),
                rule="what 8-bit numbers are multiplied by is finite and above 0",
                fix="fetch it again, or write it again: scalekv convert",
            )
        if name == UNCONDITIONAL:
            return unconditional_rows(tensor, len(self._expected[name]))
        return tensor
