"""Building under a budget: what a file from elsewhere says is built only as far as it may go."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from natsel.common.errors import first_line

FREE_STEPS = 20_000
STEPS_PER_TENSOR = 300
"""Operations and modules that building a model may take: a layer takes some dozens."""

FREE_PARAMETERS = 250
PARAMETERS_PER_TENSOR = 4
"""Parameters that modules may be given: no model has many that it does not keep."""

FREE_ELEMENTS = 2**26
ELEMENTS_PER_STORED = 100
"""Numbers in memory that building a model may take, whatever device it is on but "meta"."""


class OverBudgetError(BaseException):
    """Building went over its budget; no ``except Exception`` on the way keeps it."""


class _Budget(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and the numbers that they put in memory, before they do."""

    def __init__(self, steps: int, parameters: int, elements: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._max_steps, self._max_parameters = steps, parameters
        self._max_elements = elements
        self._steps = self._parameters = self._elements = 0

    def step(self) -> None:
        """Count an operation or a module."""
        self._steps += 1
        if self._steps > self._max_steps:
            self._over(f"{self._max_steps:,} operations")

    def parameter(self) -> None:
        """Count a parameter that a module is given."""
        self._parameters += 1
        if self._parameters > self._max_parameters:
            self._over(f"{self._max_parameters:,} parameter tensors")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.step()
        # What works on parts of tensors that are there, or in place, needs no memory.
        if not func.is_view and not func._schema.is_mutable:
            self._elements += _new_elements(func, args, kwargs)
            if self._elements > self._max_elements:
                self._over(f"{self._max_elements:,} numbers")
        return func(*args, **kwargs)

    def _over(self, told: str) -> NoReturn:
        raise OverBudgetError(f"it takes more than {told}, which what is stored does not call for")


def _new_elements(func: Any, args: Any, kwargs: Any) -> int:
    """Return how many numbers an operation puts in memory, found out on the meta device."""
    device = kwargs.get("device")
    inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    on_meta = torch.device(device).type == "meta" if device is not None else False
    if on_meta or (device is None and any(x.is_meta for x in inputs)):
        return 0

    def to_meta(x: Any) -> Any:
        if isinstance(x, Tensor):
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
        if isinstance(x, torch.device):
            return torch.device("meta")
        if isinstance(x, torch.Generator):
            return None
        return x

    if not inputs and "device" in {a.name for a in func._schema.arguments}:
        kwargs = {**kwargs, "device": torch.device("meta")}
    try:
        args, kwargs = tree_map(to_meta, (args, kwargs))
        made = func(*args, **kwargs)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return 0  # it depends on values, or is wrong: the operation itself will tell
    return sum(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))


@contextmanager
def within(what: str, *, tensors: int, elements: int) -> Iterator[None]:
    """Build a model under a budget made of what is stored of it.

    A constructor that loops for ever, or would fill the memory, is stopped; what goes wrong in it
    in any other way is told in one line, too.

    Args:
        what: describes the model, for messages.
        tensors: how many tensors are stored.
        elements: how many numbers they hold.

    Raises:
        ValueError: if building the model fails, or takes more than the budget.

    Example:
        >>> with within("the plan's constructor", tensors=2, elements=100):
        ...     _ = nn.Linear(10**6, 10**6)
        Traceback (most recent call last):
        ValueError: the plan's constructor is not followed: it takes more than 67,108,864 numbers, which what is stored does not call for
    """  # noqa: E501
    budget = _Budget(
        FREE_STEPS + STEPS_PER_TENSOR * tensors,
        FREE_PARAMETERS + PARAMETERS_PER_TENSOR * tensors,
        allowed_elements(elements),
    )
    try:
        with _counted(budget), budget:
            yield
    except (OverBudgetError, RecursionError, MemoryError) as error:
        raise ValueError(f"{what} is not followed: {first_line(error)}") from None


def allowed_elements(stored: int) -> int:
    """Return how many numbers a model may have of which so many are stored."""
    return max(FREE_ELEMENTS, ELEMENTS_PER_STORED * stored)


@contextmanager
def _counted(budget: _Budget) -> Iterator[None]:
    """Count modules and parameters that this thread makes: a loop may make many of either."""
    original = nn.Module.__init__
    thread = threading.get_ident()

    @functools.wraps(original)
    def counted(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        if threading.get_ident() == thread:
            budget.step()
        original(self, *args, **kwargs)

    def registered(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if threading.get_ident() == thread:
            budget.parameter()

    hook = register_module_parameter_registration_hook(registered)
    nn.Module.__init__ = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__init__ = original  # type: ignore[method-assign]
        hook.remove()
