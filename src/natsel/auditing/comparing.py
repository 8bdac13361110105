"""Scores compared by the order that they give and by who survives, whatever they are scores of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from natsel.auditing.overlap import (
    agreement,
    expected_agreement,
    jaccard,
    matrix,
    num_tied_at_cut,
    spearman,
    weighted_mean,
)
from natsel.auditing.result import Audit, Cut, Place, UpToTies
from natsel.common.orders import compare_orders, same_order
from natsel.communities import Communities
from natsel.selection import Sparsity, select

Scored = Mapping[str, Mapping[str, Tensor]]
"""By scorer and community, one score for each population."""


def compared(
    scored: Scored, sparsities: Sequence[float], communities: Communities | None = None
) -> Audit:
    """Compare scores that are there: what :func:`natsel.audit` says of scorers.

    Args:
        scored: ``{scorer: {community: tensor [size]}}``, with the same communities for each.
        sparsities: where to compare survivors, ascending.
        communities: what the scores are of; None for populations without a kind.

    Returns:
        Equivalence classes, overlaps and correlations.

    Example:
        >>> first = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0])}
        >>> found = compared({"x": first, "y": {"a": -first["a"]}}, [0.5])
        >>> found.reversed, found.overall.at[0].agreement[0], found.overall.at[0].chance
        ((('x', 'y'),), [1.0, 0.0], 0.5)
    """
    names = list(next(iter(scored.values())))
    by_scorer = list(scored.values())
    kept = [
        [select(scores, Sparsity(s), communities=communities) for s in sparsities]
        for scores in by_scorer
    ]

    def cuts(where: list[str]) -> list[Cut]:
        scores = [[values[n] for n in where] for values in by_scorer]
        return [
            _cut(s, scores, [[selections[i][n] for n in where] for selections in kept])
            for i, s in enumerate(sparsities)
        ]

    places = [
        Place(
            name,
            "population" if communities is None else communities[name].kind,
            by_scorer[0][name].numel(),
            matrix([values[name] for values in by_scorer], spearman),
            cuts([name]),
        )
        for name in names
    ]
    sizes = [place.size for place in places]
    indices = range(len(scored))
    mean = [
        [weighted_mean([p.spearman[i][j] for p in places], sizes) for j in indices] for i in indices
    ]
    constant = _constant(scored)
    proper = {n: s for n, s in scored.items() if len(constant.get(n, ())) < len(names)}
    return Audit(
        tuple(scored),
        tuple(sparsities),
        _classes(scored),
        _up_to_ties(proper),
        _reversed(proper),
        constant,
        Place("overall", "population", sum(sizes), mean, cuts(names)),
        tuple(places),
    )


def _cut(sparsity: float, scores: list[list[Tensor]], kept: list[list[Tensor]]) -> Cut:
    """Compare survivors at one sparsity; the outer lists are by scorer, the inner by community."""
    masks = [torch.cat(parts) for parts in kept]
    agreements = matrix(masks, agreement)
    ties = [
        sum(num_tied_at_cut(x, m) for x, m in zip(values, parts, strict=True))
        for values, parts in zip(scores, kept, strict=True)
    ]
    counts, sizes = [int(m.sum()) for m in kept[0]], [m.numel() for m in kept[0]]
    return Cut(
        sparsity=sparsity,
        num_survivors=sum(counts),
        chance=expected_agreement(counts, sizes),
        agreement=agreements,
        jaccard_survivors=matrix(masks, jaccard),
        jaccard_removed=matrix([~m for m in masks], jaccard),
        moved=[1 - share for share in agreements[0]],
        tied=ties,
    )


def _classes(scored: Scored) -> tuple[tuple[str, ...], ...]:
    """Put together what gives one order everywhere; one member stands for its class."""
    classes: list[list[str]] = []
    for name, scores in scored.items():
        for members in classes:
            if all(same_order(scored[members[0]][n], scores[n]) for n in scores):
                members.append(name)
                break
        else:
            classes.append([name])
    return tuple(tuple(members) for members in classes)


def _up_to_ties(scored: Scored) -> tuple[UpToTies, ...]:
    found = []
    for first, second in combinations(scored, 2):
        orders = [compare_orders(x, scored[second][n]) for n, x in scored[first].items()]
        if all(o.up_to_ties for o in orders) and not all(o.same for o in orders):
            ties = sum(o.ties_first for o in orders), sum(o.ties_second for o in orders)
            found.append(UpToTies((first, second), ties))
    return tuple(found)


def _reversed(scored: Scored) -> tuple[tuple[str, str], ...]:
    return tuple(
        (first, second)
        for first, second in combinations(scored, 2)
        if all(same_order(x, -scored[second][n].double()) for n, x in scored[first].items())
    )


def _constant(scored: Scored) -> dict[str, tuple[str, ...]]:
    """Say where scores are constant; of a single population every score is."""
    found = {
        scorer: tuple(n for n, x in scores.items() if x.numel() > 1 and bool((x == x[0]).all()))
        for scorer, scores in scored.items()
    }
    return {scorer: where for scorer, where in found.items() if where}
