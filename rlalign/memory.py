"""Keep freed memory in the process between updates."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_THRESHOLD = 32 * 1024 * 1024  # the most that glibc accepts


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed activations instead of returning them to the system.

    Every update allocates and frees the same few hundred kilobytes; handing the pages back costs
    a page fault for each at the next update (a fifth of a matrix product's time, measured). Arrays
    above 32 MiB, such as datasets, still go back to the system when freed.

    Returns:
        whether the C library took the setting; other libraries than glibc are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = (
        (M_MMAP_THRESHOLD, LARGEST_THRESHOLD),
        (M_TRIM_THRESHOLD, 4 * LARGEST_THRESHOLD),
        (M_TOP_PAD, LARGEST_THRESHOLD),
    )
    return all(mallopt(option, value) == 1 for option, value in wanted)
