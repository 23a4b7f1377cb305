"""The processor's instruction sets, as the system names them. No torch."""

from __future__ import annotations

from pathlib import Path

BF16 = frozenset({"avx512_bf16", "amx_bf16"})
"""Those with which matrices of bf16 are multiplied faster than of float32."""


def of_processor() -> frozenset[str]:
    """By the names Linux gives them; none where it does not say."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    lines = info.read_text(encoding="utf-8").splitlines()
    return frozenset(next((s.split(":")[1].split() for s in lines if s.startswith("flags")), ()))
