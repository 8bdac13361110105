"""Methods as they are named on a command line, with their options, at several shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from natsel.common.errors import refuse
from natsel_bench.live.answering import Way

ALLOWED = "a method, or a method with options such as snapkv+kernel=7+scope=layer"


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """Return a method and its options from ``name+option=value+option=value``.

    Raises:
        ValueError: if it has another form.

    Example:
        >>> parsed("evolution+dynamics=replicator+rate=0.1+merge=true")
        ('evolution', {'dynamics': 'replicator', 'rate': 0.1, 'merge': True})
    """
    name, *given = text.split("+")
    options: dict[str, Any] = {}
    for part in given:
        key, separator, value = part.partition("=")
        if not (separator and key.isidentifier() and value) or key in options:
            refuse("method", text, ALLOWED)
        options[key] = _value(value)
    return name, options


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def ways_of(model: nn.Module, methods: Sequence[str], shares: Sequence[float]) -> dict[str, Way]:
    """Return every method at every share, by a name of its own; each is tried on the model.

    Raises:
        ValueError: if a method, an option or a share is not allowed, or stands there twice.

    """
    for argument, values in (("method", methods), ("share", shares)):
        if not values or len(set(values)) != len(values):
            refuse(argument, list(values), "at least one, none of them twice")
    for share in shares:
        if not 0 < share < 1:
            refuse("share", share, "a share in (0, 1)")
    found = {}
    for share in shares:
        for text in methods:
            name, options = parsed(text)
            way = Way(name, share, options)
            with way.on(model):
                found[f"{text} {share:g}"] = way
    return found
