"""Our names of floating-point formats to torch's dtypes, and back. Knows nothing else."""

from __future__ import annotations

import torch

from scalekv.kv.precision import LONG_NAMES

TORCH_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, long_name) for name, long_name in LONG_NAMES.items()
}
"""By our names: "fp32" and so on."""
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
