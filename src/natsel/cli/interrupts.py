"""Ctrl-C: one line and exit code 130, whether it comes before, in or after the work."""

from __future__ import annotations

import os
import signal
import sys

# What is imported here is imported before an interrupt is listened for.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

STOPPED = 130
_RAISED_AGAIN_AFTER = 0.02


def listen() -> None:
    """Answer an interrupt in this process from now on, unless whoever started it ignores them."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
        sys.unraisablehook = _raise_again


def end_at_once(line: str, code: int) -> NoReturn:
    """Say one line and end, whatever else is going on in this process."""
    # Not by print: the interrupt may have come in the middle of one.
    try:
        os.write(2, f"{line}\n".encode() if line else b"")
    finally:
        os._exit(code)


def of_output(error: OSError) -> str:
    """Say that standard output cannot be written, and why.

    Example:
        >>> of_output(OSError(28, "No space left on device"))
        'standard output is not written: no space left on device'
    """
    return f"standard output is not written: {str(error.strerror or error).lower()}"


def _stop(number: int, frame: FrameType | None) -> None:
    # A second one, which a shell or an impatient user sends, would disturb the clearing up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    unfinished = sys.modules.get("natsel.common.interrupts")
    if unfinished is None or not unfinished.has_unfinished():
        # An exception could get lost, or be told as another one, in the middle of an import.
        end_at_once("natsel: stopped", STOPPED)
    raise KeyboardInterrupt


def _raise_again(unraisable: Any) -> None:
    """Keep an interrupt that came where Python can only print an exception, and raise it soon."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    import threading

    signal.signal(signal.SIGINT, _stop)
    timer = threading.Timer(_RAISED_AGAIN_AFTER, _interrupt)
    timer.daemon = True
    timer.start()


def _interrupt() -> None:
    """Interrupt the main thread, also where it waits."""
    import threading

    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
    else:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
