"""How much memory this process has held at most, and giving back what was freed."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

LARGE = 2**20
"""Bytes of a tensor from which on it is worth a call of the system."""
_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of malloc.h."""


def peak_memory() -> int:
    """Return the largest resident memory of the process until now, in bytes; 0 where unknown.

    Example:
        >>> peak_memory() >= 0
        True
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(found) if sys.platform == "darwin" else int(found) * 1024


def return_large() -> None:
    """Let the C library return large pieces of memory when they are freed, from now on.

    The GNU library takes pieces from the system one by one only above a threshold that grows up to
    32 MiB with what is freed; what lies below stays in a heap full of holes, where the next tensor
    of another size has no room. For processes that are ours alone: it holds for all that runs in
    one. It costs the time in which the system clears what is asked for again.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library has no such call
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Give memory that was freed back to the system, where the C library keeps it for later.

    On Linux with the GNU library: after a stage that needed much, the process would go on being
    charged with it. Nothing that is alive is touched, and nothing is hidden: what is needed again
    is asked for again, and counts again.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library has no such call
            ctypes.CDLL(None).malloc_trim(0)
