"""How objects show themselves: bounded lists for a line, small escaped tables for notebooks."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Sequence

from natsel.common.errors import shortened

NUM_LISTED = 6
"""Entries that a line holds at most."""

NUM_FIRST = 3
"""Entries that stand for the others where there are more."""

NUM_ROWS = 30
"""Rows that a table in a notebook holds at most."""

LONGEST_NAME = 60


def named(name: str) -> str:
    """Return a name as a line may hold it.

    Example:
        >>> named("layers.0")
        'layers.0'
    """
    return shortened(name, LONGEST_NAME)


def counted(number: int, thing: str, plural: str = "") -> str:
    """Return a count of things.

    Args:
        number: how many.
        thing: one of them.
        plural: many of them; by default with an s.

    Example:
        >>> counted(1, "head"), counted(1200, "head"), counted(2, "branch", "branches")
        ('1 head', '1,200 heads', '2 branches')
    """
    return f"{number:,} {thing if number == 1 else plural or f'{thing}s'}"


def listed(parts: Iterable[str], number: int, total: str) -> str:
    """Return all entries of a short list, and of a long one the first and what all come to.

    Args:
        parts: the entries, made as they are asked for.
        number: how many there are.
        total: what they come to.

    Example:
        >>> listed(iter("ab"), 2, "2 letters")
        'a, b'
        >>> listed(iter("abcdefgh"), 8, "8 letters")
        'a, b, c, and 5 more; 8 letters'
    """
    if number <= NUM_LISTED:
        return ", ".join(parts)
    first = ", ".join(itertools.islice(parts, NUM_FIRST))
    return f"{first}, and {number - NUM_FIRST:,} more; {total}"


def html_table(
    head: Sequence[str], rows: Iterable[Sequence[object]], number: int, notes: Iterable[str] = ()
) -> str:
    """Return a table for a notebook; every text in it is escaped.

    Args:
        head: names of the columns.
        rows: cells, made as they are asked for; whole numbers stand to the right.
        number: how many rows there are; more than ``NUM_ROWS`` are left out, which is said.
        notes: lines below it.

    Example:
        >>> html_table(["name", "size"], [["a<b", 1200]], 1, ["all & more"])
        '<table><thead><tr><th>name</th><th>size</th></tr></thead><tbody><tr><td>a&lt;b</td><td style="text-align:right">1,200</td></tr></tbody></table><p>all &amp; more</p>'
    """  # noqa: E501
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = [f"<tr>{''.join(map(_cell, row))}</tr>" for row in itertools.islice(rows, NUM_ROWS)]
    if number > NUM_ROWS:
        body.append(f'<tr><td colspan="{len(head)}">and {number - NUM_ROWS:,} more</td></tr>')
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>{below}"


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td style="text-align:right">{value:,}</td>'
    return f"<td>{html.escape(str(value))}</td>"
