"""The adaptive pruner: as much complexity as this sparsity of this model is proven to need.

Contenders of every kind select to the budget: the plateau, other magnitudes, scorers that read
data, and features of every complexity. They race on one part of the search split; the winner then
has to beat the plateau on the other part, which no choice was made on, or the plateau stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from natsel.adaptive.arena import Arena, Measure, key_of, rows_of
from natsel.adaptive.race import race
from natsel.adaptive.searching import search_allocation, search_weights
from natsel.common.batches import Data, gathered, reread
from natsel.common.calls import (
    IGNORED,
    LABELLED,
    Inputs,
    call,
    logits_of,
    taken,
    tensors_of_inputs,
)
from natsel.common.errors import refuse, refuse_together, shortened
from natsel.common.logs import logger_of
from natsel.common.modes import evaluating
from natsel.common.paired import PairedSamples, mcnemar, sign_flips
from natsel.communities import Communities
from natsel.features import CLASSES, feature_class, fuse, matrices
from natsel.fitness import FITNESS, score, score_all
from natsel.selection.select import Budget, select
from natsel.selection.survivors import Survivors

_LOG = logger_of(__name__)

STATISTIC = "magnitude-in"
LEVEL = 0.05
DATA_AWARE = ("joint", "contribution", "wanda", "taylor", "variance")
NEED_LABELS = ("taylor",)
WAYS: dict[str, dict[str, Any]] = {
    "community": {"scope": "community"},
    "global": {"scope": "global", "normalize": "mean"},
    "raw": {"scope": "global", "normalize": None},
}
"""How the scores of several communities are compared: not, by their means, or as they are."""
SEARCHED = ("V1", "NL_sin", "A5")
ALLOCATED = 2
"""Of how many scorers, those that raced best, the shares of communities are searched."""
RACING = 0.5
"""The share of the search split that contenders race on; the rest confirms the winner."""
LEAST = {"accuracy": 20, "loss": 10, "agreement": 10}
"""How many samples are needed: five pairs are the fewest that can prove anything at 0.05."""
HUNDRED = 100
"""Samples of a batch for scorers that read data, where one has one label."""
WINDOWS = 64
"""How many samples such scorers read where one has many labels."""
TESTS = {
    "accuracy": "exact McNemar, one-sided",
    "loss": "sign flips of the difference in loss of each sample, one-sided",
    "agreement": "sign flips of the difference in agreement of each sample, one-sided",
}


@dataclass(frozen=True)
class Contender:
    """One way to select.

    Attributes:
        name: what it is called.
        kind: "plateau", "magnitude", "data" or "feature".
        kappa: complexity of its features; None where it is not a function of the rank.
        survivors: what it selects.
        value: mean worth of a sample of the part that contenders race on: accuracy, agreement, or
            minus the loss; of those that stopped early an estimate.
    """

    name: str
    kind: str
    kappa: int | None
    survivors: Survivors
    value: float = float("nan")

    @property
    def accuracy(self) -> float:
        """The value, by the name that it has where a sample has one label."""
        return self.value


@dataclass(frozen=True)
class Adapted:
    """What the adaptive pruner chose, and why.

    Attributes:
        chosen: the contender that selects.
        challenger: the winner of the race, chosen or not.
        test: challenger against plateau on the confirming samples.
        contenders: all of them, best first.
        num_images: samples run, in the race and to confirm.
        sentence: the choice in words.
        measure: what decides: "accuracy", "loss" (of a label, mean over samples) or "agreement".
    """

    chosen: Contender
    challenger: Contender
    test: PairedSamples
    contenders: tuple[Contender, ...]
    num_images: int
    sentence: str
    measure: Measure = "accuracy"

    def __repr__(self) -> str:
        return f"Adapted({self.chosen.name}; {shortened(self.sentence)})"

    @property
    def survivors(self) -> Survivors:
        """The selection that was chosen."""
        return self.chosen.survivors

    def plain(self) -> dict[str, Any]:
        """Return the choice as plain data."""
        sign = -1 if self.measure == "loss" else 1
        return {
            "chosen": self.chosen.name,
            "kind": self.chosen.kind,
            "kappa": self.chosen.kappa,
            "challenger": self.challenger.name,
            "test": {"name": TESTS[self.measure], **self.test._asdict()},
            "contenders": [
                {"name": c.name, "kind": c.kind, "kappa": c.kappa, self.measure: sign * c.value}
                for c in self.contenders
            ],
            "images": self.num_images,
            "sentence": self.sentence,
        }


def adapt(
    communities: Communities,
    budget: Budget,
    inputs: Tensor | Inputs | None = None,
    labels: Tensor | None = None,
    *,
    data: Data | None = None,
    calibration: Data | None = None,
    generator: torch.Generator,
    search: bool = True,
    level: float = LEVEL,
    **options: Any,
) -> Adapted:
    """Choose the scorer for one model at one budget, by proof on a search split.

    The plateau (the norm of incoming weights, ranked within each community) is the incumbent. Every
    contender selects to the same budget; they race on half of the samples, and the
    fastest replaces the plateau only if it is better on the other samples by an exact one-sided
    McNemar test. So with samples like those that it will meet, it is worse than magnitude only by
    the error that the level allows.

    Where a sample has a label for each of its places, as a window of a text has, the mean loss over
    them decides, and a one-sided test of the paired differences (:func:`sign_flips
    <natsel.common.paired.sign_flips>`): one window is one observation.

    Args:
        communities: of the model; their populations compete.
        budget: what must be reached.
        inputs: the search split, ``[N, ...]``; never report on it. Several such tensors in a tuple
            or by their names for models that take more than one.
        labels: ``[N]``; or ``[N, T]``, each in the place of the output that predicts it, -100 where
            there is none; or None: then agreement with the dense model is what counts, of samples
            or of their places, and scorers that need labels stay out.
        data: in place of both, batches as :func:`natsel.score` takes them, of one shape.
        calibration: batches for the scorers that read data, as :func:`natsel.score` takes them; by
            default the samples that contenders race on, in hundreds; of samples with many labels
            64, as many at once as their logits leave room for.
        generator: shuffles the split and drives the searches.
        search: also search fusion weights, for features of complexity 1 and 2, and how much each
            community loses, for the two scorers that raced best.
        level: of the test.
        **options: of :func:`natsel.select`, for every contender (``include``, ``multiple_of`` ...).

    Returns:
        The choice with its survivors and its reason.

    Raises:
        ValueError: if there are fewer than 20 samples (10, where one has many labels), or the
            budget cannot be met.
    """
    inputs, labels = _search_split(communities, inputs, labels, data)
    num_samples = len(tensors_of_inputs(inputs)[0])
    order = torch.randperm(num_samples, generator=generator)
    cut = round(RACING * num_samples)
    parts = (order[:cut], order[cut:])
    racing, confirming = (
        Arena(communities, taken(inputs, part), labels[part] if labels is not None else None)
        for part in parts
    )
    if calibration is None:
        calibration = _own_calibration(communities, inputs, labels, parts[0], racing.measure)
    calibration = reread(calibration, "calibration")
    found = _measured(communities, calibration, labels is not None)
    entered = list(_contenders(communities, budget, found, options))
    plateau = entered[0]
    values = race(racing, [c.survivors for c in entered], plateau.survivors)
    if search:
        best = [entered[int(i)].name.partition(",")[0] for i in values.argsort(descending=True)]
        leading = [name for name in dict.fromkeys(best) if name in found][:ALLOCATED]
        searched = [
            *_searched(communities, budget, racing, generator, options),
            *_allocated(
                communities, budget, racing, {n: found[n] for n in leading}, generator, options
            ),
        ]
        entered.extend(searched)
        more = torch.tensor([c.value for c in searched], dtype=torch.float64)
        values = torch.cat((values, more))
    ranked = tuple(
        sorted(
            (replace(c, value=float(v)) for c, v in zip(entered, values, strict=True)),
            key=lambda c: -c.value,
        )
    )
    challenger = _challenger(ranked, racing.measure)
    test = _tested(confirming, challenger.survivors, plateau.survivors)
    proven = challenger is ranked[0] and test.p_better < level
    chosen = challenger if proven else next(c for c in ranked if c.name == plateau.name)
    sentence = _sentence(ranked, challenger, chosen, test, racing.measure, level, labels is None)
    images = racing.num_images + confirming.num_images
    _LOG.info("%s", sentence)
    return Adapted(chosen, challenger, test, ranked, images, sentence, racing.measure)


def _challenger(ranked: tuple[Contender, ...], measure: Measure) -> Contender:
    """Return whom to compare with the plateau.

    That is who leads the race. Where the plateau leads by a mean that every selection has its own
    of, the best of the others: whether it is told apart from the plateau is then not known yet.
    """
    plateau = next(c for c in ranked if c.kind == "plateau")
    if measure == "accuracy" or ranked[0].kind != "plateau":
        return ranked[0]
    own = key_of(plateau.survivors)
    return next((c for c in ranked if key_of(c.survivors) != own), plateau)


def _tested(arena: Arena, first: Survivors, second: Survivors) -> PairedSamples:
    if arena.measure == "accuracy":
        return mcnemar(arena.correct(first), arena.correct(second))
    return sign_flips(arena.values(first), arena.values(second))


def _search_split(
    communities: Communities,
    inputs: Tensor | Inputs | None,
    labels: Tensor | None,
    data: Data | None,
) -> tuple[Inputs, Tensor | None]:
    """Return the samples of the search split, however they were handed over."""
    if data is not None and (inputs is not None or labels is not None):
        refuse_together({"inputs": inputs, "labels": labels, "data": "batches"}, "data= alone")
    if data is not None:
        inputs, labels = gathered(communities.model, reread(data))
    if inputs is None:
        refuse("data", None, "batches of the search split, or its inputs and labels")
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    count = len(tensors_of_inputs(inputs)[0])
    if labels is not None and len(labels) != count:
        refuse("labels", len(labels), f"as many as there are inputs, {count}")
    several = labels.dim() > 1 if labels is not None else _predicts_several(communities, inputs)
    if labels is not None and several:
        there = (labels != IGNORED).flatten(1).any(1).cpu()
        if not bool(there.any()):
            refuse("labels", "no sample with a label", LABELLED)
        inputs, labels, count = taken(inputs, there), labels[there], int(there.sum())
    least = LEAST["loss" if several else "accuracy"]
    if count < least:
        refuse("inputs", f"{count} samples", f"at least {least}, to race on and to confirm with")
    return inputs, labels


def _predicts_several(communities: Communities, inputs: Inputs) -> bool:
    """Tell whether a model predicts more than one class a sample."""
    return _logits_of_one(communities, inputs).dim() > 2


def _logits_of_one(communities: Communities, inputs: Inputs) -> Tensor:
    with evaluating(communities.model), torch.no_grad():
        return logits_of(call(communities.model, taken(inputs, slice(0, 1))))


def _own_calibration(
    communities: Communities,
    inputs: Inputs,
    labels: Tensor | None,
    part: Tensor,
    measure: Measure,
) -> list[Any]:
    """Return some samples of the search split as batches; their labels stand where they belong."""
    rows = HUNDRED
    if measure != "accuracy":
        rows, part = rows_of(_logits_of_one(communities, inputs)), part[:WINDOWS]
    batches = []
    for index in torch.split(part, min(rows, HUNDRED)):
        values = taken(inputs, index)
        given = (values,) if isinstance(values, dict) else values
        batches.append(given if labels is None else (*given, labels[index]))
    return batches


def _measured(
    communities: Communities, calibration: Data, labelled: bool
) -> dict[str, Mapping[str, Tensor]]:
    """Return the scores of every scorer that looks at more than incoming weights."""
    found: dict[str, Mapping[str, Tensor]] = {"magnitude": score(communities, "magnitude")}
    asked = [name for name in DATA_AWARE if labelled or name not in NEED_LABELS]
    for gradients in (True, False):
        together = [name for name in asked if FITNESS[name].needs_gradient is gradients]
        # Some networks have consumers whose input cannot be watched: others may still win.
        with suppress(ValueError):
            if together:
                found |= score_all(communities, together, data=calibration)
    return {name: found[name] for name in ("magnitude", *asked) if name in found}


def _contenders(
    communities: Communities,
    budget: Budget,
    measured: Mapping[str, Mapping[str, Tensor]],
    options: Mapping[str, Any],
) -> Iterator[Contender]:
    """Yield the plateau first, then everything that needs no search."""
    statistics = score(communities, STATISTIC)

    def decide(scores: Mapping[str, Tensor], way: str) -> Survivors:
        return select(scores, budget, communities=communities, **WAYS[way], **options)

    name = f"plateau ({STATISTIC})"
    yield Contender(name, "plateau", 0, decide(statistics, "community"))
    for way in ("global", "raw"):
        name = f"{STATISTIC}, {way}"
        yield Contender(name, "magnitude", None, decide(statistics, way))
    for scorer, found in measured.items():
        kind = "magnitude" if scorer == "magnitude" else "data"
        for way in WAYS:
            yield Contender(f"{scorer}, {way}", kind, None, decide(found, way))
    for name, made in CLASSES.items():
        if made.kappa > 0:
            scores = fuse(matrices(statistics, made.features))
            survivors = decide(scores, "community")
            yield Contender(f"{name}, equal weights", "feature", made.kappa, survivors)


def _allocated(
    communities: Communities,
    budget: Budget,
    arena: Arena,
    measured: Mapping[str, Mapping[str, Tensor]],
    generator: torch.Generator,
    options: Mapping[str, Any],
) -> Iterator[Contender]:
    """Yield scorers with the shares of communities that a search found."""
    if len(communities) < 2:
        return

    def decide(scores: Mapping[str, Tensor]) -> Survivors:
        return select(scores, budget, communities=communities, **WAYS["raw"], **options)

    for scorer, scores in measured.items():
        found = search_allocation(arena, scores, decide, generator=generator)
        kind = "magnitude" if scorer == "magnitude" else "data"
        name = f"{scorer}, shares searched"
        yield Contender(name, kind, None, found.survivors, found.accuracy)


def _searched(
    communities: Communities,
    budget: Budget,
    arena: Arena,
    generator: torch.Generator,
    options: Mapping[str, Any],
) -> Iterator[Contender]:
    """Yield feature classes with the weights that a search found."""
    statistics = score(communities, STATISTIC)

    def decide(scores: Mapping[str, Tensor]) -> Survivors:
        return select(scores, budget, communities=communities, **options)

    for name in SEARCHED:
        made = feature_class(name)
        phi = matrices(statistics, made.features)
        found = search_weights(arena, phi, decide, generator=generator)
        yield Contender(f"{name}, searched", "feature", made.kappa, found.survivors, found.accuracy)


def _sentence(
    ranked: tuple[Contender, ...],
    challenger: Contender,
    chosen: Contender,
    test: PairedSamples,
    measure: Measure,
    level: float,
    agrees: bool,
) -> str:
    entered = len(ranked)
    gain = _gain(test.difference, measure, agrees)
    proof = f"on {test.n} samples that no choice was made on, p = {test.p_better:.2g}"
    if chosen is challenger and chosen.kind != "plateau":
        kind = f" (kappa {chosen.kappa})" if chosen.kappa is not None else ""
        return f"{chosen.name}{kind} beats the plateau: {gain} {proof}; {entered} contenders."
    plateau = next(c for c in ranked if c.kind == "plateau")
    own = key_of(plateau.survivors)
    others = [c for c in ranked if key_of(c.survivors) != own]
    if not others:
        return f"The plateau stays: all {entered} contenders select what it selects."
    if plateau.value == others[0].value:
        return (
            f"The plateau stays: no contender is told apart from it ({others[0].name}, of "
            f"{entered}, came out the same on the samples raced on)."
        )
    if ranked[0].kind != "plateau":
        return (
            f"The plateau stays: {challenger.name} won the race of {entered} contenders, but it is "
            f"not proven better ({gain} {proof}): no contender is told apart from the plateau."
        )
    if measure == "accuracy":
        return f"The plateau stays: it won the race of {entered} contenders itself."
    if test.difference < 0 and test.p_value < level:
        return (
            f"The plateau stays: it beats the best of the others, {challenger.name} ({gain} on "
            f"{test.n} samples, p = {test.p_value:.2g}, two-sided); {entered} contenders."
        )
    return (
        f"The plateau stays: no contender is told apart from it ({challenger.name}, the best of "
        f"the others: {gain} {proof}); {entered} contenders."
    )


def _gain(difference: float, measure: Measure, agrees: bool) -> str:
    if measure == "loss":
        # A loss that is lower is better; the difference is of what is higher where it is better.
        return f"{-difference:+.4f} nats of loss per label"
    places = " per place" if measure == "agreement" else ""
    what = f"agreement with the dense model{places}" if agrees else "accuracy"
    return f"{100 * difference:+.2f} points of {what}"
