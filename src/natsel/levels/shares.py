"""Evolution of how much of its single weights each layer gives."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from natsel.blockwise import OnDisk, Store
from natsel.common.calls import Inputs
from natsel.common.errors import refuse, shortened
from natsel.common.folders import make_folder
from natsel.common.logs import logger_of
from natsel.common.paired import PairedSamples
from natsel.common.progress import Progress
from natsel.dynamics.registry import Dynamic, Step
from natsel.levels.drawing import Drawing
from natsel.levels.evolve import compared
from natsel.levels.folder import Folder
from natsel.levels.judge import Judge, Measure, check_finite
from natsel.levels.result import LEVEL, plain_search, sentence_of, windows_needed
from natsel.levels.searching import GREEDY, Generation, Search
from natsel.levels.slopes import begun
from natsel.levels.space import Individual, sites
from natsel.levels.steps import Solved, Steps
from natsel.selection.budget import Sparsity
from natsel.single_weights.in_block import Solver

_LOG = logger_of(__name__)


@dataclass(frozen=True)
class Shares:
    """How much of its single weights each layer gives.

    Attributes:
        budgets: for :func:`natsel.sparsify`, the share of each row by the name of the weight: of
            the plan that is kept.
        found: of the plan that the search found, kept or not.
        uniform: of the plan in which each layer gives the same share.
        kept: "searched" or "uniform".
        history: of the generations.
        test: of the found plan against the uniform one on held-out windows, of the fitness with
            its sign turned: more is better.
        fitness: "kl", "loss" or "error".
        values: fitness on held-out windows of the found plan and of the uniform one, each layer
            solved from what enters it in the dense model.
        evaluations: plans that were judged.
        runs: different plans that were run at all.
        tokens: places that were run, to search.
        needed: how many windows it would take to tell both plans apart; None if they were.
        sentence: all of this in words.
    """

    budgets: Mapping[str, Sparsity]
    found: Mapping[str, Sparsity]
    uniform: Mapping[str, Sparsity]
    kept: str
    history: tuple[Generation, ...]
    test: PairedSamples
    fitness: str
    values: tuple[float, float]
    evaluations: int
    runs: int
    tokens: int
    needed: int | None
    sentence: str

    def __repr__(self) -> str:
        return f"Shares({self.kept}; {shortened(self.sentence)})"

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        shares = {name: budget.value for name, budget in self.budgets.items()}
        return {**plain_search(self), "shares": shares}


def search_shares(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    share: float,
    searching: tuple[Inputs, Tensor | None],
    deciding: tuple[Inputs, Tensor | None],
    *,
    calibration: Any,
    solver: Solver,
    spread: float,
    num_levels: int,
    fitness: Measure,
    evaluations: int,
    offspring: int,
    windows: int,
    places: int | None,
    dynamics: str | Dynamic | Step | None,
    generator: torch.Generator,
    cache: str | Path | None,
    offload: str | Path | None,
    progress: Progress,
) -> Shares:
    """Search the shares of some layers; see :func:`natsel.evolve_shares`."""
    with ExitStack() as stack:
        solved = Solved(model, layers, store=_store(stack, offload))
        options: dict[str, Any] = {"spread": spread, "num": num_levels, "solver": solver}
        solved.solve(calibration, share, progress=progress, **options)
        if not solved.steps:
            refuse("data", "nothing that reaches a layer", "batches that run the model")
        judge = Judge(solved, *searching, measure=fitness, places=places, at_once=windows)
        space = solved.space()
        even: Individual = tuple(s.even for s in solved.steps.values())
        drawing = Drawing(len(sites(space)), dynamics)
        search = Search(space, judge, drawing, generator, batch=windows)
        told = {
            "steps": {n: [s.rows, list(s.removed)] for n, s in solved.steps.items()},
            "solver": str(solver.scorer),
            "data": judge.digest(),
            "offspring": offspring,
            "windows": windows,
            "dynamics": None if drawing.law is None else drawing.law.name,
            "random": bytes(generator.get_state().tolist()).hex()[:64],
        }
        folder = Folder(cache, told)
        state = stack.enter_context(folder.held())
        stack.enter_context(judge.prefix.offloaded(offload))
        if state is not None:
            search.load(state)
        if not search.history:
            progress("levels: what layers are worth", 0, evaluations)
            room = int(GREEDY * evaluations * windows)
            first = list(range(min(windows, len(judge))))
            seeds = begun(space, judge, solved.steps, even, first, room=room)
            search.evaluations = min(search.spent, evaluations)
            search.start(seeds)
        search.evolve(evaluations, offspring, folder.write, progress)
        progress("levels: decide", evaluations, evaluations)
        result = _decided(search, solved.steps, even, Judge(solved, *deciding, measure=fitness))
    _LOG.info("%s", result.sentence)
    return result


def _store(stack: ExitStack, offload: str | Path | None) -> Store | None:
    if offload is None:
        return None
    make_folder(Path(offload), "offload")
    return OnDisk(stack.enter_context(TemporaryDirectory(prefix="levels-", dir=offload)))


def _decided(
    search: Search, steps: Mapping[str, Steps], even: Individual, confirming: Judge
) -> Shares:
    """Return the plan that is no worse on windows that no choice was made on."""
    plans = [search.space.survivors(each) for each in (search.best, even)]
    totals = [confirming.totals(plan) for plan in plans]
    values = [float(t.sum() / confirming.places.sum()) for t in totals]
    check_finite(min(values), "both plans on held-out windows")
    each = [t / confirming.places for t in totals]
    test = compared(*each)
    kept = "searched" if values[0] <= values[1] and search.best != even else "uniform"
    needed = windows_needed(*each) if test.p_value >= LEVEL else None
    budgets = [_budgets(steps, plan) for plan in (search.best, even)]
    return Shares(
        budgets=budgets[kept == "uniform"],
        found=budgets[0],
        uniform=budgets[1],
        kept=kept,
        history=tuple(search.history),
        test=test,
        fitness=confirming.measure,
        values=(values[0], values[1]),
        evaluations=search.evaluations,
        runs=search.judge.num_run,
        tokens=search.judge.num_tokens,
        needed=needed,
        sentence=sentence_of(kept, confirming.measure, values, test, search.evaluations, needed),
    )


def _budgets(steps: Mapping[str, Steps], plan: Individual) -> dict[str, Sparsity]:
    found = {}
    for (name, each), level in zip(steps.items(), plan, strict=True):
        assert isinstance(level, int)
        found[name] = Sparsity(each.removed[level] / each.columns)
    return found
