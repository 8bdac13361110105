"""Torch runs without its words: what it has to say is told in one line, by who called it."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any, TextIO, cast


@contextmanager
def without_words() -> Iterator[None]:
    """Let torch warn of nothing, log nothing below an error, and print nothing, for a while.

    An export that fails logs a warning and prints the graph so far. What ``TORCH_LOGS`` asks for is
    logged all the same, and other threads (a progress bar) still write to standard error.
    """
    log = logging.getLogger("torch")
    level = log.level
    if level == logging.WARNING:  # the default, which nobody asked for
        log.setLevel(logging.ERROR)
    unheard = cast(TextIO, _Unheard(sys.stderr))
    try:
        with warnings.catch_warnings(), redirect_stderr(unheard):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


class _Unheard:
    """A stream that drops what the thread that made it writes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
