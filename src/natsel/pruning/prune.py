"""Prune a model in memory: score, select, extract, verify, compensate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from natsel.adaptive.adaptive import STATISTIC, Adapted, adapt
from natsel.common.batches import Data, is_causal, reread
from natsel.common.calls import as_inputs, cross_entropy
from natsel.common.errors import refuse, refuse_together
from natsel.common.memory import give_back
from natsel.common.patterns import Patterns
from natsel.common.progress import Progress, silent
from natsel.common.texts import LENGTH, SAMPLES
from natsel.common.wrappers import unwrapped
from natsel.communities import Communities, discover
from natsel.communities.gates.gates import folded
from natsel.extraction import compensation_of, plan_of, preview
from natsel.extraction.biases import with_biases
from natsel.extraction.decide import Later
from natsel.extraction.extract import extracted
from natsel.extraction.verify import communities_of, compare_removal
from natsel.features import FeatureClass, fuse, matrices
from natsel.features.scorers import ADAPTIVE, default_scorer, find_scorer, reads_data
from natsel.fitness import BranchScorer, ExpertScorer, Fitness, Parts, score
from natsel.fitness.depth.kinds import check_kinds
from natsel.fitness.score import Criterion
from natsel.pruning.pruned import Change, Pruned
from natsel.pruning.texts import check_apart, reading
from natsel.pruning.ways import check_depth, way_of, with_branches
from natsel.quality import advice, losses, measure_for, quality_of
from natsel.selection.normalize import Normalization
from natsel.selection.select import select
from natsel.selection.sequence import Scope
from natsel.selection.survivors import Survivors

STEPS = ("score", "select", "extract and verify", "compensate")
Scorer = str | Fitness | Callable[[Parts], Tensor]


def prune(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
    budget: Any,
    *,
    scorer: Scorer | Mapping[str, Scorer] | None = None,
    data: Data | None = None,
    held_out: Data | None = None,
    tokenizer: Any = None,
    length: int = LENGTH,
    samples: int | None = SAMPLES,
    validation: Data | None = None,
    compensate: bool = True,
    bias: bool = False,
    criterion: Criterion = cross_entropy,
    scope: Scope = "community",
    normalize: Normalization = "rank",
    floor: int | Mapping[str, int] = 1,
    multiple_of: int | Literal["auto"] = 1,
    uniform: bool = False,
    include: Patterns = None,
    exclude: Patterns = None,
    residual: bool = False,
    branches: bool | Literal["blocks"] = False,
    dims: bool = False,
    query_heads: bool = False,
    expert_groups: bool = False,
    verify: bool = True,
    measure: bool = False,
    generator: torch.Generator | None = None,
    progress: Progress = silent,
) -> Pruned:
    """Return a smaller model that meets a budget, with what it is and what it cost.

    The same as ``natsel prune``, for a model in memory: find its communities, score their
    populations, let the least fit go until the budget is met, build the small model, compare it
    with the masked one, and let the survivors take over what the others did. The given model is
    not changed; no file is read or written.

    Args:
        model: any module that :func:`natsel.discover` takes.
        example_inputs: what it runs on, as :func:`natsel.discover` takes it.
        budget: ``natsel.Sparsity(0.7)`` removes 70 % of the populations, ``natsel.MACs(0.7)``
            keeps 70 % of the multiply-accumulates; anything that :func:`natsel.select` takes.
        scorer: a registered fitness, a function of ``Parts``, a feature class of the magnitude's
            rank, ``module:name`` of one, or "adaptive", which chooses among them by proof
            (:func:`natsel.adapt`); or a mapping from kinds to such, where other kinds stay whole.
            By default "auto" for a causal language model with data, else "magnitude"; branches,
            unless it scores them, by "loss".
        data: batches as :func:`natsel.score` takes them: for scorers that read some, and for
            compensation. None for a scorer that reads none; then nothing is compensated. With a
            tokenizer also texts: a list of strings, or a path or a name as ``--data`` takes it.
        held_out: other data of the same kind, with labels, on which the dense and the small model
            are compared (``quality``); None to measure nothing. What overlaps ``data`` is refused.
        tokenizer: of the model, for texts; it is kept with the result.
        length: tokens in a window of a text.
        samples: how many windows of each text, spread evenly over it; None for all.
        validation: of "adaptive": the search split, batches of one shape; ``data`` by default.
        compensate: let the survivors take over what the others did, if there are data.
        bias: put biases of zero where a model of the transformers library has none and its
            configuration can say them (``mlp_bias`` of Llama), for compensation to fill: shares of
            a budget are of the model with them.
        criterion: the loss of scorers that read gradients.
        scope: see :func:`natsel.select`, as for the following.
        normalize: how scores become comparable across communities.
        floor: how many populations of each community survive at least.
        multiple_of: what kept counts are multiples of; or "auto", which measures.
        uniform: the same count in every layer, so that a plain configuration can say it.
        include: patterns of the names that take part.
        exclude: patterns of the names that stay whole.
        residual: also offer widths that a normalisation runs over.
        branches: also offer branches of residual streams, or with "blocks" whole blocks; needs
            data. See :func:`natsel.discover`.
        dims: offer dimensions inside heads instead of heads.
        query_heads: offer query heads instead of whole groups that share keys and values.
        expert_groups: offer groups of experts, where routers choose these first.
        verify: compare the small model with the masked one.
        measure: time both models.
        generator: of "adaptive": shuffles the split and drives its searches; seed 0 by default.
        progress: called between the parts.

    Returns:
        The small model with its survivors, verification and costs; ``summary()`` is a text.

    Raises:
        ValueError: if an argument is not allowed, nothing in the model can be removed, data are
            missing, or the budget cannot be met.
        VerificationError: if the small model differs from the masked one.

    Example:
        >>> import natsel
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> pruned = natsel.prune(model, torch.ones(1, 4), natsel.Sparsity(0.75))
        >>> pruned.small
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
          (1): ReLU()
          (2): Linear(in_features=2, out_features=3, bias=True)
        )
        >>> print(pruned.cost)
        parameters 67 -> 19 (28.4%); MACs 56 -> 14 (25.0%)
        >>> print(pruned.summary().splitlines()[-1])
        not compensated: there are no data (data=)
    """
    inputs = as_inputs(example_inputs)
    read, kept = (
        reading(
            *(model, given, tokenizer),
            argument=name,
            held_out=name == "held_out",
            length=length,
            samples=samples,
        )
        for name, given in (("data", data), ("held_out", held_out))
    )
    check_apart(read, kept)
    batches = None if read is None else read.batches
    search = reread(validation, "validation")
    if scorer is None:
        scorer = default_scorer(language=is_causal(model) is True, has_data=batches is not None)
    check_depth(scorer, branches, has_data=batches is not None)
    for each in scorer.values() if isinstance(scorer, Mapping) else (scorer,):
        _check_scorer(each, batches is not None or search is not None)
    _check_together(scorer, search, generator, scope, normalize, uniform)
    if bias and (batches is None or not compensate):
        given = {
            "bias": True,
            "data": None if batches is None else "given",
            "compensate": compensate,
        }
        refuse_together(given, "bias with data and compensation, which fills it")
    progress("prune: find communities", 0, len(STEPS) + 1)
    communities = discover(
        with_biases(model)[0] if bias else model,
        inputs,
        residual=residual,
        branches=branches,
        dims=dims,
        query_heads=query_heads,
        expert_groups=expert_groups,
    )
    communities.require("model", type(model).__name__)
    before = losses(model, kept.batches) if kept is not None else None
    pruned = carry_out(
        communities,
        budget,
        scorer=scorer,
        data=batches,
        validation=search,
        compensate=compensate,
        criterion=criterion,
        scope=scope,
        normalize=normalize,
        verify=verify,
        measure=measure,
        generator=generator,
        progress=lambda what, done, total: progress(f"prune: {what}", done + 1, total + 1),
        options={
            "floor": floor,
            "multiple_of": multiple_of,
            "uniform": uniform,
            "include": include,
            "exclude": exclude,
        },
    )
    if kept is None or before is None:
        return replace(pruned, tokenizer=tokenizer)
    measure_by = measure_for(model, kept.batches)
    after = losses(pruned.small, kept.batches)
    quality = quality_of(after, before, measure=measure_by)
    data_aware = not isinstance(scorer, str) or reads_data(scorer)
    compensated = pruned.compensation is not None
    if told := advice(quality, data_aware=data_aware, compensated=compensated):
        warnings.warn(told, stacklevel=2)
    return replace(pruned, quality=quality, tokenizer=tokenizer)


def carry_out(
    communities: Communities,
    budget: Any,
    *,
    scorer: Scorer | Mapping[str, Scorer],
    data: Data | None,
    validation: Data | None = None,
    compensate: bool = True,
    criterion: Criterion = cross_entropy,
    scope: Scope = "community",
    normalize: Normalization = "rank",
    verify: bool = True,
    measure: bool = False,
    generator: torch.Generator | None = None,
    progress: Progress = silent,
    decide: Callable[[], Survivors] | None = None,
    scored: Callable[[Any], Mapping[str, Tensor]] | None = None,
    share: bool = False,
    options: Mapping[str, Any],
) -> Pruned:
    """Prune a model whose communities are known; see :func:`prune` for what is not told here.

    Args:
        communities: at least one.
        budget: what must be reached.
        scorer: what decides.
        data: can be read more than once.
        validation: the same, of the search split.
        compensate: whether survivors take over.
        criterion: the loss.
        scope: of the selection.
        normalize: of the selection.
        verify: whether to compare.
        measure: whether to time.
        generator: of "adaptive".
        progress: called with the names of ``STEPS``.
        decide: says who survives, in place of a scorer.
        scored: scores by a scorer, in place of :func:`scores_by`.
        share: let the small model hold the very parameters of modules that lose nothing.
        options: more of :func:`natsel.select`.

    Returns:
        What came of it.
    """
    absorbs = compensate and data is not None
    total = len(STEPS) - (not absorbs)

    def step(number: int) -> None:
        progress(STEPS[number], number, total)

    step(0)
    adapted: Adapted | None = None
    options = dict(options)
    if decide is not None:
        survivors = decide()
        step(1)
    elif scorer == ADAPTIVE:
        rounding = None
        if options["multiple_of"] == "auto":
            # Measured once, on a selection that costs nothing, and the same for every contender.
            first = select(score(communities, STATISTIC), budget, **options)
            rounding = first.rounding
            assert rounding is not None
            options["multiple_of"] = rounding.multiple
        adapted = adapt(
            communities,
            budget,
            data=data if validation is None else validation,
            calibration=None if validation is None else data,
            generator=generator if generator is not None else torch.Generator().manual_seed(0),
            **options,
        )
        survivors = adapted.survivors
        survivors.rounding = rounding
    else:
        scorer = with_branches(scorer, communities)
        if scored is not None:
            scores = scored(scorer)
        else:
            scores = scores_by(communities, scorer, data, criterion)
        give_back()
        step(1)
        scope, normalize = way_of(scorer, budget, scope, normalize)
        survivors = select(
            scores, budget, communities=communities, scope=scope, normalize=normalize, **options
        )
    model, inputs = communities.model, communities.example_inputs
    prediction = preview(model, survivors, measure=measure)
    step(2)
    checked, known = communities_of(survivors, communities)
    cut = partial(extracted, model, checked, known, share=share)
    verification = None
    if verify:
        # One of two copies need be there at a time: the small one is made again.
        base = folded(unwrapped(model))
        verification = compare_removal(base, Later(cut), checked, known, inputs).require()
        give_back()
    if absorbs:
        step(3)
    small = cut(batches=data if absorbs else None)
    return Pruned(
        small=small,
        survivors=survivors,
        plan=plan_of(small),
        verification=verification,
        compensation=compensation_of(small),
        cost=Change(prediction.dense, prediction.small),
        budget=budget,
        prediction=prediction,
        adapted=adapted,
        no_compensation=""
        if absorbs
        else ("there are no data (data=)" if compensate else "compensate=False"),
    )


def scores_by(
    communities: Communities,
    scorer: Scorer | Mapping[str, Scorer],
    data: Data | None,
    criterion: Criterion,
    group: Any = None,
) -> Mapping[str, Tensor]:
    """Score by a fitness, by features of the magnitude's rank, or each kind by its own."""
    if isinstance(scorer, Mapping):
        scores: dict[str, Tensor] = {}
        for kind, own in check_kinds(communities, scorer).items():
            scores |= scores_by(communities.only(kind), own, data, criterion, group)
        return scores
    found = find_scorer(scorer) if isinstance(scorer, str) else scorer
    if isinstance(found, FeatureClass):
        return fuse(matrices(score(communities, STATISTIC), found.features))
    return score(communities, scorer, data=data, criterion=criterion, group=group)


