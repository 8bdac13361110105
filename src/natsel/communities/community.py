"""What discovery returns: communities, the slices their populations own, and what stays whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs
from natsel.common.errors import did_you_mean, refuse
from natsel.common.showing import counted, html_table, listed, named
from natsel.communities.branches.branch import Branch
from natsel.communities.cost import Cost
from natsel.communities.kinds import WITHIN, kind_of

if TYPE_CHECKING:
    from natsel.communities.pricing import Pricing

NUM_REASONS = 3
OUTPUT = "it is an output of the model"
"""Why the last layer stays whole."""

Role = Literal["out", "in", "tied", "route", "preference"]


@dataclass(frozen=True, eq=False)
class Slice:
    """The part of one tensor that a community owns.

    Attributes:
        tensor: name of the parameter or buffer in the model.
        axis: the axis that shrinks.
        index: which places along the axis each population owns, int64 ``[size, width]``.
        role: "out" (these rows make the population), "in" (these columns read it: its mass gates
            here), "tied" (numbers that merely go along, such as a bias or a scale), "route" (these
            rows let a router choose it) or "preference" (a router adds these to what it chooses
            by).
    """

    tensor: str
    axis: int
    index: Tensor
    role: Role

    def __repr__(self) -> str:
        size, width = self.index.shape
        each = counted(width, "place")
        return f"Slice({self.role}: {named(self.tensor)}, axis {self.axis}, {size:,} x {each})"


@dataclass(frozen=True)
class Rebinding:
    """A Python number in a module that holds a size and must follow it.

    Attributes:
        module: path of the module in the model.
        attribute: its attribute; ``name[place]`` of a list or tuple.
        per_population: what one population contributes to the number.
    """

    module: str
    attribute: str
    per_population: int


@dataclass(frozen=True)
class Counted:
    """A mean over populations that goes on counting those that were removed, as zeros.

    Attributes:
        module: path of the module in whose forward it is taken.
        size: how many places it is taken over.
    """

    module: str
    size: int


@dataclass(frozen=True, eq=False)
class Community:
    """Populations of one kind in one place, interchangeable in structure and cost.

    Attributes:
        name: path of the module that makes them.
        kind: "neuron", "filter", "head", "expert", "channel" (of a residual width) or, inside
            heads, "key dimension", "value dimension" and "dimension" (both at once); what
            differs between them is in :mod:`natsel.communities.kinds`.
        size: how many populations.
        cost: what each of them costs.
        slices: every tensor slice that goes with them.
        rebindings: Python numbers that follow their count.
        minimum: how many must stay: at least as many experts as a router chooses, else 1.
        branches: what each population is, where these are branches of a stream: they are not
            alike, and own whole tensors; ``cost`` is their mean.
        scaled: which slices make queries and keys whose products code divides by the root of their
            own width: what remains of n of N populations is multiplied by (n / N)^(1/4) there, so
            that products stay what they were.
    """

    name: str
    kind: str
    size: int
    cost: Cost
    slices: tuple[Slice, ...]
    rebindings: tuple[Rebinding, ...] = ()
    minimum: int = 1
    branches: tuple[Branch, ...] = ()
    scaled: tuple[int, ...] = ()
    counted: tuple[Counted, ...] = ()
    standards: tuple[str, ...] = ()
    stilled: tuple[int, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether removing is masking. It is not where a normalisation runs over them."""
        return kind_of(self.kind).exact

    @property
    def gates(self) -> tuple[Slice, ...]:
        """The slices at which a population's mass scales its influence."""
        return tuple(s for n, s in enumerate(self.slices) if s.role == "in" or n in self.stilled)

    @property
    def silenced(self) -> tuple[Slice, ...]:
        """The slices that are zero in the masked network: the gates, and biases beside rows.

        Rows that are gates make queries and keys, which read each other: a product of biases would
        be left of them.
        """
        rows = {s.tensor.rpartition(".")[0] for s in self.gates if s.axis == 0}
        if kind_of(self.kind).name not in WITHIN:
            return self.gates
        beside = (s for s in self.slices if s.role == "tied" and s.axis == 0)
        return (*self.gates, *(s for s in beside if s.tensor.rpartition(".")[0] in rows))

    def _counted(self) -> str:
        return counted(self.size, self.kind, kind_of(self.kind).plural)

    def __repr__(self) -> str:
        least = f", at least {self.minimum} stay" if self.minimum > 1 else ""
        return (
            f"Community({named(self.name)}: {self._counted()}, each "
            f"{counted(self.cost.parameters, 'parameter')} and {self.cost.macs:,.0f} MACs in "
            f"{counted(len(self.slices), 'slice')}{least})"
        )


@dataclass(frozen=True)
class Refusal:
    """Something that looks removable and is left whole.

    Attributes:
        name: path of the module.
        size: how many populations it would have had.
        reason: why it is left whole.
        remedy: what the user can do, if anything.
    """

    name: str
    size: int
    reason: str
    remedy: str = ""


