"""Is a criterion another one? Scorers compared by order and by survivors, proved where it can be.

A selection by rank sees the order of the scores and nothing else. Two scorers that put the
populations of every community in one order, ties included, therefore keep the same survivors at
every sparsity, and must give one accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from natsel.auditing.comparing import compared
from natsel.auditing.overlap import check_sparsities
from natsel.auditing.result import Audit
from natsel.common.batches import Data, reread
from natsel.common.calls import cross_entropy
from natsel.common.errors import NonFiniteError, refuse
from natsel.common.importing import names_own
from natsel.common.patterns import Patterns, chosen
from natsel.common.progress import Progress, silent
from natsel.communities import Communities
from natsel.fitness import Fitness, Parts, get, score
from natsel.fitness.score import Criterion

Scorer = str | Fitness | Callable[[Parts], Tensor]


def audit(
    communities: Communities,
    scorers: Sequence[Scorer] | Mapping[str, Scorer | Mapping[str, Tensor]],
    sparsities: Sequence[float],
    data: Data | None = None,
    *,
    criterion: Criterion = cross_entropy,
    include: Patterns = None,
    exclude: Patterns = None,
    progress: Progress = silent,
) -> Audit:
    """Compare scorers: which are one criterion, and how far apart the others select.

    Survivors are those of :func:`natsel.select` with its scope "community". What is said of order
    holds for the scope "global" with rank normalisation, too.

    Args:
        communities: from :func:`natsel.discover`.
        scorers: two or more: registered names, or functions of ``Parts``; or a mapping from names
            to these, or to scores that are there already, ``{community: tensor [size]}``.
        sparsities: where to compare survivors: in (0, 1), ascending, each once.
        data: as :func:`natsel.score` takes it, for scorers that read some.
        criterion: the loss, as :func:`natsel.score` takes it.
        include: patterns of the communities to compare; None for all.
        exclude: patterns of communities to leave out.
        progress: called between scorers.

    Returns:
        Equivalence classes, overlaps and correlations; print it for the outcome in words.

    Raises:
        ValueError: if there are fewer than two scorers, two have one name, one is unknown or gives
            a wrong shape, data is missing, or a sparsity is not allowed or cannot be met.
        NonFiniteError: if a score is NaN or infinite.

    Example:
        >>> import natsel
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 20), torch.nn.ReLU(), torch.nn.Linear(20, 2))
        >>> communities = natsel.discover(model, torch.ones(1, 4))
        >>> found = natsel.audit(communities, ["l2", "l1", "log-l2"], [0.5])
        >>> found.classes
        (('l2', 'log-l2'), ('l1',))
        >>> found.overall.at[0].agreement[0]
        [1.0, 0.7, 1.0]

    Source: the lemma of rank-monotone equivalence in Li & Li, arXiv 2605.09345.
    """
    asked = check_sparsities(sparsities)
    named = _named(scorers)
    names = chosen(communities, include, exclude)
    batches = reread(data)
    scored: dict[str, Mapping[str, Tensor]] = {}
    for number, (name, scorer) in enumerate(named.items()):
        progress(f"audit: score by {name}", number, len(named))
        if isinstance(scorer, Mapping):
            scored[name] = _given(name, scorer, communities, names)
        else:
            all_scores = score(communities, scorer, data=batches, criterion=criterion)
            scored[name] = {n: all_scores[n] for n in names if n in all_scores}
    # What one scorer tells nothing of cannot be compared, and has been said.
    told = [n for n in names if all(n in found for found in scored.values())]
    scored = {name: {n: found[n] for n in told} for name, found in scored.items()}
    progress("audit: compare", len(named), len(named))
    return compared(scored, asked, communities)


def _named(
    scorers: Sequence[Scorer] | Mapping[str, Scorer | Mapping[str, Tensor]],
) -> dict[str, Any]:
    """Return scorers by name; names of the table are looked up here, before any work."""
    if not isinstance(scorers, list | tuple | Mapping):
        refuse("scorers", scorers, "a list of scorers, or a mapping from names to scorers")
    named: dict[str, Any] = {}
    given = scorers.items() if isinstance(scorers, Mapping) else ((None, s) for s in scorers)
    for name, scorer in given:
        found = scorer if isinstance(scorer, Mapping) else get(scorer)
        if name is None and not isinstance(found, Mapping):
            name = str(scorer) if names_own(scorer) else found.name
        if not isinstance(name, str):
            refuse("scorers", name, "a name for each: give a mapping from names to scores")
        if name in named:
            refuse("scorers", name, "each name once; a mapping gives a scorer another name")
        named[name] = found if isinstance(found, Mapping) else found._replace(name=name)
    if len(named) < 2:
        refuse("scorers", list(named), "at least two scorers")
    return named


def _given(
    scorer: str, scores: Mapping[str, Tensor], communities: Communities, names: list[str]
) -> dict[str, Tensor]:
    """Return scores that the user made, once they fit the communities."""
    found = {}
    for name in names:
        value = scores.get(name)
        size = communities[name].size
        if not isinstance(value, Tensor) or value.shape != (size,):
            told = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            refuse(f"scorers[{scorer!r}][{name!r}]", told, f"a tensor of shape [{size}]")
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"scorer {scorer!r} gave NaN or infinity in {name!r}")
        found[name] = value.detach().cpu()
    return found
