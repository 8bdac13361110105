"""Code that takes the width of what is inside a module from the width of its input.

``B, N, C = x.shape`` and then ``qkv(x).reshape(B, N, 3, self.heads, C // self.heads)``: with fewer
heads what is inside is narrower than what enters, and the number is wrong. A size that the others
tell can be left open. The code that is made here says -1 there, and takes the same number from
what came of it wherever it is written again. On a module that lost nothing it computes the same,
whatever its inputs: a reshape has one size that the others leave.
"""

from __future__ import annotations

import ast
import itertools
import types
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from functools import cache
from typing import Any, cast

from torch import nn

from natsel.communities.surgery.code import another_class, compiled, tree_of, without_defaults

WIDTHS = ("c", "d", "dim", "e", "emb", "channels", "embed_dim", "hidden_size", "width")
"""How a width is called in ``B, C, H, W = x.shape``; where nothing is, the last one is taken."""
RESHAPES = ("reshape", "view")


def leave_widths_open(module: nn.Module) -> None:
    """Give a module that lost something code of its own in which widths are open, in place.

    Where its code writes no width of its input, or cannot be read, the module stays as it is.

    Args:
        module: parameters of it may have been cut; its layers still have the old numbers.
    """
    if not was_cut(module):
        return
    kind = _open(cast(Hashable, type(module)))
    if kind is not None:
        module.__class__ = kind


def was_cut(module: nn.Module) -> bool:
    """Tell whether a layer right inside a module has another number of outputs than it says.

    Example:
        >>> block = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
        >>> was_cut(block)
        False
        >>> block[0].weight = nn.Parameter(block[0].weight[:6])
        >>> was_cut(block)
        True
    """
    parts = [part for child in module.children() for part in (child, *child.children())]
    return any(_shrank(part) for part in parts)


def _shrank(part: Any) -> bool:
    if isinstance(part, nn.Linear):
        return bool(part.out_features != part.weight.shape[0])
    is_convolution = isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return is_convolution and bool(part.out_channels != part.weight.shape[0])


@cache
def _open(kind: Hashable) -> type[nn.Module] | None:
    """Return a class with the same code but for widths, or None where there are none."""
    assert isinstance(kind, type)
    if kind.__module__.startswith("torch.nn.") or hasattr(kind, "_natsel_open"):
        return None
    forward = _rewritten(cast(Any, kind).forward)
    if forward is None:
        return None
    return another_class(kind, {"forward": forward, "_natsel_open": kind}, _anew, "_natsel_open")


def _anew(kind: type[nn.Module]) -> nn.Module:
    made = _open(cast(Hashable, kind))
    return object.__new__(made if made is not None else kind)


# The code.


def _rewritten(function: Callable[..., Any], inner: bool = True) -> Callable[..., Any] | None:
    """Return a function whose reshapes leave widths open; None where nothing is to change."""
    found = tree_of(function)
    if found is None:
        return None
    known = dict(_functions(found, cast(types.FunctionType, function))) if inner else {}
    opened = _Opened(found)
    changed = ast.fix_missing_locations(opened.visit(found))
    if not opened.changed and not known:
        return None
    return compiled(changed, function, "with open widths", known)


def _functions(tree: ast.FunctionDef, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield functions of the same file that are called and write widths, with open ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = function.__globals__.get(node.func.id)
            if getattr(called, "__module__", None) == function.__module__:
                opened = _rewritten(cast(Any, called), inner=False)
                if opened is not None:
                    yield node.func.id, opened


class _Opened(ast.NodeTransformer):
    """Leaves one size of a reshape open, where one of them tells of a width."""

    def __init__(self, tree: ast.FunctionDef) -> None:
        self.changed = False
        self._widths = set(_widths(tree))
        self._stored = Counter(
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        )
        self._numbers = itertools.count()
        self._known: dict[str, tuple[str, int]] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        without_defaults(node)
        node.body = [self.visit(statement) for statement in node.body]
        names = [name for name, _ in self._known.values()]
        empty = [ast.Assign([ast.Name(n, ast.Store())], ast.Constant(None)) for n in names]
        node.body[:0] = empty
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        given = self._sizes(node)
        told = [i for i, size in enumerate(given) if self._tells(size)]
        if len(told) != 1 or any(_is_open(size) for size in given):
            self.generic_visit(node)
            return node
        (place,) = told
        size = given[place]
        node.func = self.visit(node.func)
        given[:] = [s if i == place else self.visit(s) for i, s in enumerate(given)]
        given[place] = ast.UnaryOp(ast.USub(), ast.Constant(1))
        self.changed = True
        text = ast.unparse(size)
        if not isinstance(size, ast.BinOp) or text in self._known or not self._once(size):
            return node
        name = f"natsel_{next(self._numbers)}"
        self._known[text] = (name, place)
        return ast.NamedExpr(ast.Name(name, ast.Store()), node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        known = self._known.get(ast.unparse(node))
        if known is None:
            return cast(ast.expr, self.generic_visit(node))
        name, place = known
        text = f"({name}.shape[{place}] if {name} is not None else {ast.unparse(node)})"
        return ast.parse(text, mode="eval").body

    def _sizes(self, node: ast.Call) -> list[ast.expr]:
        """Return the sizes that a call of a reshape names, to be changed in place."""
        is_reshape = isinstance(node.func, ast.Attribute) and node.func.attr in RESHAPES
        if not is_reshape or node.keywords:
            return []
        given = node.args
        if len(given) == 1 and isinstance(given[0], ast.Tuple | ast.List):
            given = given[0].elts
        return [] if any(isinstance(size, ast.Starred) for size in given) else given

    def _tells(self, size: ast.expr) -> bool:
        return any(
            (isinstance(part, ast.Name) and part.id in self._widths) or _is_width(part)
            for part in ast.walk(size)
        )

    def _once(self, size: ast.expr) -> bool:
        """Tell whether a number stays what it is: its names are set once, or are arguments."""
        names = [n.id for n in ast.walk(size) if isinstance(n, ast.Name)]
        return all(self._stored[name] <= 1 for name in names)


def _widths(tree: ast.FunctionDef) -> Iterator[str]:
    """Yield the names that stand for the width of a tensor."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        (target,) = node.targets
        if isinstance(target, ast.Name) and _is_width(node.value):
            yield target.id
        if not isinstance(target, ast.Tuple) or not _is_shape(node.value):
            continue
        names = [n.id for n in target.elts if isinstance(n, ast.Name)]
        widths = [name for name in names if name.lower() in WIDTHS]
        yield from widths or names[-1:]


def _is_shape(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "shape"
    return _sizes_asked(node) == []


def _is_width(node: ast.AST) -> bool:
    """Tell whether an expression is the last size of a tensor."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
        return node.value.attr == "shape" and _is_open(node.slice)
    asked = _sizes_asked(node)
    return asked is not None and [*map(_is_open, asked)] == [True]


def _sizes_asked(node: ast.AST) -> list[ast.expr] | None:
    """Return the arguments of a call of ``size``, or None."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.args if node.func.attr == "size" else None
    return None


def _is_open(node: ast.AST) -> bool:
    return ast.unparse(node) == "-1"
