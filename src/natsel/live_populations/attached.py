"""Hooks in the modules of a model, from here to ``close()``: what every live handle is."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Self

from torch import nn
from torch.utils.hooks import RemovableHandle


class Attached:
    """A method at work in some modules; each kind of handle knows its own.

    Args:
        method: its name.
        modules: in which it is at work.
        handles: of its hooks.
    """

    _at_work: ClassVar[weakref.WeakKeyDictionary[nn.Module, Attached]]

    def __init_subclass__(cls) -> None:
        cls._at_work = weakref.WeakKeyDictionary()

    def __init__(
        self, method: str, modules: Sequence[nn.Module], handles: list[RemovableHandle]
    ) -> None:
        self._method = method
        self._modules = tuple(modules)
        self._handles = handles
        for module in self._modules:
            self._at_work[module] = self

    @classmethod
    def method_in(cls, module: nn.Module) -> str | None:
        """Return the name of the method that is at work in a module, None if none is."""
        found = cls._at_work.get(module)
        return None if found is None else found._method

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_closed(self) -> bool:
        """Whether the model is as it was before."""
        return not self._handles

    def close(self) -> None:
        """Leave the model as it was; a second time does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for module in self._modules:
            if self._at_work.get(module) is self:
                del self._at_work[module]
