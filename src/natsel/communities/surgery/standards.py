"""Weights that are standardised at every pass: by the mean and deviation of all that was there.

``F.batch_norm(weight.reshape(1, rows, -1), None, None, training=True)`` gives each row of a weight
mean 0 and variance 1. Of a row that lost columns these would be others, and so would every number
that is left. Code that is made here goes on with those of the dense row, which the module holds
beside its weight: what remains of the weight that is read is what it was, exactly. It stays a
standardised weight: its parameters are the same, and train.

Each of these numbers is held in two parts, so that a model in float32 is as exact as in float64.
"""

from __future__ import annotations

import ast
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from natsel.communities.copies import copied
from natsel.communities.labels.derived import STANDARD
from natsel.communities.surgery.code import Changing, changed_once
from natsel.communities.tensors import all_tensors

PARTS = (STANDARD, f"{STANDARD}_rest", "natsel_variance", "natsel_variance_rest")
"""Buffers of a module, one number a row each."""
_HELPER = "natsel_standardised"


def hold_standard(module: nn.Module, dense: Tensor, rows: Tensor | None) -> bool:
    """Let a module go on standardising its weight as the dense one is, in place.

    Where it holds that already it goes on so. Where its code has no such standardisation, or
    cannot be read, it stays as it is.

    Args:
        module: with a weight that may have lost rows and columns.
        dense: that weight before.
        rows: which of its rows remain; all where None.

    Returns:
        Whether it holds it.
    """
    if hasattr(module, PARTS[0]):
        return True
    kind = _holding(cast(Hashable, type(module)))
    if kind is None:
        return False
    flat = dense.detach().flatten(1).double()
    _put(module, kind, flat.mean(dim=1), flat.var(dim=1, correction=0), rows, dense)
    return True


def _put(
    module: nn.Module,
    kind: type[nn.Module],
    mean: Tensor,
    variance: Tensor,
    rows: Tensor | None,
    like: Tensor,
) -> None:
    module.__class__ = kind
    for value, (name, rest) in ((mean, PARTS[:2]), (variance, PARTS[2:])):
        value = value if rows is None else value[rows.to(value.device)]
        first = value.to(like.dtype)
        module.register_buffer(name, first)
        module.register_buffer(rest, (value - first.double()).to(like.dtype))


def with_standards(model: nn.Module, stored: Mapping[str, Tensor]) -> nn.Module:
    """Return a dense model with room for what small modules hold of standardised weights.

    Args:
        model: is not changed; the copy shares its tensors.
        stored: tensors of a small model, by name.
    """
    paths = [name.rpartition(".")[0] for name in stored if name.rpartition(".")[2] == PARTS[0]]
    modules = dict(model.named_modules())
    missing = [p for p in paths if p in modules and not hasattr(modules[p], PARTS[0])]
    if not missing:
        return model
    model = copied(model, {id(t): t for t in all_tensors(model).values()})
    for path in missing:
        module: Any = model.get_submodule(path)
        kind = _holding(cast(Hashable, type(module)))
        if kind is not None and isinstance(getattr(module, "weight", None), Tensor):
            empty = torch.zeros(len(module.weight), dtype=torch.float64)
            _put(module, kind, empty, empty, None, module.weight.new_empty(0, device="cpu"))
    return model


@cache
def _holding(kind: Hashable) -> type[nn.Module] | None:
    """Return a class that standardises by what it holds; None where it has not just one such."""
    assert isinstance(kind, type)
    known = {_HELPER: _standardised}
    return changed_once(kind, _Holding, "with a standard", _anew, known)


def _anew(kind: type[nn.Module]) -> nn.Module:
    made = _holding(cast(Hashable, kind))
    return object.__new__(made if made is not None else kind)


class _Holding(Changing):
    """Writes a standardisation by statistics of the weight as one by what the module holds."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Attribute) or node.func.attr != "batch_norm":
            return node
        if not any(k.arg == "training" and ast.unparse(k.value) == "True" for k in node.keywords):
            return node
        self.num_found += 1
        given = [k for k in node.keywords if k.arg in ("weight", "bias", "eps")]
        return ast.Call(ast.Name(_HELPER, ast.Load()), [self._instance, node.args[0]], given)


def _standardised(
    module: Any,
    rows: Tensor,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return rows ``[1, rows, columns]`` as the dense ones were, times and plus one number each."""
    mean, rest, variance, more = (getattr(module, name).reshape(1, -1, 1) for name in PARTS)
    result: Tensor = (rows - mean - rest) * (variance + more + eps).rsqrt()
    result = result if weight is None else result * weight.reshape(1, -1, 1)
    return result if bias is None else result + bias.reshape(1, -1, 1)
