"""How many of a community may stay: floors and multiples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from natsel.common.errors import refuse
from natsel.common.numbers import check_whole
from natsel.common.patterns import assigned
from natsel.communities import Communities
from natsel.communities.kinds import kind_of

NUM_NAMED = 3


@dataclass(frozen=True)
class Bounds:
    """What may be left of one community.

    A community stays whole, or keeps a multiple of ``multiple`` that is not 0 and at least the
    floor.

    Attributes:
        size: how many populations it has.
        floor: how many survive at least.
        multiple: what a kept count is a multiple of, unless nothing goes.
    """

    size: int
    floor: int
    multiple: int = 1

    @property
    def least(self) -> int:
        """The smallest count that may be kept."""
        if self.multiple == 1:
            return min(self.floor, self.size)
        return min(-(-max(self.floor, 1) // self.multiple) * self.multiple, self.size)

    def nearest(self, count: int) -> int:
        """Return the allowed count that is nearest to a count, the lower one of two.

        Example:
            >>> [Bounds(size=20, floor=1, multiple=8).nearest(n) for n in (0, 12, 13, 18, 19)]
            [8, 8, 16, 16, 20]
        """
        above = self.at_least(count)
        below = self.at_most(count)
        return above if above - count < count - below else below

    def at_most(self, count: int) -> int:
        """Return the largest allowed count that does not exceed a count, or else the least.

        Example:
            >>> [Bounds(size=20, floor=1, multiple=8).at_most(n) for n in (3, 8, 15, 19, 20)]
            [8, 8, 8, 16, 20]
        """
        if count >= self.size:
            return self.size
        return max(count // self.multiple * self.multiple, self.least)

    def at_least(self, count: int) -> int:
        """Return the smallest allowed count that is not under a count.

        Example:
            >>> [Bounds(size=20, floor=1, multiple=8).at_least(n) for n in (3, 8, 15, 19, 20)]
            [8, 8, 16, 20, 20]
        """
        return min(max(-(-count // self.multiple) * self.multiple, self.least), self.size)


def bounds_of(
    sizes: Mapping[str, int],
    floor: int | Mapping[str, int],
    multiple_of: int,
    communities: Communities | None,
) -> dict[str, Bounds]:
    """Return what may be left of each community.

    Args:
        sizes: of every community.
        floor: for all, or by patterns of names; those that none matches keep 1.
        multiple_of: for all but heads and experts.
        communities: tell the kinds; without them all counts are rounded.

    Returns:
        Bounds by name.

    Raises:
        ValueError: if a number or a pattern is not allowed.
    """
    check_whole("multiple_of", multiple_of, more=", or 'auto'")
    floors = dict.fromkeys(sizes, 1)
    if isinstance(floor, Mapping):
        for name, (pattern, value) in assigned("floor", floor, sizes).items():
            check_whole(f"floor[{pattern!r}]", value, 0)
            if value > sizes[name]:
                refuse(f"floor[{pattern!r}]", value, f"at most {sizes[name]}, the size of {name!r}")
            floors[name] = value
    else:
        check_whole("floor", floor, 0)
        say_kept_whole(floor, sizes, stacklevel=3)
        floors = dict.fromkeys(sizes, floor)
    found = {}
    for name, size in sizes.items():
        rounded = communities is None or kind_of(communities[name].kind).rounded
        least = communities[name].minimum if communities is not None else 0
        found[name] = Bounds(size, max(floors[name], least), multiple_of if rounded else 1)
    return found


def say_kept_whole(floor: int, sizes: Mapping[str, int], *, stacklevel: int) -> None:
    """Warn of a floor above the size of communities, which then stay whole.

    Args:
        floor: how many populations of each community survive at least.
        sizes: of every community.
        stacklevel: as of ``warnings.warn``, seen from the caller.
    """
    small = [f"{name!r} ({size})" for name, size in sizes.items() if size < floor]
    if not small:
        return
    more = f" and {len(small) - NUM_NAMED} more" if len(small) > NUM_NAMED else ""
    warnings.warn(
        f"floor={floor} is above the size of {', '.join(small[:NUM_NAMED])}{more}: "
        f"{'they stay' if len(small) > 1 else 'it stays'} whole",
        stacklevel=stacklevel + 1,
    )
