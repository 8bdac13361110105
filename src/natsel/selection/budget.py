"""What must be reached: a share of the populations, parameters, multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, Protocol, Self, runtime_checkable

from torch import Tensor

from natsel.common.errors import refuse
from natsel.common.numbers import is_number, is_whole
from natsel.communities import Communities


@dataclass(frozen=True)
class Gauge:
    """How far some survivors are from a budget.

    Attributes:
        name: of the budget, for messages.
        asked: what the user asked for.
        limit: what the reading may be at most.
        read: the reading of some survivors, one boolean tensor ``[size]`` per community that takes
            part; fewer survivors never read higher.
        describe: a reading in words.
        num_steps: how many readings a search may take, None for as many as it needs: a reading
            that is measured takes time, and is not exact.
    """

    name: str
    asked: object
    limit: float
    read: Callable[[Mapping[str, Tensor]], float]
    describe: Callable[[float], str] = "{:,.6g}".format
    num_steps: int | None = None


@runtime_checkable
class CostBudget(Protocol):
    """What a whole small model may cost at most: anything that has this method is a budget.

    Example:
        >>> import natsel, torch
        >>> from torch import nn
        >>> @dataclass(frozen=True)
        ... class Bytes:
        ...     most: int
        ...     def gauge(self, communities):
        ...         size = next(communities.model.parameters()).element_size()
        ...         read = lambda survivors: size * communities.price(survivors).parameters
        ...         return Gauge("bytes", self.most, self.most, read)
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> communities = natsel.discover(model, torch.zeros(1, 4))
        >>> scores = {"0": torch.arange(8.0)}
        >>> natsel.select(scores, Bytes(180), communities=communities)
        Survivors(0: 5/8)
    """

    def gauge(self, communities: Communities) -> Gauge:
        """Return how to read off what some survivors of a model cost."""
        ...


@dataclass(frozen=True, repr=False)
class Sparsity:
    """A share of the populations to remove: of 8 neurons, 0.7 leaves 2.

    It counts what goes; :class:`Parameters`, :class:`MACs` and :class:`natsel.Latency` count what
    stays.

    Attributes:
        value: the share that goes, in [0, 1).

    Example:
        >>> Sparsity(0.7), Sparsity.kept(0.3) == Sparsity.removed(0.7) == Sparsity(0.7)
        (Sparsity(0.7): removes 70 % of the populations, True)
    """

    value: float

    def __repr__(self) -> str:
        return f"Sparsity({self.value!r}): removes {percent(self.value)} of the populations"

    @classmethod
    def removed(cls, share: float) -> Self:
        """Return the budget that removes a share of the populations."""
        return cls(share)

    @classmethod
    def kept(cls, share: float) -> Self:
        """Return the budget that keeps a share of the populations."""
        return cls(rest(share, "sparsity"))

    def __post_init__(self) -> None:
        if not is_number(self.value) or not math.isfinite(self.value) or not 0 <= self.value < 1:
            refuse("sparsity", self.value, "a number in [0, 1)")

    def count(self, size: int) -> int:
        """Return how many of ``size`` populations go: the nearest whole number, halves up.

        Example:
            >>> Sparsity(0.5).count(5)
            3
        """
        return nearest_count(self.value, size)


@dataclass(frozen=True, repr=False)
class Parameters:
    """At most so many parameters in the whole small model: 0.7 keeps 70 % of them.

    Attributes:
        value: a float in (0, 1] is the share of the dense model's parameters that stays, a whole
            number from 2
            on is the number itself. What the dense model does not exceed removes nothing.

    Example:
        >>> Parameters(0.5), Parameters(1_000_000)
        (Parameters(0.5): keeps 50 % of the parameters, Parameters(1000000): keeps 1,000,000 parameters)
    """  # noqa: E501

    value: float

    def __repr__(self) -> str:
        return told(self, self.value, "parameters")

    @classmethod
    def kept(cls, share: float) -> Self:
        """Return the budget that keeps a share of the parameters, or so many of them."""
        return cls(share)

    @classmethod
    def removed(cls, share: float) -> Self:
        """Return the budget that removes a share of the parameters."""
        return cls(rest(share, "parameters"))

    def __post_init__(self) -> None:
        _check_cost("parameters", self.value)

    def gauge(self, communities: Communities) -> Gauge:
        """Return how to read off the parameters that some survivors of a model leave."""
        return _cost_gauge("parameters", self.value, communities)


@dataclass(frozen=True, repr=False)
class MACs:
    """At most so many multiply-accumulates per sample in the small model: 0.7 keeps 70 %.

    Attributes:
        value: a float in (0, 1] is the share of the dense model's multiply-accumulates that stays,
            a whole number from 2 on is the number itself. What the dense model does not exceed
            removes nothing.

    Example:
        >>> MACs(0.7), MACs.removed(0.3) == MACs.kept(0.7) == MACs(0.7)
        (MACs(0.7): keeps 70 % of the multiply-accumulates, True)
    """

    value: float

    def __repr__(self) -> str:
        return told(self, self.value, "multiply-accumulates")

    @classmethod
    def kept(cls, share: float) -> Self:
        """Return the budget that keeps a share of the multiply-accumulates, or so many of them."""
        return cls(share)

    @classmethod
    def removed(cls, share: float) -> Self:
        """Return the budget that removes a share of the multiply-accumulates."""
        return cls(rest(share, "macs"))

    def __post_init__(self) -> None:
        _check_cost("macs", self.value)

    def gauge(self, communities: Communities) -> Gauge:
        """Return how to read off the multiply-accumulates that some survivors leave."""
        return _cost_gauge("macs", self.value, communities)


def percent(share: float) -> str:
    """Return a share as it was written, in percent.

    Example:
        >>> percent(0.7), percent(0.125)
        ('70 %', '12.5 %')
    """
    written = (Decimal(str(share)) * 100).normalize()
    return f"{written:f} %"


def rest(share: float, name: str) -> float:
    """Return what a share leaves of 1, of the number as it is written.

    Raises:
        ValueError: if it is no share in [0, 1].

    Example:
        >>> rest(0.7, "macs"), 1 - 0.7
        (0.3, 0.30000000000000004)
    """
    ok = isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1
    if not ok:
        refuse(name, share, "a share in [0, 1]")
    return float(1 - Decimal(str(share)))


def told(budget: object, value: float, what: str) -> str:
    """Return a budget of what stays in words."""
    amount = f"{percent(value)} of the {what}" if isinstance(value, float) else f"{value:,} {what}"
    return f"{type(budget).__name__}({value!r}): keeps {amount}"


def nearest_count(share: float, size: int) -> int:
    """Return a share of a count as a whole number, halves up, of the number as it is written.

    Example:
        >>> nearest_count(0.29, 50), math.floor(0.29 * 50 + 0.5)
        (15, 14)
    """
    return math.floor(_as_written(share) * size + Fraction(1, 2))


def is_share(value: object) -> bool:
    """Tell whether a value is a float in (0, 1]."""
    return isinstance(value, float) and 0 < value <= 1


def _as_written(share: float) -> Fraction:
    return Fraction(str(float(share)))


def _check_cost(name: str, value: object) -> None:
    if not is_share(value) and not is_whole(value, 2):
        refuse(name, value, "a share such as 0.5 in (0, 1], or a whole number from 2 on")


def _cost_gauge(
    name: Literal["parameters", "macs"], value: float, communities: Communities
) -> Gauge:
    dense = getattr(communities.price(), name)
    limit = math.floor(_as_written(value) * Fraction(dense)) if isinstance(value, float) else value
    return Gauge(
        name=name,
        asked=value,
        limit=limit,
        read=lambda survivors: float(getattr(communities.price(survivors), name)),
        describe=lambda cost: f"{cost:,.0f} of {dense:,.0f} (a share of {cost / dense:.4f})",
    )
