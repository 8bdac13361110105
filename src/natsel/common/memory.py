"""How much memory this process has held at most, and giving back what was freed."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


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


def give_back() -> None:
    """Give memory that was freed back to the system, where the C library keeps it for later.

    On Linux with the GNU library: after a stage that needed much, the process would go on being
    charged with it. Nothing that is alive is touched, and nothing is hidden: what is needed again
    is asked for again, and counts again.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library has no such call
            ctypes.CDLL(None).malloc_trim(0)