def _check_scorer(scorer: object, has_data: bool) -> None:
    """Make sure that a scorer is one, and has the data that it reads."""
    if isinstance(scorer, str):
        reads = reads_data(scorer)
    else:
        reads = isinstance(scorer, BranchScorer | ExpertScorer) or (
            isinstance(scorer, Fitness) and (scorer.needs_gradient or scorer.statistic is not None)
        )
    if reads and not has_data:
        name = scorer.name if isinstance(scorer, Fitness | BranchScorer | ExpertScorer) else scorer
        refuse("data", None, f"batches of data: the scorer {name!r} reads some")


def _check_together(
    scorer: object,
    validation: object,
    generator: object,
    scope: object,
    normalize: object,
    uniform: bool,
) -> None:
    """Refuse options that say nothing beside the scorer."""
    ways: dict[str, tuple[object, object]] = {
        "scope": (scope, "community"),
        "normalize": (normalize, "rank"),
        "uniform": (uniform, False),
    }
    others = {name: value for name, (value, usual) in ways.items() if value != usual}
    if scorer == ADAPTIVE and others:
        given = {"scorer": scorer, **others}
        refuse_together(given, f"{ADAPTIVE} alone: it chooses scope, scale and widths by proof")
    own = {"validation": validation is not None, "generator": generator is not None}
    if scorer != ADAPTIVE and any(own.values()):
        given = {"scorer": scorer, **{name: "given" for name, there in own.items() if there}}
        refuse_together(given, f"scorer={ADAPTIVE!r}: no other one reads them")
