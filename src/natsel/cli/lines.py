"""Progress where output is no terminal: a plain line now and then, for logs and job queues."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY = 30.0
"""Seconds between two lines, at least."""

LONG = 10.0
"""Seconds that a stage takes, at least, whose end is told."""


class Lines:
    """Says how far a long computation is, at most every 30 seconds and when a long stage ends.

    Args:
        say: is given each line.
        clock: tells seconds.

    Example:
        >>> now = iter([0.0, 31.0, 62.0])
        >>> lines = Lines(print, clock=lambda: next(now))
        >>> for done in range(3):
        ...     lines("train", done, 2)
        train: 1 of 2, 0:31, about 0:31 left
        train: done, 1:02
    """

    def __init__(
        self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock = clock
        self._last: float | None = None
        self._began: dict[str, tuple[float, int]] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take notice of how far something is."""
        now = self._clock()
        self._last = now if self._last is None else self._last
        began, before = self._began.setdefault(what, (now, done))
        passed = now - began
        if done >= total:
            del self._began[what]
            if passed >= LONG:
                self._tell(f"{what}: done, {_minutes(passed)}", now)
        elif now - self._last >= EVERY:
            left = ""
            if done > before:  # what a resumed run had done already took no time
                left = f", about {_minutes(passed / (done - before) * (total - done))} left"
            self._tell(f"{what}: {done:,} of {total:,}, {_minutes(passed)}{left}", now)

    def _tell(self, line: str, now: float) -> None:
        self._last = now
        self._say(line)


def _minutes(seconds: float) -> str:
    """Return a duration as ``hours:minutes:seconds``, without hours where there are none."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
