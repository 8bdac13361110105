"""What enters a module while a model runs over data, as rows of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.batches import Data, inputs_for
from natsel.common.calls import Inputs, call, shapes_of
from natsel.common.errors import first_line, refuse
from natsel.common.hooks import as_rows, watching
from natsel.common.hooks import entering as what_enters
from natsel.common.padding import without_padding
from natsel.fitness.parts import input_axis

Look = Callable[[Tensor], None]


class EnoughError(BaseException):
    """Ends a forward pass; no ``except Exception`` of a model may take it for a failure."""


def inputs_of(data: Data, model: nn.Module) -> Iterator[Inputs]:
    """Return what each batch gives to a model.

    Raises:
        ValueError: if one is no batch, or there is none.
    """
    count = 0
    for batch in data:
        yield inputs_for(model, batch)
        count += 1
    if not count:
        refuse("data", "empty", "at least one batch")


def run(model: nn.Module, inputs: Inputs) -> None:
    """Run a model, for its hooks.

    Raises:
        ValueError: if it does not run on these inputs.
    """
    try:
        with torch.no_grad():
            call(model, inputs)
    except EnoughError:
        return
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        values = inputs.values() if isinstance(inputs, dict) else inputs
        is_plain = all(isinstance(x, Tensor) for x in values)
        given = shapes_of(inputs) if is_plain else ", ".join(type(x).__name__ for x in values)
        refuse("data", given, f"inputs that the model runs on ({first_line(error)})")


@contextmanager
def looking(module: nn.Module, look: Look, *, calls: int | None = None) -> Iterator[None]:
    """Show what enters a module, ``[rows, inputs]``, while this context lasts.

    Args:
        module: a Linear or a convolution.
        look: is called with the rows whenever the module is.
        calls: end the forward pass at this call of the module.
    """
    axis = input_axis(module)
    assert axis is not None
    count = 0

    def count_and_look(_: None, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal count
        x = without_padding(module, what_enters(args, named).detach(), axis)
        look(as_rows(x, axis))
        count += 1
        if count == calls:
            count = 0
            raise EnoughError

    with watching({None: module}, count_and_look):
        yield


def entering(model: nn.Module, path: str, inputs: Inputs, calls: int) -> list[Tensor]:
    """Return what enters a module in one forward pass, call by call.

    Args:
        model: is run as far as needed.
        path: of the module.
        inputs: of the model.
        calls: how often the module is called at most.
    """
    found: list[Tensor] = []
    with looking(model.get_submodule(path), found.append, calls=calls):
        run(model, inputs)
    return found


def num_calls(model: nn.Module, paths: Iterable[str], data: Data) -> dict[str, int]:
    """Return how often modules are called in a forward pass at most, in order of the first call.

    Args:
        model: is run over the data.
        paths: of the modules; what is never called is left out.
        data: batches.
    """
    most: dict[str, int] = {}
    now: dict[str, int] = {}

    def add(path: str, *_: object) -> None:
        now[path] = now.get(path, 0) + 1

    with watching({path: model.get_submodule(path) for path in paths}, add):
        for inputs in inputs_of(data, model):
            now.clear()
            run(model, inputs)
            for path, count in now.items():
                most[path] = max(count, most.get(path, 0))
    return most
