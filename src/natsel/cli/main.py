"""Where ``natsel`` begins: Ctrl-C and a closed or full output end it in one line, at any moment."""

from __future__ import annotations

import signal
import sys

from natsel.cli.interrupts import STOPPED, end_at_once, listen, of_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from natsel.cli.app import app as app


def main() -> None:
    """Run the command line."""
    listen()
    code: Any = 0
    try:
        from natsel.cli.app import app

        app()
    except KeyboardInterrupt:
        end_at_once("natsel: stopped", STOPPED)
    except SystemExit as end:
        code = end.code
    except OSError as error:
        # Of help and of the version; what the commands meet, they tell themselves.
        end_at_once(f"natsel: {of_output(error)}", 1)
    # What is left to do is to go: an interrupt would only break that off with a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except OSError as error:
        # A command that failed has said why already.
        end_at_once("" if code else f"natsel: {of_output(error)}", code or 1)
    raise SystemExit(code)


def __getattr__(name: str) -> Any:
    """Return the commands, which take longer to import than to begin with."""
    if name == "app":
        from natsel.cli.app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    main()
