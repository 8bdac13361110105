"""Errors for people: one line that names the argument, its value and what is allowed."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

LONGEST = 300
"""Characters of a value that a message holds at most."""

NUM_SHOWN = 8
"""Entries of a list or a mapping that a message shows at most."""

BRACKETS: dict[type, str] = {list: "[]", tuple: "()", set: "{}"}


def refuse(argument: str, value: object, allowed: str) -> NoReturn:
    """Raise a ``ValueError`` that names an argument, its value and what is allowed.

    Args:
        argument: the name the caller used.
        value: what was given; a tensor is told by its shape and type, what is long is shortened.
        allowed: what may be given instead.

    Raises:
        ValueError: always.

    Example:
        >>> refuse("sparsity", 1.5, "a number in [0, 1)")
        Traceback (most recent call last):
        ValueError: sparsity=1.5 is not allowed: expected a number in [0, 1)
    """
    raise ValueError(f"{argument}={brief(value)} is not allowed: expected {allowed}")


def refuse_together(given: Mapping[str, object], allowed: str) -> NoReturn:
    """Raise one ``ValueError`` that names several arguments that do not go together.

    Args:
        given: the arguments by the names the caller used.
        allowed: what may be given instead.

    Raises:
        ValueError: always.

    Example:
        >>> refuse_together({"share": 0.5, "ms": 3}, "one of them")
        Traceback (most recent call last):
        ValueError: share=0.5, ms=3 are not allowed: expected one of them
    """
    named = ", ".join(f"{name}={brief(value)}" for name, value in given.items())
    verb = "are" if len(given) > 1 else "is"
    raise ValueError(f"{named} {verb} not allowed: expected {allowed}")


def brief(value: object) -> str:
    """Return a value as a message may hold it: on one line, short, and never the numbers of a tensor.

    Example:
        >>> import torch
        >>> brief({"a": torch.zeros(2, 3), "b": 0.5})
        "{'a': <float32 tensor of shape (2, 3)>, 'b': 0.5}"
        >>> brief(list(range(1000)))
        '[0, 1, 2, 3, 4, 5, 6, 7, ... (1000)]'
    """  # noqa: E501
    return shortened(_brief(value, depth=3))


def shortened(text: str, most: int = LONGEST) -> str:
    """Return a text on one line without what is too much of it, in its middle.

    Example:
        >>> shortened("a" * 10 + "b" * 10, most=11)
        'aaaa...bbbb'
    """
    text = " ".join(text.split("\n"))
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def _brief(value: Any, depth: int) -> str:
    if isinstance(value, int) and value.bit_length() > 2**12:
        return "<int of thousands of digits>"  # which Python refuses to write out
    if isinstance(value, str | int | float | complex | bool | None):
        return repr(value)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if dtype is not None and isinstance(shape, tuple):
        kind = "tensor" if hasattr(value, "requires_grad") else "array"
        if shape or kind == "tensor":
            return f"<{str(dtype).removeprefix('torch.')} {kind} of shape {tuple(shape)}>"
    if isinstance(value, dict):
        entries = ((f"{_brief(k, depth)}: ", v) for k, v in value.items())
        return _listed(entries, len(value), "{}", depth)
    if type(value) in BRACKETS and value:
        return _listed((("", entry) for entry in value), len(value), BRACKETS[type(value)], depth)
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a value that cannot be shown is told by its type
        text = ""
    # The parameters of a module, or what an object holds, are no news in a message.
    plain = text and "\n" not in text and "tensor(" not in text and "array(" not in text
    return text if plain and len(text) <= LONGEST else f"<{type(value).__name__}>"


def _listed(entries: Iterable[tuple[str, object]], size: int, brackets: str, depth: int) -> str:
    if not depth:
        return f"{brackets[0]}...{brackets[-1]}"
    shown = itertools.islice(entries, NUM_SHOWN)
    parts = [f"{name}{_brief(entry, depth - 1)}" for name, entry in shown]
    parts += [f"... ({size})"] if size > NUM_SHOWN else []
    comma = "," if brackets == BRACKETS[tuple] and size == 1 else ""
    return f"{brackets[0]}{', '.join(parts)}{comma}{brackets[-1]}"


def choose(argument: str, value: str, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``, else raise with the nearest one.

    Args:
        argument: the name the caller used.
        value: what was given.
        choices: every allowed name.

    Returns:
        ``value``, unchanged.

    Raises:
        ValueError: if ``value`` is not among the choices.

    Example:
        >>> choose("dynamics", "logistik", ["logistic", "replicator"])
        Traceback (most recent call last):
        ValueError: dynamics='logistik' is not allowed: expected one of logistic, replicator (did you mean 'logistic'?)
    """  # noqa: E501
    names = sorted(choices)
    if isinstance(value, str) and value in names:
        return value
    refuse(argument, value, f"one of {', '.join(names)}{did_you_mean(value, names)}")


def did_you_mean(value: object, names: Iterable[str]) -> str:
    """Return a hint at the name that is nearest to a value, to be put behind a list; or nothing.

    Letters' case does not matter, and the beginning of a name is near to it.

    Example:
        >>> did_you_mean("MACS", ["macs", "latency"]), did_you_mean(3, ["macs"])
        (" (did you mean 'macs'?)", '')
    """
    if not isinstance(value, str) or not value:
        return ""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(value.lower(), by_lower, n=1)
    near = near or [name for name in by_lower if name.startswith(value.lower())][:1]
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its kind if it says nothing.

    Example:
        >>> first_line(ValueError("shapes differ\\nat layer 3")), first_line(KeyError())
        ('shapes differ', 'KeyError')
        >>> first_line(ValueError("not tensor([0., 1.,"))
        'not <tensor>'
    """
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    # A library may put a tensor into its message; it ends where its brackets do, lines below.
    return shortened(re.sub(r"\b(tensor|array)\(.*", r"<\1>", lines[0].strip()))


class NonFiniteError(ArithmeticError):
    """A loss, a gradient or a fitness became NaN or infinite during a run."""
