"""Keeps glibc from giving large blocks back to the system after every step, only to ask for them again, page by page."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_ONE_GIGABYTE = 2**30


def keep_large_blocks() -> bool:
    """Let freed blocks of up to 1 GB be used again by this process; whether the C library was told so.

    A training step frees and takes the same large arrays over and over. By default each is mapped anew and its pages are cleared at first
    touch, which costs more than many of the operations on them.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _ONE_GIGABYTE)) and bool(mallopt(_M_TRIM_THRESHOLD, 2 * _ONE_GIGABYTE - 1))
