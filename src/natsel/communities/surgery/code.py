"""The code of a module read, and made anew with something in it changed."""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
import types
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

ORIGINAL = "_natsel_anew"
"""Where a class that is made anew holds the one that it was made of."""


def tree_of(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """Return the code of a plain function; None where it cannot be read, or has more around it.

    What is read is what runs: a file can have changed since, and in a class the compiler writes
    names that begin with two underscores otherwise.
    """
    if not isinstance(function, types.FunctionType) or function.__code__.co_freevars:
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    (found,) = tree.body
    if not isinstance(found, ast.FunctionDef) or found.decorator_list:
        return None
    return found if _is_of(found, function.__code__) else None


def _is_of(tree: ast.FunctionDef, code: types.CodeType) -> bool:
    """Tell whether a function's code is what a tree says."""
    module = compile(ast.unparse(tree), "<natsel>", "exec")
    made = [part for part in module.co_consts if isinstance(part, types.CodeType)]
    return any(part.co_name == tree.name and _uses(part) == _uses(code) for part in made)


def _uses(code: types.CodeType) -> tuple[Any, ...]:
    """Return the names and numbers of a function's code, in their order.

    How it calls them differs with what else is in a file.
    """
    held = tuple(
        _uses(value) if isinstance(value, types.CodeType) else (type(value), value)
        for value in code.co_consts
        if not isinstance(value, str)
    )
    return code.co_names, code.co_varnames, held


def instance_of(tree: ast.FunctionDef) -> ast.Name:
    """Return the name of the module in its own code, which need not be ``self``.

    Args:
        tree: of a method.
    """
    (first, *_) = (*tree.args.posonlyargs, *tree.args.args)
    return ast.Name(first.arg, ast.Load())


class Changing(ast.NodeTransformer):
    """Writes something in a method otherwise, and counts how often it stood there."""

    def __init__(self, instance: ast.Name) -> None:
        self._instance = instance
        self.num_found = 0


def changed_once(
    kind: type[nn.Module],
    changing: type[Changing],
    what: str,
    anew: Callable[[type[nn.Module]], nn.Module],
    known: Mapping[str, Any] | None = None,
) -> type[nn.Module] | None:
    """Return a class whose forward has one place written otherwise.

    Args:
        kind: a class of modules.
        changing: writes the place otherwise.
        what: is different, see :func:`compiled`.
        anew: see :func:`another_class`.
        known: see :func:`compiled`.

    Returns:
        The class; None where its code cannot be read or has not just one such place.
    """
    function = cast(Any, kind).forward
    tree = tree_of(function)
    if tree is None:
        return None
    change = changing(instance_of(tree))
    changed = ast.fix_missing_locations(change.visit(without_defaults(tree)))
    if change.num_found != 1:
        return None
    forward = compiled(changed, function, what, known)
    return another_class(kind, {"forward": forward, ORIGINAL: kind}, anew, ORIGINAL)


def compiled(
    tree: ast.FunctionDef,
    function: Callable[..., Any],
    what: str,
    known: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Return a function with other code, that is else what a given one is.

    Args:
        tree: the code, of the same arguments.
        function: that it was made of.
        what: is different, in words, for tracebacks.
        known: what names mean to it besides what they mean in the file of the given one.
    """
    original = cast(types.FunctionType, function)
    source = ast.unparse(tree)
    name = f"<{original.__module__}.{original.__qualname__} {what}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    space = {**original.__globals__, **known} if known else original.__globals__
    if known:
        # torch.compile would look for what is known in the file of that name.
        del space["__name__"]
    made: dict[str, Any] = {}
    exec(compile(source, name, "exec"), space, made)  # noqa: S102 - the module's own code
    result: Any = made[tree.name]
    result.__defaults__, result.__kwdefaults__ = original.__defaults__, original.__kwdefaults__
    result.__module__, result.__qualname__ = original.__module__, original.__qualname__
    result.__doc__ = original.__doc__
    return cast(Callable[..., Any], result)


def without_defaults(tree: ast.FunctionDef) -> ast.FunctionDef:
    """Empty what a function's head says beside the names of its arguments, in place.

    Defaults are set from outside, and annotations may name what is not there.
    """
    tree.args.defaults = [ast.Constant(None) for _ in tree.args.defaults]
    tree.args.kw_defaults = [d and ast.Constant(None) for d in tree.args.kw_defaults]
    tree.returns = None
    for argument in (*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs):
        argument.annotation = None
    return tree


def another_class(
    kind: type[nn.Module],
    members: Mapping[str, Any],
    anew: Callable[[type[nn.Module]], nn.Module],
    original: str,
) -> type[nn.Module]:
    """Return a class under the name of another one, which copies and pickles make anew.

    It has no place in any file.

    Args:
        kind: that it inherits from.
        members: what is different.
        anew: makes an empty module of the new class from the other one.
        original: the name of the member that holds the other one.
    """

    def reduced(self: Any, protocol: Any) -> tuple[Any, ...]:
        return anew, (getattr(self, original),), self.__dict__

    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    made = type(kind.__name__, (kind,), {**named, **members, "__reduce_ex__": reduced})
    return cast(type[nn.Module], made)