def left_whole(refused: Iterable[Refusal]) -> str:
    """Return in one line what was left whole and why, with remedies; what tells most comes first.

    Example:
        >>> left_whole([Refusal("out", 3, OUTPUT), Refusal("a", 8, "it is masked", "unmask it")])
        'a: it is masked, remedy: unmask it'
    """
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for refusal in refused:
        places[refusal.reason, refusal.remedy].append(refusal.name)
    # That the last layer stays whole is so in every model, and explains nothing.
    telling = {key: names for key, names in places.items() if key[0] != OUTPUT} or places
    parts = []
    for (reason, remedy), names in list(telling.items())[:NUM_REASONS]:
        more = f" and {len(names) - NUM_REASONS} more" if len(names) > NUM_REASONS else ""
        where = ", ".join(names[:NUM_REASONS]) + more
        parts.append(f"{where}: {reason}" + (f", remedy: {remedy}" if remedy else ""))
    return "; ".join(parts)


class Communities(Mapping[str, Community]):
    """The communities of one model, by name, in the order in which the model uses them.

    Attributes:
        model: the model they were found in.
        example_inputs: the inputs they were found with.
        refused: what was left whole, and why.
        barriers: operators without a rule that were met, with the line of code.
        macs: multiply-accumulates per sample of the whole model, linear maps and attention.
        pricing: what any selection leaves of the parameters and multiply-accumulates.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Inputs,
        communities: tuple[Community, ...],
        refused: tuple[Refusal, ...] = (),
        barriers: tuple[str, ...] = (),
        macs: float = 0.0,
        *,
        pricing: Pricing,
    ) -> None:
        self.model = model
        self.example_inputs = example_inputs
        self.refused = refused
        self.barriers = barriers
        self.macs = macs
        self.pricing = pricing
        self._communities = {c.name: c for c in communities}

    def __getitem__(self, name: str) -> Community:
        return self._communities[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._communities)

    def __len__(self) -> int:
        return len(self._communities)

    def __repr__(self) -> str:
        parts = (f"{named(c.name)}: {c._counted()}" for c in self.values())
        return f"Communities({listed(parts, len(self), self._in_all())})"

    def _repr_html_(self) -> str:
        rows = (
            (c.name, c.kind, c.size, c.cost.parameters, round(c.cost.macs)) for c in self.values()
        )
        left = f"left whole: {counted(len(self.refused), 'place')}"
        why = left_whole(self.refused)
        return html_table(
            ("community", "kind", "size", "parameters each", "MACs each"),
            rows,
            len(self),
            [self._in_all(), *([f"{left} ({why})"] if self.refused else [])],
        )

    def _in_all(self) -> str:
        communities = counted(len(self), "community", "communities")
        return f"{communities}, {counted(self.num_populations, 'population')}"

    @property
    def num_populations(self) -> int:
        """How many populations there are in all communities together."""
        return sum(c.size for c in self.values())

    def require(self, argument: str = "communities", value: object = "none") -> Communities:
        """Return the same communities, made sure that there is one.

        Args:
            argument: what the caller's user gave, for the message.
            value: and its value.

        Raises:
            ValueError: if there is none; the message says what was left whole and why.
        """
        if not len(self):
            left = left_whole(self.refused)
            refuse(argument, value, f"a model with at least one community ({left})")
        return self

    def full(self) -> dict[str, Tensor]:
        """Return the selection that keeps everything: one all-true tensor per community."""
        return {c.name: torch.ones(c.size, dtype=torch.bool) for c in self.values()}

    def only(self, *kinds: str) -> Communities:
        """Return the communities of some kinds; the populations of the others all stay.

        Args:
            kinds: such as "neuron" or "head".

        Returns:
            The same model with fewer communities.

        Raises:
            ValueError: if the model has none of these kinds.

        Example:
            >>> import natsel
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            >>> natsel.discover(model, torch.zeros(1, 4)).only("neuron")
            Communities(0: 8 neurons)
        """
        chosen = tuple(c for c in self.values() if c.kind in kinds)
        if not chosen:
            there = sorted({c.kind for c in self.require().values()})
            hint = "".join(did_you_mean(kind, there) for kind in kinds)
            refuse("kinds", ",".join(kinds), f"kinds that the model has: {', '.join(there)}{hint}")
        return self._of(chosen)

    def without(self, names: Iterable[str]) -> Communities:
        """Return the same without some of them; their populations all stay.

        Args:
            names: of communities.
        """
        gone = set(names)
        return self._of(tuple(c for c in self.values() if c.name not in gone))

    def _of(self, chosen: tuple[Community, ...]) -> Communities:
        return Communities(
            self.model,
            self.example_inputs,
            chosen,
            self.refused,
            self.barriers,
            self.macs,
            pricing=self.pricing,
        )

    def in_model(self, model: nn.Module) -> Communities:
        """Return the same communities of another model with the same tensors.

        Args:
            model: that these were found in a copy of.
        """
        twin = self._of(tuple(self.values()))
        twin.model = model
        return twin

    def price(self, survivors: Mapping[str, Tensor] | None = None) -> Cost:
        """Return what the model costs that holds only the survivors, without building it.

        Args:
            survivors: one boolean tensor ``[size]`` per community; one that is missing keeps all.

        Returns:
            Parameters, and multiply-accumulates per sample, of the whole small model: as many as
            the extracted one has.

        Raises:
            ValueError: if a name is unknown or a mask has another length.

        Example:
            >>> import natsel
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            >>> communities = natsel.discover(model, torch.zeros(1, 4))
            >>> communities.price()
            Cost(parameters=67, macs=56.0)
            >>> communities.price({"0": torch.arange(8) < 2})
            Cost(parameters=19, macs=14.0)
        """
        return self.pricing.price(self.values(), survivors or {})
