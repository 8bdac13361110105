"""One self-contained page: templates escaped, data and what draws them embedded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from natsel.common.extras import require
from natsel.common.files import write_atomic
from natsel.common.json_data import read_json as read_checked
from natsel.report import formats
from natsel.report.facts import Facts
from natsel.report.figures import Figure, folded


@dataclass(frozen=True)
class Picture:
    """A figure with what a reader who cannot see it is told.

    Attributes:
        figure: data and layout, in the words of plotly.
        caption: under the picture; empty for none.
        description: the accessible name.
    """

    figure: Figure
    description: str
    caption: str = ""


def render_page(template: str, facts: Facts, *, package: str = "", **context: Any) -> str:
    """Render a template of this room into one HTML document.

    Args:
        template: file name under ``templates``.
        package: where that folder is, for pages of another package; its templates may extend this
            room's.
        facts: what the page prints numbers from.
        **context: further values; strings are escaped.

    Returns:
        The document.
    """
    jinja2 = require("jinja2", "report")
    markup = require("markupsafe", "report").Markup
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(name, "templates") for name in ("natsel.report", package) if name]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {name: getattr(formats, name) for name in ("factor", "share", "sparsity_label")}
    )
    environment.globals.update(
        facts=facts,
        n=facts.number,
        embed=lambda figure: markup(embed_json(folded(figure))),
    )
    return str(environment.get_template(template).render(**context))


def embed_json(value: Any) -> str:
    r"""Write JSON that cannot end or open a script element.

    Example:
        >>> print(embed_json({"name": "</script>"}))
        {"name":"\u003c/script\u003e"}
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def read_json(path: Path) -> Any:
    """Read a JSON file; say which one is missing or broken.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: a report is written from it")
    return read_checked(path, finite=False)  # the facts name a number that is none


def write_whole(path: Path, text: str) -> Path:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    write_atomic(path, text.encode())
    return path


def provenance(facts: Facts, prefix: str = "") -> Sequence[tuple[str, list[str]]]:
    """List how a result was made: (title, dotted paths) of each section that is there."""
    sections = (
        ("Configuration", "config"),
        ("Versions", "versions"),
        ("Hardware", "hardware"),
        ("Git", "git"),
        ("Time in seconds", "seconds"),
    )
    listed = [(title, [key for key, _ in facts.leaves(prefix + name)]) for title, name in sections]
    return [(title, keys) for title, keys in listed if keys]
