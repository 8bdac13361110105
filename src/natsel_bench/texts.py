"""The text that a benchmark is given, whole."""

from __future__ import annotations

from pathlib import Path

from natsel.common.errors import refuse


def content_of(text: str | Path) -> str:
    """Read a text in UTF-8.

    Raises:
        ValueError: if it cannot be read, or is in another encoding.
    """
    try:
        return Path(text).read_bytes().decode()
    except UnicodeDecodeError as error:
        refuse("text", str(text), f"a file in UTF-8 ({error.reason})")
    except OSError as error:
        refuse("text", str(text), f"a file that can be read ({error.strerror})")
