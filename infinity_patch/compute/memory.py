"""Memory that the C library keeps once it was freed. Knows no tensors.

Where pieces of a few megabytes come and go, glibc keeps them for the next ones; a picture's later
scales ask for larger ones, which never fit in, so that what earlier scales used would stay to the
end: 0.2 GB of infinity-2b at 1M.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

WORTHWHILE = 1 << 24
"""Bytes of one freed tensor from which giving back pays: it takes a few milliseconds."""


def give_back() -> None:
    """Gives what is free back to the system, where the C library can."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # no C library to be asked for by no name, as on Windows
        return None
    return found
