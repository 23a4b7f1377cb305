"""How and where the elements of held keys and values are stored, as names and arithmetic: knows no
tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scalekv.kv.errors import UserError, check_one_of

PARAMETER_BYTES = 4  # a scale and a zero-point, float16 each


@dataclass(frozen=True)
class Precision:
    """A format of held tokens.

    Attributes:
        name: "fp64", "fp32", "bf16", "fp16", "int8" or "int4".
        bits: of one element of k or v.
        quantised: whether elements are whole numbers with a scale and a zero-point: of k one pair
            per channel and source scale, of v one pair per token.
    """

    name: str
    bits: int
    quantised: bool = False

    def token_bytes(self, head_dim: int) -> int:
        """Bytes of k and v of one token in one head of one sequence, with what v needs beside."""
        elements = 2 * head_dim * self.bits // 8
        return elements + PARAMETER_BYTES if self.quantised else elements

    def head_bytes(self, head_dim: int, scales: int) -> int:
        """Bytes a head that holds anything needs besides its tokens, for one sequence.

        `scales` is how many scales of the schedule can be held: all but the last.
        """
        return scales * head_dim * PARAMETER_BYTES if self.quantised else 0

    def held_bytes(self, head_dim: int, scales: int, rooms: Sequence[int]) -> int:
        """Bytes of one sequence in one layer whose heads have room for `rooms` tokens each."""
        used = len(rooms) - rooms.count(0)
        return sum(rooms) * self.token_bytes(head_dim) + used * self.head_bytes(head_dim, scales)


PRECISIONS = {
    "fp64": Precision("fp64", 64),
    "fp32": Precision("fp32", 32),
    "bf16": Precision("bf16", 16),
    "fp16": Precision("fp16", 16),
    "int8": Precision("int8", 8, quantised=True),
    "int4": Precision("int4", 4, quantised=True),
}
LONG_NAMES = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""What torch calls the formats that attention may compute in."""
ELEMENT_BYTES = {name: PRECISIONS[name].bits // 8 for name in ("fp32", "bf16", "fp16")}
"""Bytes of one element of each that a model may be loaded in."""
KV_DTYPES = ("auto", "fp32", "bf16", "int8", "int4")
"""What people may ask for; "auto" is the dtype that attention computes in."""


def check_kv_dtype(name: str) -> None:
    """Refuses what is not one of `KV_DTYPES`.

    Raises:
        UserError: it is not; close names are listed.
    """
    what = f"no dtype {name!r} for the held cache"
    check_one_of(name, KV_DTYPES, what, "--kv-dtype", otherwise="auto")


def check_kv_device(name: str) -> None:
    """Refuses a place for the held cache that does not exist.

    Raises:
        UserError: not "auto" or "cpu".
    """
    if name not in ("auto", "cpu"):
        raise UserError(
            f"no place {name!r} for the held cache",
            where="--kv-device",
            rule="auto (where attention computes) or cpu (in the host's memory)",
            fix="auto",
        )


def precision_of(kv_dtype: str, compute: str) -> Precision:
    """The format that was asked for, where attention computes in `compute` (such as "bf16").

    Raises:
        UserError: see `check_kv_dtype`.
    """
    check_kv_dtype(kv_dtype)
    return PRECISIONS[compute if kv_dtype == "auto" else kv_dtype]
