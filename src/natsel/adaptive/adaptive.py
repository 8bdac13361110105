"""The adaptive pruner: as much complexity as this sparsity of this model is proven to need.

Contenders of every kind select to the budget: the plateau, other magnitudes, scorers that read
data, and features of every complexity. They race on one part of the search split; the winner then
has to beat the plateau on the other part, which no choice was made on, or the plateau stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from natsel.adaptive.arena import Arena, taken
from natsel.adaptive.race import race
from natsel.adaptive.searching import search_allocation, search_weights
from natsel.common.batches import Data, gathered, reread
from natsel.common.calls import Inputs, tensors_of_inputs
from natsel.common.errors import refuse, refuse_together, shortened
from natsel.common.logs import logger_of
from natsel.common.paired import PairedSamples, mcnemar
from natsel.communities import Communities
from natsel.features import CLASSES, feature_class, fuse, matrices
from natsel.fitness import score
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


@dataclass(frozen=True)
class Contender:
    """One way to select.

    Attributes:
        name: what it is called.
        kind: "plateau", "magnitude", "data" or "feature".
        kappa: complexity of its features; None where it is not a function of the rank.
        survivors: what it selects.
        accuracy: on the part that contenders race on; of those that stopped early an estimate.
    """

    name: str
    kind: str
    kappa: int | None
    survivors: Survivors
    accuracy: float = float("nan")


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
    """

    chosen: Contender
    challenger: Contender
    test: PairedSamples
    contenders: tuple[Contender, ...]
    num_images: int
    sentence: str

    def __repr__(self) -> str:
        return f"Adapted({self.chosen.name}; {shortened(self.sentence)})"

    @property
    def survivors(self) -> Survivors:
        """The selection that was chosen."""
        return self.chosen.survivors

    def plain(self) -> dict[str, Any]:
        """Return the choice as plain data."""
        return {
            "chosen": self.chosen.name,
            "kind": self.chosen.kind,
            "kappa": self.chosen.kappa,
            "challenger": self.challenger.name,
            "test": {"name": "exact McNemar, one-sided", **self.test._asdict()},
            "contenders": [
                {"name": c.name, "kind": c.kind, "kappa": c.kappa, "accuracy": c.accuracy}
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

    Args:
        communities: of the model; their populations compete.
        budget: what must be reached.
        inputs: the search split, ``[N, ...]``; never report on it. Several such tensors in a tuple
            or by their names for models that take more than one.
        labels: ``[N]``, or None: then agreement with the dense model stands for accuracy, and
            scorers that need labels stay out.
        data: in place of both, batches as :func:`natsel.score` takes them, of one shape.
        calibration: batches for the scorers that read data, as :func:`natsel.score` takes them; by
            default the samples that contenders race on, in hundreds.
        generator: shuffles the split and drives the searches.
        search: also search fusion weights, for features of complexity 1 and 2, and how much each
            community loses, for the two scorers that raced best.
        level: of the test.
        **options: of :func:`natsel.select`, for every contender (``include``, ``multiple_of`` ...).

    Returns:
        The choice with its survivors and its reason.

    Raises:
        ValueError: if there are fewer than 20 samples, or the budget cannot be met.
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
        calibration = _in_hundreds(inputs, labels, parts[0])
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
        more = torch.tensor([c.accuracy for c in searched], dtype=torch.float64)
        values = torch.cat((values, more))
    ranked = tuple(
        sorted(
            (
                Contender(c.name, c.kind, c.kappa, c.survivors, float(v))
                for c, v in zip(entered, values, strict=True)
            ),
            key=lambda c: -c.accuracy,
        )
    )
    challenger = ranked[0]
    test = mcnemar(confirming.correct(challenger.survivors), confirming.correct(plateau.survivors))
    proven = test.p_better < level
    chosen = challenger if proven else next(c for c in ranked if c.name == plateau.name)
    sentence = _sentence(challenger, chosen, test, len(ranked), labels is not None)
    images = racing.num_images + confirming.num_images
    _LOG.info("%s", sentence)
    return Adapted(chosen, challenger, test, ranked, images, sentence)


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
    if count < 20:
        refuse("inputs", f"{count} samples", "at least 20, to race on and to confirm with")
    if labels is not None and len(labels) != count:
        refuse("labels", len(labels), f"as many as there are inputs, {count}")
    return inputs, labels


def _in_hundreds(inputs: Inputs, labels: Tensor | None, part: Tensor) -> list[Any]:
    """Return some samples of the search split as batches; their labels stand where they belong."""
    batches = []
    for index in torch.split(part, 100):
        values = taken(inputs, index)
        given = (values,) if isinstance(values, dict) else values
        batches.append(given if labels is None else (*given, labels[index]))
    return batches


def _measured(
    communities: Communities, calibration: Data, labelled: bool
) -> dict[str, Mapping[str, Tensor]]:
    """Return the scores of every scorer that looks at more than incoming weights."""
    found: dict[str, Mapping[str, Tensor]] = {"magnitude": score(communities, "magnitude")}
    for scorer in DATA_AWARE:
        if labelled or scorer not in NEED_LABELS:
            # Some networks have consumers whose input cannot be watched: others may still win.
            with suppress(ValueError):
                found[scorer] = score(communities, scorer, data=calibration)
    return found


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
    challenger: Contender, chosen: Contender, test: PairedSamples, entered: int, labelled: bool
) -> str:
    what = "accuracy" if labelled else "agreement with the dense model"
    if challenger.kind == "plateau":
        return f"The plateau stays: it won the race of {entered} contenders itself."
    gain = f"{100 * test.difference:+.2f} points of {what}"
    proof = f"on {test.n} samples that no choice was made on, p = {test.p_better:.2g}"
    if chosen is challenger:
        kind = f" (kappa {chosen.kappa})" if chosen.kappa is not None else ""
        return f"{chosen.name}{kind} beats the plateau: {gain} {proof}; {entered} contenders."
    return (
        f"The plateau stays: {challenger.name} won the race of {entered} contenders, but it is "
        f"not proven better ({gain} {proof})."
    )
