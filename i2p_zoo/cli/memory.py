"""Memory that is kept across calls, where the system would hand it out anew, page by page, each time."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Lets this process keep the memory that it frees, and use it again.

    By default glibc returns the end of its heap, and every large tensor, to the system and asks for them anew: a network's step
    then writes thousands of pages that the kernel clears first, whether it does so hangs on what happens to stand behind a
    tensor, and memory-bound layers take up to a half longer. The process stays as large as it once was until it ends. The
    commands of `i2p-zoo` call this; in a program of your own, call it once at the start.

    Returns:
        Whether the allocator is glibc's, which can be told so; elsewhere nothing is done.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return False
    return bool(libc.mallopt(_M_TRIM_THRESHOLD, -1) and libc.mallopt(_M_MMAP_MAX, 0))
