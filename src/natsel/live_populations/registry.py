"""The one table of methods by which live populations compete."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from torch import Tensor

from natsel.common.errors import did_you_mean, refuse
from natsel.common.registry import Registry
from natsel.live_populations.choosing import Normalization
from natsel.live_populations.entries import Entries
from natsel.live_populations.ranked import through

Scorer = Callable[[Entries], Tensor]
"""A function from entries to one score each, ``[batch, heads, entries]``; higher is fitter."""


@dataclass(frozen=True)
class Method:
    """A scorer and what the engine needs to know to use it.

    Attributes:
        name: how users call it.
        score: the scorer; keyword-only arguments are options of users.
        kind: what lives: "cache" for the entries of a key/value cache.
        sinks: how many of the first entries stay in any case, unless the user says otherwise.
        window: how many of the newest, unless the user says otherwise.
        queries: whether the last ``window`` queries are kept for it from call to call.
        every_call: whether it is asked after every call, also where nobody has to leave.
        extinct: tells, after ``score``, who is extinct and leaves without being asked to by a
            budget, ``[batch, heads, entries]``; None where nobody is.
        rereads: whether what a call of several tokens brought is read a second time before
            anybody leaves, so that :attr:`Entries.reread` is known.
        scope: who shares a budget, unless the user says otherwise.
        normalize: how scores of different heads become comparable, unless the user says otherwise.
    """

    name: str
    score: Callable[..., Tensor]
    kind: str = "cache"
    sinks: int = 0
    window: int = 0
    queries: bool = False
    every_call: bool = False
    extinct: Callable[..., Tensor] | None = None
    rereads: bool = False
    scope: str = "head"
    normalize: Normalization = "mean"

    def bound(self, options: Mapping[str, Any]) -> Method:
        """Return the method with options of a user's; ``feature`` is one of every cache method.

        Raises:
            ValueError: if it has no such option.
        """
        if not options:
            return self
        check_options(self.name, options, self.score, self.extinct, through)
        extinct = self.extinct and bound(self.extinct, options)
        score = bound(self.score, options)
        if "feature" in options and "feature" not in _options_of(self.score):
            score = through(score, feature=options["feature"])
        return replace(self, score=score, extinct=extinct)


METHODS: Registry[Method] = Registry("method")


def register(method: Method) -> Method:
    """Add a method to the table, so that it has a name.

    Args:
        method: the method.

    Returns:
        The same method.

    Raises:
        ValueError: if the name is taken.
    """
    return METHODS.add(method.name, method)


def get(method: str | Method | Scorer) -> Method:
    """Look a method up by its name; a method or a scorer of the user's own passes through.

    Args:
        method: a registered name, a :class:`Method`, a function from :class:`Entries` to scores,
            or ``module:name`` of one of these.

    Returns:
        The method.

    Raises:
        ValueError: if there is none of this name, or it is no function.

    Example:
        >>> get("snapkv").window, get(lambda entries: entries.keys.sum(-1)).name
        (32, '<lambda>')
    """
    return looked_up(method, METHODS, Method, "entries")


class _Named(Protocol):
    """What every table of methods holds."""

    @property
    def score(self) -> Callable[..., Any]:
        """The scorer."""
        ...


N = TypeVar("N", bound=_Named)


def looked_up(method: Any, table: Registry[N], kind: type[N], seen: str) -> N:
    """Return a method of a table, as the user named it, or made of a scorer of the user's own.

    Args:
        method: a name, ``module:name``, a method, or a scorer.
        table: of the methods.
        kind: their class.
        seen: what a scorer sees, in a word.

    Raises:
        ValueError: if there is none of this name, or it is no function.
    """
    if isinstance(method, str):
        method = table.find_or_import(method)
    if isinstance(method, kind):
        return method
    if not callable(method):
        refuse("method", method, f"a function of {seen}, or one of {', '.join(table)}")
    for known in table.values():
        if known.score is method:
            return known
    made: Callable[[str, Any], N] = kind
    return made(getattr(method, "__name__", type(method).__name__), method)


def check_options(
    method: str, options: Mapping[str, Any], *functions: Callable[..., Any] | None
) -> None:
    """Refuse an option of a user's that none of a method's functions takes.

    Args:
        method: its name.
        options: by name.
        functions: whose keyword-only arguments are options.

    Raises:
        ValueError: if it has no such option, or what is yes or no is given as something else.
    """
    known = {name: each for function in functions for name, each in _options_of(function).items()}
    for name, value in options.items():
        if name in known and isinstance(known[name], bool) and not isinstance(value, bool):
            refuse(name, value, f"True or False for method {method!r}")
        if name not in known:
            allowed = ", ".join(known) or "no option"
            told = f"{allowed} for method {method!r}{did_you_mean(name, known)}"
            refuse(name, value, f"an option among {told}")


def bound(function: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a function with those options of a user's that it takes."""
    known = _options_of(function)
    return partial(function, **{name: value for name, value in options.items() if name in known})


def _options_of(function: Callable[..., Any] | None) -> dict[str, Any]:
    """Return the options of a function and their defaults."""
    if function is None:
        return {}
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
