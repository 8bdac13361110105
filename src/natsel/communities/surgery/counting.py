"""Means over populations that go on counting those that went.

``x / (x.mean(-1) + eps)``, as a global response normalisation has it, or a root mean square of what
a gate lets through: a population that is silent adds nothing to the sum, but is one of those that
it is divided by. With fewer populations a mean divides by fewer; code that is made here divides by
as many as there were, so that removing is silencing, exactly.
"""

from __future__ import annotations

import ast
from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from typing import cast

from torch import nn

from natsel.common.errors import refuse
from natsel.communities.surgery.code import Changing, changed_once

COUNTED = "_natsel_counted"
"""Where a module holds how many populations its mean counts."""


def count(module: nn.Module, size: int) -> bool:
    """Let the mean in a module's forward divide by a number from now on, in place.

    Where it counts already it goes on as it does. Where its code has not exactly one mean, or
    cannot be read, the module stays as it is.

    Args:
        module: takes a mean over populations.
        size: how many there were.

    Returns:
        Whether it counts.
    """
    if hasattr(module, COUNTED):
        return True
    kind = _counting(cast(Hashable, type(module)))
    if kind is None:
        return False
    module.__class__ = kind
    module.__dict__[COUNTED] = size
    return True


def counts_of(model: nn.Module) -> dict[str, int]:
    """Return what a plan needs to rebuild the means of a model: how many each counts, by name."""
    return dict(_counts(model))


def _counts(model: nn.Module) -> Iterator[tuple[str, int]]:
    for path, module in model.named_modules():
        if COUNTED in vars(module):
            yield f"{path}.{COUNTED}", vars(module)[COUNTED]


def follow_counts(model: nn.Module, numbers: Mapping[str, int]) -> dict[str, int]:
    """Let means count what a plan recorded, in place.

    Args:
        model: with tensors that have been cut.
        numbers: from the plan.

    Returns:
        The numbers that are still to be set.

    Raises:
        ValueError: if the plan does not belong to this model.
    """
    modules = dict(model.named_modules())
    rest = {}
    for name, value in numbers.items():
        path, _, attribute = name.rpartition(".")
        if attribute != COUNTED:
            rest[name] = value
        elif type(value) is not int or value < 1 or path not in modules:
            refuse(f"plan {name}", value, "a number of populations, of a module of the model")
        elif not count(modules[path], value):
            refuse("model", type(model).__name__, f"one that takes a mean in {path}")
    return rest


@cache
def _counting(kind: Hashable) -> type[nn.Module] | None:
    """Return a class with the same code but for its mean, or None where there is not just one."""
    assert isinstance(kind, type)
    return changed_once(kind, _Counting, "that counts", _anew)


def _anew(kind: type[nn.Module]) -> nn.Module:
    made = _counting(cast(Hashable, kind))
    return object.__new__(made if made is not None else kind)


class _Counting(Changing):
    """Writes the mean of something as its sum over a number that the module holds."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Attribute) or node.func.attr != "mean":
            return node
        self.num_found += 1
        node.func.attr = "sum"
        size = ast.Attribute(self._instance, COUNTED, ast.Load())
        return ast.BinOp(node, ast.Div(), size)
