"""How much memory this process has held at most."""

from __future__ import annotations

import sys


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
