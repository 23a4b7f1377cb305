"""What safetensors files say they hold, no tensor read: whether weights are in 8 bits. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCALE = ".weight_scale"
"""How the name of a tensor ends with which the rows of an 8-bit weight are multiplied."""
STORED = {"I8": "int8", "int8": "int8", "F8_E4M3": "fp8", "float8_e4m3fn": "fp8"}
"""What files call 8-bit numbers, to our names."""
MOST_HEADER_BYTES = 100 << 20
"""As the library that reads these files has it."""


def kind_of_weights(numbers: Mapping[str, str]) -> str | None:
    """How a checkpoint holds weights in 8 bits, "int8" or "fp8"; None: it has none.

    Args:
        numbers: what each tensor's numbers are called, by its name.
    """
    for name in numbers:
        if name.endswith(SCALE):
            kind = numbers.get(name.removesuffix(SCALE) + ".weight")
            if kind in STORED:
                return STORED[kind]
    return None


def weights_in(path: Path) -> str | None:
    """The same of a safetensors file or a folder of shards; None too of what cannot be read, which
    is said when it is needed."""
    try:
        if not path.is_dir():
            return kind_of_weights(_numbers(path))
        for index in path.glob("*.safetensors.index.json"):
            places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            scaled = next((file for name, file in places.items() if name.endswith(SCALE)), None)
            return None if scaled is None else kind_of_weights(_numbers(path / scaled))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return None


def _numbers(file: Path) -> dict[str, str]:
    if file.suffix != ".safetensors":
        return {}
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if size > MOST_HEADER_BYTES:
            return {}
        header: dict[str, Any] = json.loads(opened.read(size))
    return {name: str(entry["dtype"]) for name, entry in header.items() if name != "__metadata__"}
