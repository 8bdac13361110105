"""Who stays in any case: the first entries of an input, and the newest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from natsel.common.errors import refuse
from natsel.common.numbers import check_whole, is_number, is_whole


class Fitted(NamedTuple):
    """A floor that fits into what may stay: sinks, window, and the least that a head holds."""

    sinks: int
    window: int
    least: int


@dataclass(frozen=True)
class Floor:
    """What a community holds in any case.

    Attributes:
        sinks: how many of the first entries.
        window: how many of the newest.
        floor: how many each head holds at least where heads compete: a count, or a share in (0, 1)
            of what it would hold alone.
        strict: the names of those that the user gave: they are refused where they do not fit, and
            the others give way.
    """

    sinks: int = 0
    window: int = 0
    floor: float = 1
    strict: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_whole("sinks", self.sinks, 0)
        check_whole("window", self.window, 0)
        share = is_number(self.floor) and not is_whole(self.floor) and 0 < self.floor < 1
        if not share and not is_whole(self.floor):
            refuse("floor", self.floor, "a whole number >= 1, or a share in (0, 1)")

    def within(self, allowed: int, seen: int) -> Fitted:
        """Return the floor for a community that may hold so many of the entries it has seen.

        What the user did not ask for gives way: the window to half of what may stay, the sinks to
        what is left.

        Raises:
            ValueError: if what the user asked for does not fit.

        Example:
            >>> Floor(sinks=4, window=32).within(100, 200), Floor(sinks=4, window=32).within(10, 20)
            (Fitted(sinks=4, window=32, least=36), Fitted(sinks=4, window=5, least=9))
            >>> Floor(window=32, strict=frozenset({"window"})).within(10, 20)
            Traceback (most recent call last):
            ValueError: window=32 is not allowed: expected at most 10, which is what may stay of 20 entries
        """  # noqa: E501
        stays = f"which is what may stay of {seen} entries"
        window = self.window
        if "window" in self.strict:
            if window > allowed:
                refuse("window", window, f"at most {allowed}, {stays}")
        else:
            taken = self.sinks if "sinks" in self.strict else 0
            window = min(window, max(allowed // 2, 0), max(allowed - taken, 0))
        sinks = self.sinks
        if "sinks" in self.strict and sinks + window > allowed:
            told = f"at most {allowed - window} beside a window of {window}, {stays}"
            refuse("sinks", sinks, told)
        sinks = min(sinks, allowed - window)
        least = self.floor if is_whole(self.floor) else int(self.floor * allowed)
        return Fitted(sinks, window, min(max(int(least), sinks + window, 1), allowed))
