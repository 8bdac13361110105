"""Evolution over whole networks: who gives how much, under one budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from natsel.common.batches import Data, gathered, reread
from natsel.common.calls import Inputs, taken, tensors_of_inputs
from natsel.common.errors import choose, refuse
from natsel.common.logs import logger_of
from natsel.common.numbers import check_whole
from natsel.common.paired import PairedSamples, sign_flips
from natsel.common.progress import Progress, silent
from natsel.communities import Communities
from natsel.dynamics.registry import Dynamic, Step
from natsel.levels.budgets import gauge_of
from natsel.levels.drawing import Drawing
from natsel.levels.folder import Folder
from natsel.levels.judge import MEASURES, Judge, Measure, check_finite
from natsel.levels.moves import additive, filled, uniform
from natsel.levels.result import LEVEL, Levels, sentence_of, windows_needed
from natsel.levels.scoring import scores_for
from natsel.levels.searching import Search
from natsel.levels.space import Individual, Space, sites
from natsel.levels.tabled import measured, tabled
from natsel.selection.budget import Gauge
from natsel.selection.select import Budget
from natsel.selection.survivors import Survivors

_LOG = logger_of(__name__)

PLACES = 128
"""Places of a window that are judged, where nothing else is asked."""

CONFIRMING = 0.5
"""Share of the windows that decides, where none are given for it."""


def evolve_levels(
    communities: Communities,
    budget: Budget,
    data: Data,
    *,
    held_out: Data | None = None,
    scores: Mapping[str, Tensor] | None = None,
    rivals: Mapping[str, Survivors] | None = None,
    kinds: Sequence[str] | None = None,
    blocks: bool = False,
    fitness: Measure = "kl",
    evaluations: int = 256,
    offspring: int = 16,
    windows: int = 8,
    places: int | None = PLACES,
    dynamics: str | Dynamic | Step | None = None,
    generator: torch.Generator | None = None,
    cache: str | Path | None = None,
    offload: str | Path | None = None,
    progress: Progress = silent,
) -> Levels:
    """Search how much each community gives, and which branches go, by evolution.

    An individual is a vector of levels, one per community: how many populations it keeps, where
    the scores say which; of branches, which of them are out. Children come of swaps that keep the
    budget, a level given here and taken there; they are judged jointly, all kinds together, in a
    race on growing data with the best so far as the bound, and the best of all stays (1 + lambda
    with elitism). Each generation races on windows of its own, in turn, as far as the data go; who
    wins has to win on those of the generations before, too. The search starts from the uniform
    plan, the plans by the scores and a greedy plan: one branch or one eighth of a community after
    the other, whichever costs least for what it saves beside what is gone.

    A budget that is measured (:class:`natsel.Latency`) is read off a table: what each community
    saves at a few levels, and each kind of branch, measured once. What is found is measured as it
    is, and tightened until it meets the budget.

    Branches that are out are not run; blocks before the first one in which a child differs from
    its parent are not run again; the last layer reads the places that are judged; no selection is
    run twice on the same window. None of this changes what a window comes to.

    What it finds is kept if it is no worse than the uniform plan on windows that it did not see;
    the paired test over them is told.

    Args:
        communities: of the model, which is not changed.
        budget: what must be reached: a sparsity, of all populations together, or a cost.
        data: batches of one shape to search on; without ``held_out`` a random half of the samples
            is kept to decide on.
        held_out: batches to decide on.
        scores: one tensor per community, higher is fitter, as :func:`natsel.score` returns them;
            of communities that are missing, the default: "auto" with labels, "joint" without, and
            for branches "cosine".
        rivals: plans that were chosen otherwise, such as "adaptive" by :func:`natsel.adapt`, within
            the budget: the search starts from as many of each community, too, and what is best on
            held-out windows is kept, with a test against each.
        kinds: of the communities that give; the others stay whole. All but those of which removing
            is not masking by default.
        blocks: branches of one block come and go together.
        fitness: "kl" (to the dense model; needs no labels), "loss" or "error".
        evaluations: children that are judged.
        offspring: children in a generation.
        windows: on how many windows a generation races; of images, 8 groups are as many windows.
        places: how many places (tokens) of a window the search judges, drawn once by chance; None
            for all. Windows are run whole, and what decides in the end reads all places.
        dynamics: a law (:mod:`natsel.dynamics`) by which the sites of moves that succeed get more
            of the next moves; by default all get as many.
        generator: where all randomness comes from; seed 0 by default.
        cache: a folder from which a killed search goes on.
        offload: a folder for the hidden states that children begin with, which go with the search;
            in memory by default, a gigabyte at most.
        progress: called after each generation.

    Returns:
        The survivors with the history and the test that decided.

    Raises:
        ValueError: if an argument is not allowed, or no vector of levels meets the budget; the
            nearest is said.
        NonFiniteError: if nothing that it starts from has a finite fitness.

    Example:
        >>> import natsel
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(),
        ...                       nn.Linear(6, 3))
        >>> communities = natsel.discover(model, torch.zeros(1, 4))
        >>> data = [(torch.randn(32, 4, generator=torch.Generator().manual_seed(0)),)]
        >>> levels = evolve_levels(communities, natsel.Sparsity(0.5), data, evaluations=16)
        >>> levels.survivors.num_removed
        7

    Reference:
        O. Sieberling et al., EvoPress: Accurate Dynamic Model Compression via Evolutionary Search,
        arXiv 2410.14649, 2024.
    """
    choose("fitness", fitness, MEASURES)
    numbers = {"evaluations": evaluations, "offspring": offspring, "windows": windows}
    for name, value in {**numbers, "places": 1 if places is None else places}.items():
        check_whole(name, value)
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    taking = _taking_part(communities, kinds)
    data = reread(data)
    model = communities.model
    searching = gathered(model, data)
    if held_out is None:
        searching, deciding = halved(searching, generator)
    else:
        deciding = gathered(model, reread(held_out, "held_out"))
    judge = Judge(taking, *searching, measure=fitness, places=places, at_once=windows)
    found = scores_for(taking, scores, as_batches(searching))
    gauge = real = gauge_of(budget, taking)
    if real.num_steps is not None:  # a reading takes time: candidates read off a table
        gauge = tabled(real, taking)
    space = Space.of_communities(taking, found, gauge, blocks=blocks)
    others = _checked_rivals(rivals or {}, taking, real)
    even = uniform(space)
    near = [space.of(plan) for plan in others.values()]
    seeds = [even, *(filled(space, plan) for plan in near if space.meets(plan))]
    seeds = [*seeds, *(additive(space, found, scale) for scale in ("mean", None))]
    search = Search(space, judge, Drawing(len(sites(space)), dynamics), generator, batch=windows)
    told = {
        "communities": {p.name: [p.size, len(p.units)] for p in space.places},
        "budget": [space.gauge.name, str(space.gauge.asked), space.gauge.limit],
        "data": judge.digest(),
        "seeds": None if gauge is not real else [space.plain(seed) for seed in seeds],
        "offspring": offspring,
        "windows": windows,
        "dynamics": None if search.drawing.law is None else search.drawing.law.name,
        "random": bytes(generator.get_state().tolist()).hex()[:64],
    }
    folder = Folder(cache, told)
    with folder.held() as state, judge.prefix.offloaded(offload):
        if state is not None:
            search.load(state)
        if not search.history:

            def keep() -> None:
                folder.write(search.state())
                progress("levels: one after the other", search.spent, evaluations)

            progress("levels: one after the other", search.spent, evaluations)
            seeds += search.greedy(evaluations, keep)
            search.start(list(dict.fromkeys(seeds)))
        search.evolve(evaluations, offspring, folder.write, progress)
    progress("levels: decide", evaluations, evaluations)
    if gauge is not real:
        search.best, even = (measured(space, plan, real)[0] for plan in (search.best, even))
    confirming = Judge(taking, *deciding, measure=fitness)
    result = _decided(search, even, others, confirming, real)
    _LOG.info("%s", result.sentence)
    return result


def _decided(
    search: Search,
    even: Individual,
    rivals: Mapping[str, Survivors],
    confirming: Judge,
    real: Gauge,
) -> Levels:
    """Return the plan that is no worse than any other on windows that no choice was made on."""
    space = search.space
    plans = {"searched": space.survivors(search.best), "uniform": space.survivors(even), **rivals}
    totals = {name: confirming.totals(plan) for name, plan in plans.items()}
    values = {n: float(t.sum() / confirming.places.sum()) for n, t in totals.items()}
    check_finite(min(values.values()), "all plans on held-out windows")
    each = {name: t / confirming.places for name, t in totals.items()}
    tests = {n: compared(each["searched"], x) for n, x in each.items() if n != "searched"}
    test = tests.pop("uniform")
    kept = min(values, key=lambda n: values[n] if values[n] < math.inf else math.inf)
    if kept == "searched" and search.best == even:
        kept = "uniform"
    needed = None
    if test.p_value >= LEVEL:
        needed = windows_needed(each["searched"], each["uniform"])
    both = (values["searched"], values["uniform"])
    told = "uniform" if kept == "uniform" else "searched"
    sentence = sentence_of(told, confirming.measure, both, test, search.evaluations, needed)
    for name, against in tests.items():
        sentence += f" {name}: {values[name]:.4g}, p = {against.p_value:.2g}."
    if kept in tests:
        sentence += f" The plan of {kept} is kept: it is best on these windows."
    return Levels(
        survivors=plans[kept],
        found=plans["searched"],
        uniform=plans["uniform"],
        kept=kept,
        history=tuple(search.history),
        test=test,
        rivals=tests,
        fitness=confirming.measure,
        values=both,
        cost=real.describe(real.read(plans[kept])),
        evaluations=search.evaluations,
        runs=search.judge.num_run,
        tokens=search.judge.num_tokens,
        needed=needed,
        sentence=sentence,
    )


def _checked_rivals(
    rivals: Mapping[str, Survivors], communities: Communities, gauge: Gauge
) -> dict[str, Survivors]:
    """Return plans by others on the communities that take part, each within the budget."""
    found = {}
    for name, plan in rivals.items():
        argument = f"rivals[{name!r}]"
        if name in ("searched", "uniform"):
            refuse(argument, name, "another name: the plans of the search are called so")
        if missing := [c for c in communities if c not in plan]:
            refuse(argument, f"a plan without {missing[0]!r}", "one of all that take part")
        own = Survivors({c: plan[c] for c in communities}, communities)
        if wrong := [c for c, m in own.items() if m.shape != (communities[c].size,)]:
            refuse(argument, f"a plan of another {wrong[0]!r}", "one of these communities")
        if gauge.num_steps is None and (cost := gauge.read(own)) > gauge.limit:
            refuse(argument, gauge.describe(cost), f"within {gauge.describe(gauge.limit)}")
        found[name] = own
    return found


def compared(found: Tensor, even: Tensor) -> PairedSamples:
    """Compare two plans; one whose fitness is not finite anywhere is worse beyond doubt."""
    finite = torch.isfinite(found) & torch.isfinite(even)
    if bool(finite.all()):
        return sign_flips(-found, -even)
    worse = not bool(torch.isfinite(found).all())
    step = float("-inf") if worse else float("inf")
    return PairedSamples(step, step, step, 0.0, 1.0 if worse else 0.0, len(found))


def _taking_part(communities: Communities, kinds: Sequence[str] | None) -> Communities:
    if not isinstance(communities, Communities):
        refuse("communities", communities, "what natsel.discover(model, example_inputs) returns")
    communities.require()
    if kinds is not None:
        if isinstance(kinds, str):
            refuse("kinds", kinds, "a list of kinds, such as ['neuron', 'branch']")
        found = communities.only(*kinds)
        if inexact := [c.name for c in found.values() if not c.exact]:
            allowed = "kinds of which removing is masking: a candidate is a mask"
            refuse("kinds", communities[inexact[0]].kind, allowed)
        return found
    exact = sorted({c.kind for c in communities.values() if c.exact})
    return communities.only(*exact)


def halved(
    searching: tuple[Inputs, Tensor | None], generator: torch.Generator
) -> tuple[tuple[Inputs, Tensor | None], tuple[Inputs, Tensor | None]]:
    inputs, labels = searching
    size = len(tensors_of_inputs(inputs)[0])
    if size < 2:
        refuse("data", f"{size} window", "at least 2, to search and to decide on; or held_out=")
    order = torch.randperm(size, generator=generator)
    cut = size - round(CONFIRMING * size)
    parts = [order[:cut].sort().values, order[cut:].sort().values]
    first, second = (
        (taken(inputs, part), None if labels is None else labels[part]) for part in parts
    )
    return first, second


def as_batches(samples: tuple[Inputs, Tensor | None]) -> list[object]:
    """Return samples as batches of a few."""
    inputs, labels = samples
    size = len(tensors_of_inputs(inputs)[0])
    return list(_few(inputs, labels, size, 1 if labels is not None and labels.dim() > 1 else 100))


def _few(inputs: Inputs, labels: Tensor | None, size: int, step: int) -> Iterator[object]:
    for start in range(0, size, step):
        part = slice(start, start + step)
        values = taken(inputs, part)
        given = (values,) if isinstance(values, dict) else values
        yield given if labels is None else (*given, labels[part])
