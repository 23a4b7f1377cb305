"""Safetensors files in which tensors begin where memory for them would: at multiples of 64 bytes.

Matrix products of few rows sum in another order where their weights begin elsewhere, so that a
picture from a mapped file would differ in last bits from one of tensors in memory. The library that
reads these files writes none such. Knows the format; nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes; what torch's allocator on a CPU gives."""
NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
}
"""What the format calls dtypes."""


def aligned(tensor: Tensor) -> bool:
    """Whether a tensor begins where torch would have put it; on a device it always does."""
    return tensor.device.type != "cpu" or tensor.data_ptr() % ALIGNMENT == 0


def write_aligned(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file. The format leaves no gaps between tensors, so those whose bytes
    are no multiple of 64 come last; they are small.

    Raises:
        OSError: it cannot be written.
    """
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT != 0, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tofile(file)
