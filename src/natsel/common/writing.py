"""What a full disk says: one line that names the file, whichever library was writing it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

_REASONS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "no space left in the disk quota",
    errno.EFBIG: "no space left for it, it would be larger than this process may write",
}
_SYSTEM_ERROR = re.compile(r"os error (\d+)")


class UnwrittenError(OSError):
    """A file could not be written for want of space.

    Example:
        >>> print(UnwrittenError(errno.ENOSPC, "no space left on the device", "run/result.json"))
        run/result.json is not written: no space left on the device
    """

    def __str__(self) -> str:
        return f"{self.filename} is not written: {self.strerror}"


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name a file in the error of a write for which there was no space.

    The system names a file that cannot be opened, but not one that cannot grow, and safetensors
    has errors of its own.

    Args:
        path: what is written, as the user knows it.

    Raises:
        UnwrittenError: if there was no space.
        OSError: if safetensors could not write for another reason of the system's.
    """
    try:
        yield
    except UnwrittenError:
        raise
    except OSError as error:
        if error.errno in _REASONS:
            raise UnwrittenError(error.errno, _REASONS[error.errno], os.fspath(path)) from error
        raise
    except SafetensorError as error:
        found = of_system(error)
        if found is None:
            raise
        assert found.errno is not None
        if found.errno in _REASONS:
            raise UnwrittenError(found.errno, _REASONS[found.errno], os.fspath(path)) from error
        raise OSError(found.errno, found.strerror, os.fspath(path)) from error


def of_system(error: SafetensorError) -> OSError | None:
    """Return the error of the system that safetensors met, without a file; None if it met none."""
    found = _SYSTEM_ERROR.search(str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found is not None else None
