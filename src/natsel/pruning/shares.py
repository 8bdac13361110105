"""One call that searches how much of its single weights each layer gives."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from natsel.common.batches import Data, check_data, gathered, reread
from natsel.common.errors import choose, refuse
from natsel.common.numbers import check_whole
from natsel.common.patterns import Patterns
from natsel.common.progress import Progress, silent
from natsel.common.wrappers import unwrapped
from natsel.communities.gates.gates import folded
from natsel.dynamics.registry import Dynamic, Step
from natsel.levels import Shares
from natsel.levels.evolve import PLACES, as_batches, halved
from natsel.levels.judge import MEASURES, Measure
from natsel.levels.shares import search_shares
from natsel.pruning.sparsify import SCORERS
from natsel.pruning.taking_part import layers_of
from natsel.selection.budget import Sparsity
from natsel.single_weights.in_block import Scorer, Solver
from natsel.single_weights.obs import DAMPING

SPREAD = 0.2
"""By how much the shares of two layers differ from the uniform one at most."""
NUM_LEVELS = 4
"""Levels on either side of the uniform one."""


def evolve_shares(
    model: nn.Module,
    budget: Sparsity,
    data: Data,
    *,
    held_out: Data | None = None,
    scorer: Scorer = "obs",
    spread: float = SPREAD,
    num_levels: int = NUM_LEVELS,
    fitness: Measure = "kl",
    evaluations: int = 256,
    offspring: int = 16,
    windows: int = 8,
    places: int | None = PLACES,
    dynamics: str | Dynamic | Step | None = None,
    damping: float = DAMPING,
    include: Patterns = None,
    exclude: Patterns = None,
    generator: torch.Generator | None = None,
    cache: str | Path | None = None,
    offload: str | Path | None = None,
    progress: Progress = silent,
) -> Shares:
    r"""Search how much of its single weights each layer gives, by evolution over whole networks.

    Each layer is solved once at several sparsities, row by row, from what enters it in the dense
    model. A plan takes one of them for each layer and leaves no more weights than the uniform
    plan; it is put together from what was solved, and judged as a whole, as
    :func:`natsel.evolve_levels` judges. The search starts from the plans that are least in
    $\sum_l w_l e_l$, the errors of the layers times what an error there costs, measured beside
    all others as they are; then children come of swaps, a level given here and taken there.

    Args:
        model: is not changed.
        budget: the share of the weights of all layers together that goes.
        data: batches of one shape to solve and to search on; without ``held_out`` a random half of
            the samples is kept to decide on.
        held_out: batches to decide on.
        scorer: as :func:`natsel.sparsify` takes it.
        spread: by how much the share of a layer differs from the uniform one at most.
        num_levels: levels on either side of the uniform one.
        fitness: "kl" (to the dense model; needs no labels), "loss" or "error".
        evaluations: plans that are judged.
        offspring: children in a generation.
        windows: on how many windows a generation races.
        places: how many places of a window the search judges; None for all.
        dynamics: a law by which the layers of moves that succeed get more of the next moves.
        damping: see :func:`natsel.sparsify`.
        include: patterns of the weights' names that take part.
        exclude: patterns of those that stay dense.
        generator: where all randomness comes from; seed 0 by default.
        cache: a folder from which a killed search goes on; layers are solved anew.
        offload: a folder for what was solved and for hidden states, which go with the search; in
            memory by default.
        progress: called after each block, and each generation.

    Returns:
        A budget for each layer, for :func:`natsel.sparsify`, with the history and the test.

    Raises:
        ValueError: if an argument is not allowed.
        NonFiniteError: if nothing that it starts from has a finite fitness.

    Example:
        >>> import natsel
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
        >>> data = [(torch.randn(32, 8, generator=torch.Generator().manual_seed(0)),)]
        >>> shares = evolve_shares(model, natsel.Sparsity(0.5), data, evaluations=16)
        >>> sparse = natsel.sparsify(model, shares.budgets, data=data, scorer="obs")
        >>> sparse.sparsity >= 0.5
        True

    Reference:
        O. Sieberling et al., EvoPress: Accurate Dynamic Model Compression via Evolutionary Search,
        arXiv 2410.14649, 2024.
    """
    if not isinstance(budget, Sparsity):
        refuse("budget", budget, "natsel.Sparsity(share)")
    if not callable(scorer):
        choose("scorer", scorer, SCORERS)
    choose("fitness", fitness, MEASURES)
    numbers = {"evaluations": evaluations, "offspring": offspring, "windows": windows}
    numbers["num_levels"] = num_levels
    for name, value in {**numbers, "places": 1 if places is None else places}.items():
        check_whole(name, value)
    if isinstance(spread, bool) or not 0 < spread < 1:
        refuse("spread", spread, "a number between 0 and 1")
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    base = folded(unwrapped(model))
    layers, _ = layers_of(base, include, exclude)
    batches = reread(check_data(data))
    searching = gathered(base, batches)
    if held_out is None:
        searching, deciding = halved(searching, generator)
    else:
        deciding = gathered(base, reread(held_out, "held_out"))
    return search_shares(
        *(base, layers, budget.value, searching, deciding),
        calibration=as_batches(searching),
        # "obs" made up for what went already; solving again, for each level, is most of the time.
        solver=Solver(scorer, scorer == "admm", damping),
        spread=spread,
        num_levels=num_levels,
        fitness=fitness,
        evaluations=evaluations,
        offspring=offspring,
        windows=windows,
        places=places,
        dynamics=dynamics,
        generator=generator,
        cache=cache,
        offload=offload,
        progress=progress,
    )
