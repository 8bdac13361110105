"""What a user's own modules hold, by ``module:name``; nothing else that is a string is imported."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

from natsel.common.errors import did_you_mean, first_line, refuse

FORM = "module:name, such as my_package.laws:mine"

_here: ContextVar[list[str] | None] = ContextVar("importable_here", default=None)


def names_own(value: object) -> bool:
    """Tell whether a value names something of a user's own module.

    Example:
        >>> names_own("my_package.laws:mine"), names_own("logistic"), names_own("hf:gpt2")
        (True, False, False)
    """
    return isinstance(value, str) and ":" in value and not value.startswith("hf:")


def imported(argument: str, text: str) -> Any:
    """Import what ``module:name`` names; call this only on what the user wrote.

    Args:
        argument: the name the caller used, for messages.
        text: the module, a colon and a name in it, which may have dots.

    Returns:
        What is there.

    Raises:
        ValueError: if the text has another form, the module cannot be imported, or has no such
            name.

    Example:
        >>> imported("dynamics", "math:sqrt")(9.0)
        3.0
        >>> imported("dynamics", "math:sqr")
        Traceback (most recent call last):
        ValueError: dynamics='math:sqr' is not allowed: expected a name that math has (did you mean 'sqrt'?)
    """  # noqa: E501
    module, _, path = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        refuse(argument, text, FORM)
    _make_importable()
    importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module)
    # Whatever a module does while it is imported, that is what is wrong with it.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        _failed(argument, text, f"a module that can be imported ({_told(error)})", error)
    where = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            hint = did_you_mean(name, [n for n in dir(found) if not n.startswith("_")])
            _failed(argument, text, f"a name that {where} has{hint}", error)
        where = f"{where}.{name}"
    return found


def check_call(argument: str, text: str, function: Any, *args: Any, **keywords: Any) -> None:
    """Make sure that a user's own function can be called so, without calling it.

    Args:
        argument: the name the caller used.
        text: what names the function.
        function: the function.
        args: what it will be called with; only their number counts.
        keywords: and by name.

    Raises:
        ValueError: if it takes other arguments, or cannot be called.

    Example:
        >>> check_call("fitness", "my:signal", lambda: 0, "parts")
        Traceback (most recent call last):
        ValueError: fitness='my:signal' is not allowed: expected a function of (parts): too many positional arguments
    """  # noqa: E501
    takes = ", ".join((*args, *(f"{name}=" for name in keywords)))
    if not callable(function):
        kind = type(function).__name__
        refuse(argument, text, f"a function of ({takes}), this is of type {kind}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # written in C: what it takes shows when it is called
    try:
        signature.bind(*args, **keywords)
    except TypeError as error:
        _failed(argument, text, f"a function of ({takes}): {first_line(error)}", error)


def made(argument: str, text: str, function: Callable[[], Any]) -> Any:
    """Return what a user's own function of no arguments makes.

    Args:
        argument: the name the caller used.
        text: what names the function.
        function: the function.

    Raises:
        ValueError: if it needs arguments, or fails; what it raised is the cause.
    """
    check_call(argument, text, function)
    try:
        return function()
    except (MemoryError, OSError):
        raise
    # It is the user's code: what goes wrong in it may be anything.
    except Exception as error:  # noqa: BLE001
        _failed(argument, text, f"a function that runs ({_told(error)})", error)


@contextmanager
def importable_here() -> Iterator[None]:
    """Let modules of the current folder be found, as ``python -m`` does, once one is asked for.

    A folder is nothing that programs are imported from unless the user says so: it is looked into
    only from the first ``module:name`` on, and no more at the end.
    """
    added: list[str] = []
    token = _here.set(added)
    try:
        yield
    finally:
        _here.reset(token)
        for folder in added:
            if folder in sys.path:
                sys.path.remove(folder)


def _make_importable() -> None:
    added, here = _here.get(), os.getcwd()
    if added is not None and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
        added.append(here)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _failed(argument: str, text: str, allowed: str, cause: BaseException) -> NoReturn:
    try:
        refuse(argument, text, allowed)
    except ValueError as error:
        raise error from cause
