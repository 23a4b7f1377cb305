"""Memory-mapped tensors: letting go of pages that have been read. Knows addresses, not models."""

from __future__ import annotations

import ctypes
import mmap
import sys

from torch import Tensor


def let_go(tensor: Tensor) -> None:
    """Drops a tensor's pages from this process; they are read from the file again if needed.

    Only for views of a mapped file that nobody has written to: what was written would be lost.
    Does nothing where the system has no such call.
    """
    if not sys.platform.startswith("linux") or not tensor.nbytes:
        return
    page = mmap.PAGESIZE
    storage = tensor.untyped_storage()
    start = tensor.data_ptr()
    end = min(start + tensor.nbytes, storage.data_ptr() + storage.nbytes())
    # whole pages alone: what shares a page with a neighbour may be in use there
    first, last = -(-start // page) * page, end // page * page
    if last > first:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
