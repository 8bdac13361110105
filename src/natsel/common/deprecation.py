"""Names that moved: they work for one more minor version, and say where they are now."""

from __future__ import annotations

import warnings


def renamed(old: str, new: str) -> None:
    """Warn that a name has moved; the old one goes with the next minor version.

    Args:
        old: the name as it was.
        new: the name as it is.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     renamed("natsel.study.audit", "natsel.audit")
        >>> str(told[0].message)
        'natsel.study.audit is now natsel.audit; the old name goes with the next minor version'
    """
    warnings.warn(
        f"{old} is now {new}; the old name goes with the next minor version",
        DeprecationWarning,
        stacklevel=3,
    )
