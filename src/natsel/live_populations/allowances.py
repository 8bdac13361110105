"""How much of what lives with an input may stay: a share, a count, bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from natsel.common.errors import refuse
from natsel.common.numbers import check_whole
from natsel.selection import Sparsity


@dataclass(frozen=True)
class Held:
    """At most so many entries in each community, however long the input grows.

    Attributes:
        value: entries of one key/value head, at least 1.

    Example:
        >>> Held(256)
        Held(value=256)
    """

    value: int

    def __post_init__(self) -> None:
        check_whole("held", self.value)


@dataclass(frozen=True)
class Bytes:
    """At most so many bytes of keys and values in the whole cache: its carrying capacity.

    Attributes:
        value: bytes, over all layers, heads and rows of a batch.

    Example:
        >>> Bytes(2**20)
        Bytes(value=1048576)
    """

    value: int

    def __post_init__(self) -> None:
        check_whole("bytes", self.value)


Allowance = Sparsity | Held | Bytes | None


def check_allowance(budget: object) -> Allowance:
    """Return what is a budget of live populations.

    Raises:
        ValueError: if it is none.
    """
    if budget is None or (isinstance(budget, Sparsity | Held | Bytes)):
        return budget
    allowed = "natsel.Sparsity(share), natsel.Held(entries), natsel.Bytes(bytes), or None"
    refuse("budget", budget, allowed)


@lru_cache(maxsize=1024)  # every layer asks the same after every token
def allowed_of(budget: Allowance, seen: int, bytes_each: int = 0) -> int:
    """Return how many entries a community may hold of those that it has seen.

    Args:
        budget: of the cache.
        seen: tokens of the input so far, without padding.
        bytes_each: what one entry in every community costs, in bytes.

    Returns:
        At least 1, at most ``seen``.

    Raises:
        ValueError: if not one entry fits into the bytes.

    Example:
        >>> allowed_of(Sparsity(0.5), 9), allowed_of(Held(4), 9), allowed_of(Held(4), 3)
        (4, 4, 3)
        >>> allowed_of(Bytes(1000), 9, bytes_each=128), allowed_of(None, 9)
        (7, 9)
    """
    if seen <= 0 or budget is None:
        return max(seen, 0)
    if isinstance(budget, Sparsity):
        return max(1, seen - budget.count(seen))
    if isinstance(budget, Held):
        return min(seen, budget.value)
    if budget.value < bytes_each:
        refuse("budget", budget, f"at least {bytes_each} bytes: one entry in every head and layer")
    return min(seen, budget.value // bytes_each)
