"""Scores that tell no population from another: said once, since ties are then decided by index."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import Tensor

NUM_NAMED = 3


def warn_alike(scores: Mapping[str, Tensor], *, what: str = "scores", stacklevel: int) -> None:
    """Warn of communities in which all scores are exactly equal, all in one line.

    Args:
        scores: one tensor per community.
        what: what gave them, for the message.
        stacklevel: as of ``warnings.warn``, seen from the caller.

    Example:
        >>> import torch
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     warn_alike({"a": torch.zeros(3), "b": torch.arange(2)}, stacklevel=1)
        >>> str(said[0].message)
        'scores are all 0 in a: they tell no population from another, ties are decided by index'
    """
    alike = {n: v for n, v in scores.items() if v.numel() > 1 and _is_constant(v)}
    if not alike:
        return
    value = "all equal" if any(bool(v.any()) for v in alike.values()) else "all 0"
    more = f" and {len(alike) - NUM_NAMED} more" if len(alike) > NUM_NAMED else ""
    warnings.warn(
        f"{what} are {value} in {', '.join(list(alike)[:NUM_NAMED])}{more}: they tell no "
        "population from another, ties are decided by index",
        stacklevel=stacklevel + 1,
    )


def _is_constant(value: Tensor) -> bool:
    flat = value.detach().reshape(-1)
    return bool((flat == flat[0]).all())
