"""Methods as they are named on a command line, with their options, at several shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import natsel
from natsel.common.errors import refuse
from natsel.live_populations import Method, get
from natsel.live_populations.allowances import allowed_of
from natsel.live_populations.cache.handle import LiveCache
from natsel.live_populations.floors import Floor
from natsel.live_populations.proof import DEFAULTS

ALLOWED = "a method, or a method with options such as snapkv+kernel=7+scope=layer"


@dataclass(frozen=True)
class Way:
    """A method with its budget.

    Attributes:
        method: its name.
        share: of the entries that goes; at 0 the cache is whole.
        options: of :func:`natsel.live`.
    """

    method: str
    share: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def engine(self) -> dict[str, Any]:
        """Those options that the engine takes."""
        return {name: value for name, value in self.options.items() if name in DEFAULTS}

    @property
    def bound(self) -> Method:
        """The method with the options that it takes."""
        own = {name: value for name, value in self.options.items() if name not in DEFAULTS}
        return get(self.method).bound(own)

    @property
    def window(self) -> int:
        """Newest entries that stay in any case, as far as they fit."""
        given = self.options.get("window")
        return int(self.bound.window if given is None else given)

    @property
    def sinks(self) -> int:
        """First entries that stay in any case, as far as they fit."""
        given = self.options.get("sinks")
        return int(self.bound.sinks if given is None else given)

    @property
    def floor(self) -> Floor:
        """Who stays in any case, and what of it was asked for."""
        given = frozenset(n for n in ("sinks", "window") if self.options.get(n) is not None)
        return Floor(self.sinks, self.window, self.options.get("floor", 1), given)

    @property
    def seed(self) -> int:
        """Of its chance."""
        return int(self.options.get("seed", 0))

    def on(self, model: nn.Module, method: Method | None = None) -> LiveCache:
        """Let it thin what a model reads.

        Args:
            model: a decoder.
            method: in the place of its own.
        """
        budget = natsel.Sparsity(self.share)
        return natsel.live(model, self.bound if method is None else method, budget, **self.engine)


FULL = Way("newest")
"""Nobody leaves: the whole cache."""


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


def ways_of(
    model: nn.Module,
    methods: Sequence[str],
    shares: Sequence[float],
    needs: Callable[[float], Mapping[int, Tensor]] | None = None,
    *,
    length: int | None = None,
) -> dict[str, Way]:
    """Return every method at every share, by a name of its own; each is tried on the model.

    Args:
        model: a decoder.
        methods: as a command line names them.
        shares: of the entries that go.
        needs: gives what each head needs at a share, for methods with ``heads=true``.
        length: tokens of a prompt, into which floors have to fit; None for any.

    Raises:
        ValueError: if a method, an option or a share is not allowed, or stands there twice.
    """
    for argument, values in (("method", methods), ("share", shares)):
        if not values or len(set(values)) != len(values):
            refuse(argument, list(values), "at least one, none of them twice")
    for share in shares:
        if not 0 < share < 1:
            refuse("share", share, "a share in (0, 1)")
    for text in methods:  # to measure what heads need takes long: whatever is wrong is told before
        name, options = parsed(text)
        given = options.pop("heads", None)
        with Way(name, shares[0], options).on(model) as handle:
            some = dict.fromkeys(handle.layers, torch.ones(1))
        for share in shares if length is not None else ():
            allowed = allowed_of(natsel.Sparsity(share), length or 0)
            Way(name, share, options).floor.within(allowed, length or 0)
        if given is None:
            continue
        if needs is None:
            refuse("method", text, "no heads=: what heads need is not measured here")
        if given is not True:
            refuse("method", text, "heads=true, which lets needs of heads be measured")
        with Way(name, shares[0], {**options, "heads": some}).on(model):
            pass
    found = {}
    for share in shares:
        for text in methods:
            name, options = parsed(text)
            if "heads" in options:
                assert needs is not None
                options["heads"] = needs(share)
            way = Way(name, share, options)
            with way.on(model):
                found[f"{text} {share:g}"] = way
    return found
