"""The table of methods by which the choices of a router compete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from torch import Tensor

from natsel.common.registry import Registry
from natsel.live_populations.registry import bound, check_options


@dataclass(frozen=True)
class ExpertMethod:
    """A scorer of the choices of a router.

    Attributes:
        name: how users call it.
        score: from :class:`natsel.live_populations.Choices` to one number each,
            ``[tokens, chosen]``, higher is fitter; keyword-only arguments are options of users.
        extinct: tells who leaves without being asked to by a budget, the same shape; None where
            nobody does.
    """

    name: str
    score: Callable[..., Tensor]
    extinct: Callable[..., Tensor] | None = None

    def bound(self, options: Mapping[str, Any]) -> ExpertMethod:
        """Return the method with options of a user's.

        Raises:
            ValueError: if it has no such option.
        """
        if not options:
            return self
        check_options(self.name, options, self.score, self.extinct)
        extinct = self.extinct and bound(self.extinct, options)
        return replace(self, score=bound(self.score, options), extinct=extinct)


EXPERT_METHODS: Registry[ExpertMethod] = Registry("method of experts")


def register(method: ExpertMethod) -> ExpertMethod:
    """Add a method to the table, so that it has a name.

    Raises:
        ValueError: if the name is taken.
    """
    return EXPERT_METHODS.add(method.name, method)


def are_experts(method: object) -> TypeGuard[str | ExpertMethod]:
    """Tell whether a method is one of experts, or the name of one.

    Example:
        >>> are_experts("router"), are_experts("snapkv")
        (True, False)
    """
    if isinstance(method, str):
        return method in EXPERT_METHODS
    return isinstance(method, ExpertMethod)


def get(method: str | ExpertMethod) -> ExpertMethod:
    """Look a method up by its name; a method passes through.

    Raises:
        ValueError: if there is none of this name.

    Example:
        >>> get("router").name
        'router'
    """
    return EXPERT_METHODS.find_or_import(method) if isinstance(method, str) else method
