"""The kinds of populations, one row each: all that differs between them is told here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from natsel.common.registry import Registry


@dataclass(frozen=True)
class Kind:
    """What the populations of one kind have in common.

    Attributes:
        name: as ``Community.kind`` has it.
        plural: many of them, in words; by default with an s.
        marked: an operator's rule says that populations are of this kind (``run.mark``), since the
            shapes of weights do not tell. Where several are said, the first in the table counts.
        exact: removing is masking. It is not where a normalisation runs over the populations.
        gated: at which slices a mass multiplies: "all" that read the populations, or the "last"
            in the order of use, where all that a population makes leaves through that one.
        produced: the role of slices that are the outputs of a weight: "out", for they make the
            populations, or "route", for they let a router choose them.
        rounded: a kept count is worth a multiple: their number is a width of a matrix product.
        named: after the module that makes them ("maker"), or what holds all their parts ("holder").
        plain: modules such as ``nn.Linear`` run on fewer of them as they are: no number in them
            holds the count.
        unabsorbed: why what the removed did cannot be taken over by others, or nothing.

    Example:
        >>> Kind("gland").plural, Kind("bacterium", "bacteria").plural
        ('glands', 'bacteria')
    """

    name: str
    plural: str = ""
    marked: bool = False
    exact: bool = True
    gated: Literal["all", "last"] = "all"
    produced: Literal["out", "route"] = "out"
    rounded: bool = True
    named: Literal["maker", "holder"] = "maker"
    plain: bool = False
    unabsorbed: str = ""

    def __post_init__(self) -> None:
        if not self.plural:
            object.__setattr__(self, "plural", f"{self.name}s")


NEURON = Kind("neuron", plain=True)
"""What nothing else is said of."""
CHANNEL = Kind("channel", exact=False, unabsorbed="a normalisation runs over its populations")
"""A place of a residual width."""
HEAD = Kind("head", marked=True, rounded=False, named="holder")
QUERY = Kind("query head", marked=True, rounded=False, named="holder")
"""A head of queries, at one place of all groups that share keys and values; these stay."""
KEY = Kind(
    "key dimension",
    marked=True,
    rounded=False,
    named="holder",
)
"""A dimension that queries and keys share, at one place of all heads; rotary ones go in pairs."""
VALUE = Kind("value dimension", marked=True, rounded=False, named="holder")
"""A dimension of the values, and of what attention puts out, at one place of all heads."""
DIMENSION = Kind("dimension", rounded=False, named="holder")
"""Both at once, where a module has one number for the two."""
WITHIN = frozenset((KEY.name, VALUE.name, DIMENSION.name))
"""Names of the kinds that are inside heads."""
EXPERT = Kind(
    "expert",
    marked=True,
    gated="last",
    produced="route",
    rounded=False,
    named="holder",
    unabsorbed="its populations are experts, which a router chooses",
)
"""One expert; of a router that chooses groups first, one of each group, at one place of all."""
GROUP = replace(EXPERT, name="expert group", plural="expert groups")
"""All experts of one group of a router that chooses groups first."""
ROUTED = frozenset((EXPERT.name, GROUP.name))
"""Names of the kinds that a router chooses."""
FILTER = Kind("filter", marked=True, plain=True)
BRANCH = Kind(
    "branch",
    "branches",
    rounded=False,
    unabsorbed="its populations are branches, whose outputs nothing else reads",
)
"""What is added to a residual stream, whole: depth."""
WEIGHT = Kind("weight")
"""One number of a tensor, where single weights compete."""

KINDS: Registry[Kind] = Registry(
    "kind",
    {
        kind.name: kind
        for kind in (
            *(NEURON, CHANNEL, HEAD, QUERY, KEY, VALUE, DIMENSION),
            *(GROUP, EXPERT, FILTER, BRANCH, WEIGHT),
        )
    },
)


def kind_of(name: str) -> Kind:
    """Return the row of a kind; of one that is in no row, a row with nothing special.

    Example:
        >>> kind_of("expert").gated, kind_of("spine").exact
        ('last', True)
    """
    found = KINDS.get(name)
    return Kind(name) if found is None else found


def marked() -> tuple[str, ...]:
    """Name the kinds that operators' rules say, the first that holds counts first.

    Example:
        >>> marked()[:2], marked()[-3:]
        (('head', 'query head'), ('expert group', 'expert', 'filter'))
    """
    return tuple(name for name, kind in KINDS.items() if kind.marked)
