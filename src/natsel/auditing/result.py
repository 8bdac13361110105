"""What an audit found, as data and in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from natsel.common.errors import shortened
from natsel.common.showing import counted

Matrix = list[list[float]]
MIN_SURVIVORS = 8
"""Of how many survivors a share is worth a sentence: one head of four moves by chance."""


@dataclass(frozen=True)
class Cut:
    """What the scorers keep at one sparsity; matrices and lists are in the order of the scorers.

    Attributes:
        sparsity: what was asked.
        num_survivors: how many every scorer keeps.
        chance: the agreement to expect of two selections that know nothing of each other.
        agreement: share of one's survivors that the other keeps, too.
        jaccard_survivors: survivors of both by survivors of either.
        jaccard_removed: the same of what is removed.
        moved: share of the first scorer's survivors that each does not keep.
        tied: populations of which the index alone decides who survives, by scorer.
    """

    sparsity: float
    num_survivors: int
    chance: float
    agreement: Matrix
    jaccard_survivors: Matrix
    jaccard_removed: Matrix
    moved: list[float]
    tied: list[int]


@dataclass(frozen=True)
class Place:
    """A comparison in one community, or in all of them together.

    Attributes:
        name: of the community, "overall" for all.
        kind: "neuron", "filter", ..., "population" for all.
        size: how many populations.
        spearman: rank correlations, None where a score is constant. Over all it is their mean by
            size, as ranks are taken within a community.
        at: one entry per sparsity.
    """

    name: str
    kind: str
    size: int
    spearman: list[list[float | None]]
    at: list[Cut]


@dataclass(frozen=True)
class UpToTies:
    """Two scorers that turn no pair round, one of which ties what the other tells apart.

    Attributes:
        scorers: the two.
        ties: how many steps of their common order are ties in each.
    """

    scorers: tuple[str, str]
    ties: tuple[int, int]


@dataclass(frozen=True)
class Audit:
    """How some scorers compare on one model; print it for the outcome in words.

    Attributes:
        scorers: their names.
        sparsities: where survivors were compared.
        classes: the scorers; those that give one order in every community, ties included, stand
            together.
        up_to_ties: pairs that would, but for ties.
        reversed: pairs of which one is the other turned upside down.
        constant: by scorer, the communities in which it gives all the same number.
        overall: all communities together.
        communities: each by itself.
    """

    scorers: tuple[str, ...]
    sparsities: tuple[float, ...]
    classes: tuple[tuple[str, ...], ...]
    up_to_ties: tuple[UpToTies, ...]
    reversed: tuple[tuple[str, str], ...]
    constant: Mapping[str, tuple[str, ...]]
    overall: Place
    communities: tuple[Place, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """The outcome in words."""
        return tuple(_sentences(self))

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON holds it."""
        held: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return {"sentences": list(self.sentences), **held}

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def __repr__(self) -> str:
        names = shortened(", ".join(self.scorers))
        return (
            f"Audit({names}: {counted(len(self.classes), 'order')} in "
            f"{counted(self.overall.size, 'population')}; print it for the outcome in words)"
        )


def _sentences(audit: Audit) -> Iterator[str]:
    num, orders = len(audit.scorers), len(audit.classes)
    yield f"{num} scorers give {orders} order{'s' if orders > 1 else ''}."
    everywhere = {n for n, c in audit.constant.items() if len(c) == len(audit.communities)}
    for members in audit.classes:
        if len(members) > 1 and members[0] not in everywhere:
            yield (
                f"{_is_one(members)}: one order, ties included, in every community, so the same "
                "survivors, and one accuracy, at every sparsity."
            )
    leaders = [members[0] for members in audit.classes]
    told = set()
    for pair in audit.up_to_ties:
        if set(pair.scorers) <= set(leaders):
            told.add(pair.scorers)
            yield _tie_sentence(audit, pair)
    for first, second in audit.reversed:
        if {first, second} <= set(leaders):
            told.add((first, second))
            yield f"{second} is {first} upside down: it turns every pair round."
    for name in leaders[1:]:
        if (leaders[0], name) not in told and not everywhere & {leaders[0], name}:
            yield _agreement_sentence(audit, audit.scorers.index(name))
    for name, places in audit.constant.items():
        where = "every community" if name in everywhere else listed(places)
        yield (
            f"{name} gives all populations one number in {where}: there their index alone "
            "decides who survives."
        )
    for i, name in enumerate(audit.scorers):
        tied = [(cut.tied[i], cut.sparsity) for cut in audit.overall.at if cut.tied[i]]
        if tied and name not in audit.constant:
            counts = listed([f"{count} populations at {percent(s)}" for count, s in tied])
            yield f"{name} ties across the cut, where the index decides: {counts}."


def _is_one(members: Sequence[str]) -> str:
    if len(members) == 2:
        return f"{members[1]} is {members[0]}"
    return f"{listed(members)} are one criterion"


def _tie_sentence(audit: Audit, pair: UpToTies) -> str:
    (first, second), counts = pair.scorers, pair.ties
    told = [
        f"{tying} ties {count} step{'s' if count > 1 else ''} that {other} tells apart"
        for tying, other, count in ((second, first, counts[1]), (first, second, counts[0]))
        if count
    ]
    i, j = audit.scorers.index(first), audit.scorers.index(second)
    moved = [
        f"{percent(1 - cut.agreement[i][j])} at {percent(cut.sparsity)}"
        for cut in audit.overall.at
        if cut.agreement[i][j] < 1
    ]
    text = f"{second} is {first} up to ties: no pair is turned round, but {listed(told)}. "
    if moved:
        return text + f"Of the survivors these differ, by index alone: {listed(moved)}."
    return text + "At the sparsities asked the survivors are the same."


def _agreement_sentence(audit: Audit, other: int) -> str:
    cuts = audit.overall.at
    shares = [1 - cut.moved[other] for cut in cuts]
    text = f"{audit.scorers[other]} and {audit.scorers[0]} agree on {percent(shares[0])} of the "
    text += f"survivors at {percent(cuts[0].sparsity)}"
    if len(cuts) > 1:
        more = zip(shares[1:], cuts[1:], strict=True)
        text += f", {listed([f'{percent(share)} at {percent(c.sparsity)}' for share, c in more])}"
    text += f" (by chance {listed([percent(c.chance) for c in cuts])})"
    correlation = audit.overall.spearman[0][other]
    if correlation is not None:
        text += f"; rank correlation {correlation:.3f}"
    telling = [p for p in audit.communities if p.at[-1].num_survivors >= MIN_SURVIVORS]
    least = max(telling, key=lambda place: place.at[-1].moved[other], default=audit.overall)
    if least.at[-1].moved[other] > cuts[-1].moved[other]:
        share = percent(1 - least.at[-1].moved[other])
        text += f"; least in {least.name}: {share} at {percent(cuts[-1].sparsity)}"
    return text + "."


def percent(share: float) -> str:
    """Print a share in whole percent, and never as all or nothing where it is not.

    Example:
        >>> percent(0.974), percent(0.9999), percent(1.0), percent(0.001)
        ('97 %', 'over 99 %', '100 %', 'under 1 %')
    """
    value = 100 * share
    if value > 99.5 and share < 1:
        return "over 99 %"
    if value < 0.5 and share > 0:
        return "under 1 %"
    return f"{value:.0f} %"


def listed(names: Sequence[str]) -> str:
    """Join names as people do.

    Example:
        >>> listed(["a", "b", "c"]), listed(["a"])
        ('a, b and c', 'a')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
