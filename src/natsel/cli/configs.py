"""``--config``: run again what a written config.json says; what is given beside it wins."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from natsel.cli.console import Voice, clear_errors
from natsel.common.errors import brief, did_you_mean, refuse
from natsel.common.json_data import read_object

HELP = "config.json or result.json of an earlier run; options beside it win."
_KEPT = "natsel.config"


@dataclass(frozen=True)
class Written:
    """What a written configuration says.

    Attributes:
        path: of the file.
        options: by parameter of the command, as on the command line.
        rest: by key, what no option of its own says.
        content: all of it, as it is written.
    """

    path: Path
    options: Mapping[str, Any]
    rest: Mapping[str, Any]
    content: Mapping[str, Any]

    def check(self, found: Mapping[str, Any]) -> None:
        """Refuse what no option can say and is not so.

        Args:
            found: the configuration that the written options give.

        Raises:
            ValueError: naming the first key that differs.
        """
        for key, value in json.loads(json.dumps(dict(found))).items():
            if self.content.get(key, value) != value:
                refuse(key, self.content[key], f"{brief(value)}, which no option changes")


Text = Callable[[str, object], Any]
"""From a key and its value in a file to the same as on the command line."""


def one(key: str, value: object) -> str:
    """Return a value as it is given on the command line.

    Raises:
        ValueError: if it is a list or a mapping.

    Example:
        >>> one("multiple_of", "auto"), one("learning_rate", 0.01), one("baselines", False)
        ('auto', '0.01', 'false')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if not isinstance(value, str):
        refuse(key, value, "a number, a text, true or false")
    return value


def word(key: str, value: object) -> str:
    """Return a text; anything else is refused."""
    return value if isinstance(value, str) else refuse(key, value, "a text")


def whole(key: str, value: object) -> str:
    """Return a whole number; anything else is refused."""
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(key, value, "a whole number")
    return repr(value)


def number(key: str, value: object) -> str:
    """Return a number; anything else is refused."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(key, value, "a number")
    return repr(value)


def truth(key: str, value: object) -> str:
    """Return true or false; anything else is refused."""
    return one(key, value) if isinstance(value, bool) else refuse(key, value, "true or false")


def several(key: str, value: object) -> list[str]:
    """Return a list as an option that may be given several times.

    Raises:
        ValueError: if it is no list.

    Example:
        >>> several("include", ["layers.0", "layers.2"])
        ['layers.0', 'layers.2']
    """
    if not isinstance(value, list):
        refuse(key, value, "a list")
    return [one(key, entry) for entry in value]


def epochs_of(key: str, value: object) -> str:
    """Return the epochs of a recipe.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(value, dict) or "epochs" not in value:
        refuse(key, value, "a mapping that holds epochs")
    return whole(f"{key}.epochs", value["epochs"])


def joined(key: str, value: object) -> str:
    """Return a list as an option whose value holds commas.

    Raises:
        ValueError: if it is no list.

    Example:
        >>> joined("sparsities", [0.5, 0.9])
        '0.5,0.9'
    """
    return ",".join(several(key, value))


@dataclass(frozen=True)
class Keys:
    """What a command reads of a configuration.

    Attributes:
        kind: what the command's configurations and results say they are.
        options: by key, the parameter of the command and how its value is written there.
        rest: other keys that its configurations hold.
        kind_key: where it says so.
    """

    kind: str
    options: Mapping[str, tuple[str, Text]]
    rest: tuple[str, ...] = ()
    kind_key: str = "kind"

    def read(self, path: Path) -> Written:
        """Return what a file says.

        Raises:
            ValueError: if it is none of this command, or a key or a value's type is wrong.
        """
        config = found = read_object(path)
        if "kind" in found and isinstance(found.get("config"), dict):
            self._check_kind(path, found["kind"])
            config = found["config"]
        if self.kind_key in config:
            self._check_kind(path, config[self.kind_key])
        options: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        known = sorted({*self.options, *self.rest})
        for key, value in config.items():
            if key == self.kind_key:
                continue
            if key not in known:
                hint = did_you_mean(key, known)
                refuse(f"key of {path}", key, f"one of {', '.join(known)}{hint}")
            if key in self.rest:
                rest[key] = value
            elif value is not None:  # None is what the command does without the option
                option, text = self.options[key]
                options[option] = text(key, value)
        return Written(path, options, rest, config)

    def _check_kind(self, path: Path, kind: object) -> None:
        if kind != self.kind:
            command = self.kind if self.kind_key == "kind" else f"{self.kind_key} {self.kind}"
            refuse("config", str(path), f"one of natsel {command}; this is of {brief(kind)}")


def same(text: Text, *names: str) -> dict[str, tuple[str, Text]]:
    """Return the keys that are called as their options are."""
    return {name: (name, text) for name in names}


def option(keys: Keys) -> Any:
    """Return the option ``--config`` of a command."""

    def read(context: typer.Context, value: Path | None) -> Path | None:
        if value is not None and not context.resilient_parsing:
            with clear_errors():
                written = keys.read(value)
            context.default_map = {**(context.default_map or {}), **written.options}
            context.meta[_KEPT] = written
        return value

    return typer.Option("--config", callback=read, is_eager=True, help=HELP, show_default=False)


def written_of(context: typer.Context) -> Written | None:
    """Return what ``--config`` said, if it was given."""
    found = context.meta.get(_KEPT)
    return found if isinstance(found, Written) else None


def is_given(context: typer.Context, name: str) -> bool:
    """Say whether a parameter was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def is_written(context: typer.Context, name: str) -> bool:
    """Say whether a parameter has its value from ``--config``."""
    written = written_of(context)
    return written is not None and name in written.options and not is_given(context, name)


def say_what_wins(context: typer.Context, voice: Voice, more: Mapping[str, Any] = {}) -> None:
    """Say on standard error which options win over what the configuration says.

    Args:
        context: of the command.
        voice: how it speaks.
        more: what wins over the rest of the configuration, by name: (given, written).
    """
    written = written_of(context)
    if written is None or voice.quiet:
        return
    for line in (
        *_won(context, written),
        *(f"{n}={a} wins over {b}" for n, (a, b) in more.items()),
    ):
        print(f"natsel: {line} of {written.path}", file=sys.stderr)


def _won(context: typer.Context, written: Written) -> Iterator[str]:
    for name, value in written.options.items():
        if not is_given(context, name):
            continue
        given = context.params[name]
        shown = list(given) if isinstance(given, list | tuple) else one(name, given)
        if shown != value:
            yield f"{name}={brief(shown)} wins over {brief(value)}"
