"""The weights of the recorded cases: every tensor follows from its name, its shape and a seed."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

SMALL = {"ada_gss", "cfg_uncond", "pos_start", "mat_q"}


def tensor_value(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Float32 value of the checkpoint tensor `name`; NumPy keeps the RandomState stream frozen."""
    last = name.rsplit(".", 1)[-1]
    if last == "zero_k_bias":
        return torch.zeros(shape)
    stream = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()))
    normal = torch.from_numpy(stream.standard_normal(shape).astype(np.float32))
    if last == "scale_mul_1H11":
        return normal * 0.3 + math.log(4.0)
    if last in SMALL or name == "lvl_embed.weight":
        return normal * 0.3
    if last == "bias" or last.endswith("_bias"):
        return normal * 0.1
    if last == "weight" and len(shape) == 1:
        return normal * 0.1 + 1.0
    return normal / math.sqrt(math.prod(shape[1:]))


def state_dict(
    shapes: Mapping[str, list[int]], seed: int, offset: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """All tensors of a model but constant buffers; `offset` is added by last part of the name."""
    values = {}
    for name, shape in shapes.items():
        last = name.rsplit(".", 1)[-1]
        if last in ("mask", "zero_k_bias"):
            continue
        values[name] = tensor_value(name, tuple(shape), seed) + (offset or {}).get(last, 0.0)
    return values
