"""One number per population, after training: a fitness as a scorer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor

from natsel.common.alike import warn_alike
from natsel.common.batches import Data, check_data, read_batch, reread
from natsel.common.calls import cross_entropy
from natsel.common.errors import NonFiniteError, refuse
from natsel.common.finite import of_weights
from natsel.common.sharding.batches import everybodys
from natsel.common.sharding.reducing import any_of, check_group, device_of
from natsel.common.sharding.wrapping import spread_of
from natsel.communities import Communities
from natsel.communities.gates.gates import masses_of
from natsel.fitness.auto import AUTO, SIZES, combined, of_branches, signals_for
from natsel.fitness.backward import Criterion
from natsel.fitness.depth.kinds import apart, check_kinds, spoken_of
from natsel.fitness.depth.registry import BranchScorer
from natsel.fitness.experts.registry import ExpertScorer
from natsel.fitness.parts import PartsReader, watchable
from natsel.fitness.passes import Values, by_activation, by_gradient, without_data
from natsel.fitness.registry import Fitness, Parts, get

__all__ = ["Criterion", "Scorer", "Scores", "score", "score_all"]

Scorer = str | Fitness | Callable[[Parts], Tensor]


class Scores(dict[str, Tensor]):
    """Scores per community, with the communities that they belong to."""

    def __init__(self, values: dict[str, Tensor], communities: Communities) -> None:
        super().__init__(values)
        self.communities = communities


def score(
    communities: Communities,
    scorer: Scorer | Mapping[str, Scorer],
    *,
    data: Data | None = None,
    criterion: Criterion = cross_entropy,
    group: Any = None,
) -> Scores:
    """Give each population one number: higher is fitter.

    The model runs in evaluation mode and is not changed; its ``.grad`` fields stay as they are.
    Signals that need data are averaged over the batches.

    Args:
        communities: from :func:`natsel.discover`.
        scorer: a registered fitness, or a function from ``Parts`` to ``[size]``; or "auto":
            the signal that is best for each kind of population, in units of loss per parameter
            (:mod:`natsel.fitness.auto`); or a mapping from kinds to such, where what is of no kind
            in it is not scored, and stays whole. Branches are scored by "cosine",
            "relative-norm", "loss", or signals of m dL/dm such as "taylor"; experts also by
            "reap", "frequency" and "output-norm", which say nothing of others.
        data: yields ``(inputs, labels)``, or ``(inputs,)`` for scorers without gradients; or
            mappings from names, with ``labels`` among them, as loaders of the transformers library
            yield them. Labels of causal language models are moved by one place (see
            :mod:`natsel.common.batches` for when); those that are -100 do not count, nor, in
            activations, places where ``attention_mask`` is 0.
        criterion: from what the model returned and labels to the loss, where each label stands
            beside the output that predicts it; by default cross-entropy of the logits in it.
        group: processes that hold the same model and samples of their own each: "default" for all
            of ``torch.distributed``, or a process group. Each of them gets the scores over the
            samples of all. None reads those of this process alone; of a model under ``fully_shard``
            those of all that hold its shares, who have to call this together.

    Returns:
        ``{community: float tensor [size]}``. A scorer that watches activations leaves out a
        community that nothing reads where it can be watched (an ``nn.MultiheadAttention``, a
        grouped convolution, a bare parameter), with a warning: a selection leaves it whole.

    Raises:
        ValueError: if the scorer is unknown or needs data that is missing.
        NonFiniteError: if a score is NaN or infinite; the community is named.

    Example:
        >>> import natsel
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))
        >>> with torch.no_grad():
        ...     _ = model[0].weight.copy_(torch.tensor([[3., 4.], [0., 1.], [0., 0.]]))
        >>> communities = natsel.discover(model, (torch.ones(1, 2),))
        >>> natsel.score(communities, "magnitude-in")["0"]
        tensor([5., 1., 0.])
    """
    group = _over(communities, group)
    if isinstance(scorer, Mapping):
        return _each_kind(communities, scorer, data, criterion, group)
    if scorer == AUTO:
        return _by_kind(communities, data, criterion, group)
    return _scored(communities, [scorer], data, criterion, group, stacklevel=3)[0]


def score_all(
    communities: Communities,
    scorers: Sequence[Scorer],
    *,
    data: Data | None = None,
    criterion: Criterion = cross_entropy,
    group: Any = None,
) -> dict[str, Scores]:
    """Give each population one number per scorer, in as few passes over the data as can be.

    All scorers that read gradients share one forward and backward pass, all that read activations
    one forward pass. The numbers are those of :func:`score`, bit for bit.

    Args:
        communities: from :func:`natsel.discover`.
        scorers: as :func:`score` takes them, each with a name of its own.
        data: as :func:`score` takes it; what can be read only once is held in memory.
        criterion: as :func:`score` takes it.
        group: as :func:`score` takes it.

    Returns:
        Scores by the scorers' names.

    Raises:
        ValueError: as of :func:`score`, or if two scorers have one name.
        NonFiniteError: if a score is NaN or infinite; scorer and community are named.

    Example:
        >>> import natsel
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))
        >>> communities = natsel.discover(model, (torch.ones(1, 2),))
        >>> list(natsel.score_all(communities, ["magnitude", "l1"]))
        ['magnitude', 'l1']
    """
    if isinstance(scorers, str) or not isinstance(scorers, Sequence) or not scorers:
        refuse("scorers", scorers, "a list of scorers")
    names = [scorer if isinstance(scorer, str) else get(scorer).name for scorer in scorers]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        refuse("scorers", f"{twice[0]!r} twice", "each name once")
    group = _over(communities, group)
    found = _scored(communities, scorers, data, criterion, group, stacklevel=3)
    return dict(zip(names, found, strict=True))


def _over(communities: Communities, group: Any) -> Any:
    """Return the processes whose samples are read: of a model that is spread never one alone."""
    check_group(group)
    if group is not None or not isinstance(communities, Communities):
        return group
    spread = spread_of(communities.model)
    return None if spread is None else spread.everybody()


def _by_kind(
    communities: Communities, data: Data | None, criterion: Criterion, group: Any
) -> Scores:
    """Score each kind by its own signal."""
    if not isinstance(communities, Communities):
        refuse("communities", communities, "what natsel.discover(model, example_inputs) returns")
    communities.require()
    if data is None:
        refuse("data", None, f"batches of (inputs, labels): scorer {AUTO!r} reads them")
    data = reread(data)
    labelled = all(read_batch(batch).labels is not None for batch in data)
    labelled = not any_of(not labelled, group, device_of(group))
    streams, others = apart(communities)
    scores: dict[str, Tensor] = {}
    if streams is not None:
        (values,) = _scored(streams, ["loss"], data, criterion, group, stacklevel=5)
        scaled = all(b.scale for c in streams.values() for b in c.branches)
        sizes = None
        if scaled:
            (sizes,) = _scored(streams, [SIZES], data, criterion, group, stacklevel=5)
        scores |= of_branches(streams, values, sizes)
    if others is not None:
        scores |= _by_signals_of_kinds(others, data, criterion, group, labelled=labelled)
    return Scores({name: scores[name] for name in communities if name in scores}, communities)


def _each_kind(
    communities: Communities,
    scorers: Mapping[str, Scorer],
    data: Data | None,
    criterion: Criterion,
    group: Any,
) -> Scores:
    """Score each kind by a scorer of its own."""
    if not isinstance(communities, Communities):
        refuse("communities", communities, "what natsel.discover(model, example_inputs) returns")
    data = reread(data) if data is not None else None
    scores: dict[str, Tensor] = {}
    for kind, scorer in check_kinds(communities.require(), scorers).items():
        scores |= score(communities.only(kind), scorer, data=data, criterion=criterion, group=group)
    return Scores({name: scores[name] for name in communities if name in scores}, communities)


def _by_signals_of_kinds(
    communities: Communities, data: Data, criterion: Criterion, group: Any, *, labelled: bool
) -> dict[str, Tensor]:
    names = signals_for(communities)
    found: dict[str, Scores] = {}
    for gradients in (True, False):
        together = [n for n in names if get(n).needs_gradient is gradients]
        if not together or (gradients and not labelled):
            continue
        # Some consumers cannot be watched: then the loss orders their populations, too.
        with suppress(ValueError) if found else nullcontext():
            scores = _scored(communities, together, data, criterion, group, stacklevel=5)
            found |= zip(together, scores, strict=True)
    return combined(communities, found)


def _scored(
    communities: Communities,
    scorers: Sequence[Scorer],
    data: Data | None,
    criterion: Criterion,
    group: Any,
    stacklevel: int,
) -> list[Scores]:
    if not isinstance(communities, Communities):
        refuse("communities", communities, "what natsel.discover(model, example_inputs) returns")
    communities.require()
    asked = []
    for scorer in scorers:
        asked.append(spoken_of(communities, scorer, stacklevel=stacklevel + 1))
    names = {tuple(some) for _, some in asked}
    if len(names) > 1 or any(not isinstance(signal, Fitness) for signal, _ in asked):
        data = reread(data) if data is not None else None
    found: dict[int, Scores] = {}
    for together in names:
        mine = [i for i, (_, some) in enumerate(asked) if tuple(some) == together]
        known = asked[mine[0]][1]
        signals = [(i, f) for i in mine if isinstance(f := asked[i][0], Fitness)]
        values = []
        if signals:
            values = _by_signals(known, [f for _, f in signals], data, criterion, group)
        found |= {i: v for (i, _), v in zip(signals, values, strict=True)}
        for i in mine:
            if not isinstance(scorer_of_kind := asked[i][0], Fitness):
                found[i] = _of_one_kind(known, scorer_of_kind, everybodys(data, group), criterion)
    results = []
    for i, (signal, _) in enumerate(asked):
        results.append(Scores(found[i], communities))
        warn_alike(results[-1], what=f"scores by {signal.name!r}", stacklevel=stacklevel)
    return results


def _of_one_kind(
    communities: Communities,
    scorer: BranchScorer | ExpertScorer,
    data: Data | None,
    criterion: Criterion,
) -> Scores:
    if data is None or check_data(data) is None:
        refuse("data", None, f"batches of (inputs, labels): scorer {scorer.name!r} reads them")
    if isinstance(scorer, ExpertScorer):
        values = scorer.score(communities, data)
    else:
        values = scorer.score(communities, data, criterion)
    return _checked(communities, communities, scorer.name, [values[name] for name in communities])


def _by_signals(
    communities: Communities,
    fitnesses: Sequence[Fitness],
    data: Data | None,
    criterion: Criterion,
    group: Any,
) -> list[Scores]:
    whole = communities
    data = check_data(data)
    reading = [f for f in fitnesses if f.needs_gradient or f.statistic is not None]
    if reading and data is None:
        name = reading[0].name
        refuse("data", None, f"batches of (inputs, labels): scorer {name!r} reads them")
    by_weight = [f for f in fitnesses if f not in reading]
    with_gradient = [f for f in reading if f.needs_gradient]
    with_activation = [f for f in reading if not f.needs_gradient]
    if with_gradient and with_activation:
        data = reread(data)
    found: dict[int, Scores] = {}

    def take(asked: Sequence[Fitness], told: Communities, values: Sequence[Values]) -> None:
        for fitness, each in zip(asked, values, strict=True):
            found[id(fitness)] = _checked(told, whole, fitness.name, each)

    if by_weight or with_gradient:
        reader, masses = PartsReader(whole), list(masses_of(whole).values())
        if by_weight:
            take(by_weight, whole, without_data(by_weight, reader, masses))
        if with_gradient and data is not None:
            take(
                with_gradient,
                whole,
                by_gradient(whole, with_gradient, reader, masses, data, criterion, group),
            )
    if with_activation and data is not None:
        told = watchable(whole, asked=f"scorer={with_activation[0].name!r}")
        reader, masses = PartsReader(told), list(masses_of(told).values())
        take(
            with_activation, told, by_activation(told, with_activation, reader, masses, data, group)
        )
    return [found[id(fitness)] for fitness in fitnesses]


def _checked(told: Communities, whole: Communities, scorer: str, values: Values) -> Scores:
    """Return what a signal said, made sure that it is one finite number per population."""
    scores = {}
    for (name, community), value in zip(told.items(), values, strict=True):
        if not isinstance(value, Tensor) or value.shape != (community.size,):
            refuse("scorer", scorer, f"a function that returns shape [{community.size}]")
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(
                f"scorer {scorer!r} gave NaN or infinity in {name!r}{of_weights(whole.model)}"
            )
        scores[name] = value.detach().float().cpu()
    return Scores(scores, whole)
