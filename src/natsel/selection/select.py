"""Scores and a budget give survivors: the asked count, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor

from natsel.common.alike import warn_alike
from natsel.common.deprecation import renamed
from natsel.common.errors import NonFiniteError, choose, did_you_mean, refuse, refuse_together
from natsel.common.patterns import Patterns, assigned, chosen
from natsel.communities import Communities
from natsel.selection.budget import CostBudget, Sparsity
from natsel.selection.counts import bounds_of
from natsel.selection.meeting import survive
from natsel.selection.multiples import AUTO, measured
from natsel.selection.normalize import Normalization
from natsel.selection.sequence import Scope
from natsel.selection.structure import NM, Blocks
from natsel.selection.survivors import Survivors
from natsel.selection.uniform import layers_apart
from natsel.selection.unstructured import select_weights
from natsel.selection.weight_patterns import by_patterns
from natsel.single_weights.streaming.source import identity
from natsel.single_weights.weights import Weights

SCOPES = ("community", "global")
NORMALIZATIONS = ("rank", "mean")
MANY = 1 << 20
"""Scores from which on they are streamed where nothing needs their order."""
Budget = Sparsity | CostBudget


def select(
    scores: Mapping[str, Tensor] | Weights,
    budget: Budget | NM | Blocks | Mapping[str, Sparsity] | Mapping[str, Sparsity | NM | Blocks],
    *,
    communities: Communities | None = None,
    scope: Scope | Literal["row"] = "community",
    normalize: Normalization = "rank",
    floor: int | Mapping[str, int] = 1,
    multiple_of: int | Literal["auto"] = 1,
    uniform: bool = False,
    include: Patterns = None,
    exclude: Patterns = None,
    ties: Mapping[str, Tensor] | None = None,
    packed: bool = False,
    zero: bool = False,
) -> Survivors:
    """Remove the least fit, no more than the budget asks.

    A sparsity removes exactly its share of the populations that take part. Parameters,
    multiply-accumulates and latency are those of the whole small model: populations go one after
    the other until the budget is met, so that one less would not meet it (latency: see
    :class:`natsel.Latency`). With the scope "global" the least fit of all go first; with
    "community" each community loses the same share, the smallest that meets the budget, and the
    last populations go community by community.

    Equal scores are decided by ``ties`` (a fitness, say) and then by index, so that a saturated
    score removes neither nothing nor everything. No community falls below its floor, nor below what
    its model needs (one population, or as many experts as a router chooses).

    With ``multiple_of``, a community that loses anything keeps a multiple of that number, never 0;
    heads and experts are not rounded. What the order leaves is rounded to the nearest such count,
    halves down, and populations go until the rounded selection meets the budget. A sparsity by
    community is rounded down in each, so that at least the share goes; where not even one multiple
    fits, the community stays whole. "auto" measures on this device, at the batch of the
    communities' example inputs, how long a pass takes with as many survivors in widths that are
    multiples of 1, 4, 8, 16 and 32, and takes the smallest multiple within 3 % of the best.

    With ``uniform``, layers keep one width: communities whose names differ in numbers alone, of one
    kind and one size, keep equal counts, and lose one population each at the same time. The budget
    is met, and one more in each community of the last group (or one multiple
    more) would not meet it; floors hold in all. What takes no part, or is under another pattern of
    the budget, is not tied.

    Of :class:`natsel.Weights` each weight is a population: they are streamed, without a copy, and
    the share goes within each tensor or, with ``scope="global", normalize=None``, of all weights
    together. With ``scope="row"`` it goes within each output: equally many of each row of a matrix,
    of each output channel of a convolution. Equal weights are decided by index.
    :class:`natsel.NM` keeps N of each M, :class:`natsel.Blocks` whole blocks.

    Args:
        scores: one tensor per community, any shape; higher is fitter.
        budget: what must be reached, also a cost of your own (see
            :class:`natsel.selection.CostBudget`); or a sparsity for each pattern of community
            names, which must not overlap: what none matches stays whole, and the scope holds
            within each pattern.
        communities: what the scores belong to; taken from ``scores`` where they know it. A budget
            of parameters, multiply-accumulates or latency needs them.
        scope: "community" removes the share in each, "global" ranks all populations together;
            "row", for weights, removes it in each output.
        normalize: how scores become comparable across communities ("global" only): "rank",
            "mean" or None. None compares raw scores, which may empty a community to its floor.
        floor: how many populations of each community survive at least; or by patterns of names,
            where communities that none matches keep 1.
        multiple_of: what the kept counts are multiples of, 8 say; or "auto", which measures: see
            ``rounding`` of the survivors for what was chosen and why.
        uniform: the same count in every layer: what the plain configuration of a language model
            can say.
        include: patterns of the names that take part (``*``, ``?``, ``[...]``); the others stay
            whole.
        exclude: patterns of the names that stay whole.
        ties: a second score per community that decides among equals.
        packed: of weights: masks of one bit each instead of one byte.
        zero: deprecated: :func:`natsel.zero_` sets the weights that go to zero.

    Returns:
        The survivors.

    Raises:
        ValueError: if a name, shape or option is wrong, a pattern matches nothing, or the budget
            cannot be met; the message says what can.
        NonFiniteError: if a score is NaN or infinite.

    Example:
        >>> select({"a": torch.tensor([0.3, 0.1, 0.2])}, Sparsity(0.34))["a"]
        tensor([ True, False,  True])
        >>> select({"a": torch.arange(20.0)}, Sparsity(0.34), multiple_of=8)
        Survivors(a: 8/20)
        >>> select({"a": torch.ones(4), "b": torch.ones(4)}, {"b": Sparsity(0.5)})
        Survivors(a: 4/4, b: 2/4)
        >>> scores = {"layers.0": torch.arange(4.0), "layers.1": torch.arange(4.0) + 10}
        >>> select(scores, Sparsity(0.5), scope="global", normalize=None)
        Survivors(layers.0: 1/4, layers.1: 3/4)
        >>> select(scores, Sparsity(0.5), scope="global", normalize=None, uniform=True)
        Survivors(layers.0: 2/4, layers.1: 2/4)
    """
    scopes = ("community", "row", "global") if isinstance(scores, Weights) else SCOPES
    choose("scope", scope, scopes)
    if not isinstance(uniform, bool):
        refuse("uniform", uniform, "True or False")
    if zero:
        renamed("select(..., zero=True)", "natsel.zero_(weights, survivors)")
    if isinstance(scores, Weights):
        options = {
            "communities": communities,
            "multiple_of": multiple_of if multiple_of != 1 else None,
            "uniform": uniform or None,
            "include": include,
            "exclude": exclude,
            "ties": ties,
        }
        return _of_weights(scores, budget, scope, normalize, floor, packed, zero, options)
    assert scope != "row"
    if given := {name: on for name, on in (("packed", packed), ("zero", zero)) if on}:
        refuse_together(given, "False, or natsel.Weights in place of scores")
    if isinstance(budget, NM | Blocks):
        refuse("budget", budget, "a share or a cost; patterns of weights need natsel.Weights")
    if normalize is not None and normalize not in NORMALIZATIONS:
        hint = did_you_mean(normalize, NORMALIZATIONS)
        refuse("normalize", normalize, f"{', '.join(NORMALIZATIONS)} or None{hint}")
    budgets = _by_pattern(budget)
    if not isinstance(scores, Mapping):
        refuse("scores", scores, "a mapping from names to tensors, or natsel.Weights")
    known = getattr(scores, "communities", None)
    communities = communities if communities is not None else known
    if not scores:
        if communities is not None:
            communities.require()
        allowed = "a score tensor for at least one community, as natsel.score returns them"
        refuse("scores", "empty", allowed)
    for name, value in scores.items():
        _check_scores(name, value)
    whole = isinstance(floor, int) and floor == 1
    plain = (
        whole
        and multiple_of == 1
        and not uniform
        and (include, exclude, ties) == (None, None, None)
    )
    compared = scope == "community" or normalize is None
    many = sum(value.numel() for value in scores.values()) >= MANY
    if many and plain and compared and communities is None and isinstance(budget, Sparsity):
        # What cannot be streamed is refused below, or has to be sorted.
        with suppress(ValueError):
            found = select_weights(Weights(scores, scorer=identity), budget, scope=scope)
            return Survivors(found)
    flat = {name: _flat(name, value) for name, value in scores.items()}
    if communities is not None:
        for name, values in flat.items():
            if name not in communities or communities[name].size != values.numel():
                choose("scores", name, communities)
                told = f"{values.numel()} scores for {name!r}"
                refuse("scores", told, f"{communities[name].size}, one for each population")
    if isinstance(multiple_of, str):
        if multiple_of != AUTO:
            hint = did_you_mean(multiple_of, [AUTO])
            refuse("multiple_of", multiple_of, f"a whole number >= 1, or 'auto'{hint}")
        if communities is None:
            refuse("multiple_of", AUTO, "a whole number where communities= is not given")
        again = partial(
            select,
            scores,
            budget,
            communities=communities,
            scope=scope,
            normalize=normalize,
            floor=floor,
            uniform=uniform,
            include=include,
            exclude=exclude,
            ties=ties,
        )
        rounding = measured(communities, again(multiple_of=1))
        return Survivors(again(multiple_of=rounding.multiple), communities, rounding)
    _check_ties(ties, flat)
    second = {name: _tie(name, flat[name], ties) for name in flat}
    sizes = {name: value.numel() for name, value in flat.items()}
    bounds = bounds_of(sizes, floor, multiple_of, communities)
    names = chosen(flat, include, exclude)
    masks = {name: torch.ones(size, dtype=torch.bool) for name, size in sizes.items()}
    for wanted, group in _groups(budgets, names):
        masks |= survive(
            {name: flat[name] for name in group},
            second,
            bounds,
            wanted,
            communities,
            scope=scope,
            normalize=normalize,
            groups=layers_apart(sizes, group, communities) if uniform else None,
        )
    if known is None:  # else the scorer has said so
        cut = {name: flat[name] for name in names if not bool(masks[name].all())}
        warn_alike({n: v for n, v in cut.items() if second[n] is None}, stacklevel=3)
    shaped = {name: mask.reshape(scores[name].shape) for name, mask in masks.items()}
    return Survivors(shaped, communities)


def _of_weights(
    weights: Weights,
    budget: object,
    scope: Scope | Literal["row"],
    normalize: Normalization,
    floor: object,
    packed: bool,
    zero: bool,
    options: Mapping[str, object],
) -> Survivors:
    """Select single weights, which knows fewer options."""
    by_pattern = isinstance(budget, Mapping)
    if not by_pattern and not isinstance(budget, Sparsity | NM | Blocks):
        refuse("budget", budget, "natsel.Sparsity, NM or Blocks, for weights")
    if given := {name: value for name, value in options.items() if value is not None}:
        refuse_together(given, "nothing, for weights: natsel.weights chooses who takes part")
    if scope == "global" and normalize is not None:
        allowed = "None: weights are compared as they are, or within each tensor ('community')"
        refuse("normalize", normalize, allowed)
    if not isinstance(floor, int):
        refuse("floor", floor, "0 or 1, for weights")
    if isinstance(budget, Mapping):
        if packed or zero:
            refuse_together({"packed": packed, "zero": zero}, "False, for budgets by pattern")
        return by_patterns(weights, budget, scope=scope, floor=floor)
    assert isinstance(budget, Sparsity | NM | Blocks)
    return select_weights(weights, budget, scope=scope, floor=floor, packed=packed, zero=zero)


def _by_pattern(budget: Any) -> Budget | dict[str, Sparsity]:
    """Return the budget if it is one."""
    if isinstance(budget, Sparsity) or _is_cost(budget):
        return cast(Budget, budget)
    if not isinstance(budget, Mapping):
        allowed = "natsel.Sparsity, Parameters, MACs or Latency, or a mapping from patterns"
        refuse("budget", budget, allowed)
    for pattern, value in budget.items():
        if not isinstance(value, Sparsity):
            refuse(f"budget[{pattern!r}]", value, "natsel.Sparsity(share)")
    return dict(budget)


def _is_cost(budget: object) -> bool:
    """Tell whether a budget is a cost of a model; the class of one is none yet."""
    return isinstance(budget, CostBudget) and not isinstance(budget, type)


def _groups(
    budget: Budget | dict[str, Sparsity], names: list[str]
) -> list[tuple[Budget, list[str]]]:
    """Return each budget with the communities that have to meet it together."""
    if not isinstance(budget, dict):
        return [(budget, names)]
    owner = assigned("budget", budget, names)
    return [
        (value, [name for name in names if name in owner and owner[name][0] == pattern])
        for pattern, value in budget.items()
    ]


def _check_scores(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        refuse(f"scores[{name!r}]", value, "a tensor of scores")
    if value.is_complex():
        refuse(f"scores[{name!r}]", value, "real numbers, such as its .abs()")


def _check_ties(ties: object, names: Mapping[str, Tensor]) -> None:
    if ties is None:
        return
    if not isinstance(ties, Mapping):
        refuse("ties", ties, "a mapping from names to tensors")
    for name, value in ties.items():
        choose("ties", name, names)
        if not isinstance(value, Tensor):
            refuse(f"ties[{name!r}]", value, "a tensor of scores")


def _flat(name: str, value: Tensor) -> Tensor:
    value = value.detach().reshape(-1).cpu()
    if value.numel() == 0:
        refuse(f"scores[{name!r}]", "an empty tensor", "at least one score")
    if not bool(torch.isfinite(value).all()):
        raise NonFiniteError(f"scores[{name!r}] holds NaN or infinity")
    return value.double()


def _tie(name: str, value: Tensor, ties: Mapping[str, Tensor] | None) -> Tensor | None:
    if ties is None or name not in ties:
        return None
    tie = ties[name].detach().reshape(-1).cpu().double()
    if tie.shape != value.shape:
        refuse(f"ties[{name!r}]", tuple(ties[name].shape), f"{value.numel()} numbers")
    if not bool(torch.isfinite(tie).all()):
        raise NonFiniteError(f"ties[{name!r}] holds NaN or infinity")
    return tie
