"""Configurations that state numbers layer by layer: trusted where the class reads them."""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from torch import nn

from natsel.common.errors import refuse
from natsel.integrations.transformers import facts
from natsel.integrations.transformers.library import build
from natsel.integrations.transformers.uniform import (
    Proof,
    Wrong,
    differences,
    followed,
    proven,
)

KEY = "per_layer_config"
_NUMBER = re.compile(r"\.(\d+)\.")


class Override(NamedTuple):
    """A value that a configuration states for one layer.

    Attributes:
        path: of the configuration inside the whole one.
        layer: of which layer, as it is written.
        key: what is stated.
    """

    path: tuple[str, ...]
    layer: str
    key: str

    def __str__(self) -> str:
        return ".".join((*self.path, f"{KEY}[{self.layer}]", self.key))


def ignored(kind: Any, data: Mapping[str, Any]) -> list[Override]:
    """Return what a configuration states for single layers, and its class does not read.

    The library accepts, saves and loads any such statement, whatever the class makes of it. So a
    model is built with it and one without, and the two are compared in that layer.

    Args:
        kind: a class of the library.
        data: the configuration.

    Returns:
        What changes nothing; nothing, too, where the class cannot be built at all.
    """
    stated = list(_overrides(data))
    if not stated:
        return []
    try:
        whole = _description(kind, data)
    except ValueError:  # the class says so itself
        return []
    found = []
    for override in stated:
        try:
            other = _description(kind, _without(data, [override]))
        except ValueError:
            # A number that only layers have must be stated for all of them.
            same = [o for o in stated if (o.path, o.key) == (override.path, override.key)]
            try:
                other = _description(kind, _without(data, same))
            except ValueError:
                continue
        changed = {n for n in whole.keys() | other.keys() if whole.get(n) != other.get(n)}
        if not any(int(override.layer) in map(int, _NUMBER.findall(f".{n}.")) for n in changed):
            found.append(override)
    return found


def refuse_ignored(kind: Any, data: Mapping[str, Any]) -> None:
    """Refuse a configuration that states for a layer what its class does not read.

    Raises:
        ValueError: if it does: the model would silently be another one.
    """
    for override in ignored(kind, data):
        value = _at(data, override.path)[KEY][override.layer][override.key]
        allowed = f"nothing: {kind.__name__} ignores it, and would silently be another model"
        refuse(f"config.json {override}", value, allowed)


def honoured(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without what its class ignores, and the model never had."""
    result = _without(data, ignored(kind, data))
    for path in _paths(result):
        if _at(result, path).get(KEY) == {} and not _may_read(kind):
            del _at(result, path)[KEY]
    return result


def layered_config(
    small: nn.Module,
    kind: Any,
    data: Mapping[str, Any],
    like: Mapping[str, Any],
    proof: Proof | None = None,
) -> dict[str, Any] | None:
    """Find a configuration that states the sizes of single layers, where the class reads such.

    Args:
        small: the model to describe.
        kind: its class.
        data: the dense configuration.
        like: which implementations the small model uses.
        proof: as there.

    Returns:
        The configuration, proven as in :func:`plain_config`; None if there is none.
    """
    if not _may_read(kind):
        return None
    path = next((p for p in _paths(data) if "num_hidden_layers" in _at(data, p)), None)
    if path is None:
        return None
    target, must = facts.shapes(small), followed(small, build(kind, data, device="meta"))
    found: dict[str, Any] = copy.deepcopy(dict(data))
    stated = _at(found, path).get(KEY) or {}
    _at(found, path)[KEY] = {str(int(layer)): dict(held) for layer, held in stated.items()}
    wrong = differences(kind, found, target, must)
    while wrong:
        layer = min((i for name, _ in wrong for i in _NUMBER.findall(name)[:1]), default=None)
        better = _better(kind, found, path, layer, wrong, target, must) if layer else None
        if better is None:
            return None
        found, wrong = better
    holds = wrong is not None and (proof or proven)(small, kind, found, like)
    return found if holds else None


def _better(
    kind: Any,
    data: Mapping[str, Any],
    path: tuple[str, ...],
    layer: str,
    wrong: Wrong,
    target: Mapping[str, list[int]],
    must: Mapping[str, int],
) -> tuple[dict[str, Any], Wrong] | None:
    """Return a configuration with one more number for a layer, and what is left wrong with it."""
    here = {pair for (name, _), pair in wrong.items() if _NUMBER.findall(name)[:1] == [layer]}
    ratios = sorted({Fraction(b, a) for a, b in here if a})
    held = _at(data, path)
    numbers = {**held, **held[KEY].get(layer, {})}
    best: tuple[dict[str, Any], Wrong] | None = None
    for key, value in numbers.items():
        for ratio in ratios if type(value) is int and value > 1 else ():
            if (value * ratio).denominator != 1:
                continue
            trial = copy.deepcopy(dict(data))
            _at(trial, path)[KEY].setdefault(layer, {})[key] = int(value * ratio)
            left = differences(kind, trial, target, must)
            if left is None or not left.keys() < wrong.keys():
                continue
            if best is None or len(left) < len(best[1]):
                best = trial, left
    return best


def _may_read(kind: Any) -> bool:
    """Say whether the code of a class mentions numbers of layers: else nothing need be tried."""
    try:
        return KEY in inspect.getsource(sys.modules[kind.__module__])
    except (OSError, TypeError, KeyError):
        return True


def _paths(data: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield where the configurations are: the whole, and those inside."""
    yield path
    for key, value in data.items():
        if isinstance(value, Mapping) and key.endswith("_config") and key != KEY:
            yield from _paths(value, (*path, key))


def _at(data: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


def _overrides(data: Mapping[str, Any]) -> Iterator[Override]:
    for path in _paths(data):
        stated = _at(data, path).get(KEY)
        for layer, held in stated.items() if isinstance(stated, Mapping) else ():
            if isinstance(held, Mapping) and str(layer).isdecimal():
                yield from (Override(path, layer, key) for key in held)


def _without(data: Mapping[str, Any], overrides: list[Override]) -> dict[str, Any]:
    result = copy.deepcopy(dict(data))
    for path, layer, key in overrides:
        stated = _at(result, path)[KEY]
        del stated[layer][key]
        if not stated[layer]:
            del stated[layer]
    return result


def _description(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what can be told of a model without running it."""
    model = build(kind, data, device="meta")
    plain = (int, float, bool, str, tuple, type(None))
    values = {
        f"{name}.{attribute}": value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if not attribute.startswith("_") and isinstance(value, plain)
    }
    return {**facts.shapes(model), **facts.classes(model), **values}
