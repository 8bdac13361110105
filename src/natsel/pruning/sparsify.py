"""One call that makes a model sparse: block by block, with what stays making up for what went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from natsel.blockwise import Store
from natsel.common.batches import Data, check_data, inputs_for, reread
from natsel.common.calls import call, without_cache
from natsel.common.errors import choose, refuse, refuse_together
from natsel.common.hooks import entering, watching
from natsel.common.modes import evaluating
from natsel.common.patterns import Patterns
from natsel.common.progress import Progress, silent
from natsel.common.wrappers import unwrapped
from natsel.communities.copies import copied
from natsel.communities.gates.gates import folded
from natsel.extraction.plan import attach_sparse
from natsel.pruning.sparsified import Sparsified
from natsel.pruning.taking_part import WeightBudget, budgets_of, layers_of, pattern_of
from natsel.selection.budget import Sparsity
from natsel.selection.survivors import Survivors
from natsel.single_weights.in_block import Done, Scorer, Solver, sparsify_layers
from natsel.single_weights.matrices import as_matrix, rows_entering
from natsel.single_weights.obs import DAMPING
from natsel.single_weights.owl import outlier_ratio, owl_shares
from natsel.single_weights.visiting import visit

SCORERS = ("obs", "admm", "wanda", "magnitude")
SCOPES = ("row", "community")
SHARES = ("uniform", "owl")
UNRUN = "it does not run on the data"


def sparsify(
    model: nn.Module,
    budget: WeightBudget | Mapping[str, WeightBudget] | Mapping[str, Tensor],
    *,
    data: Data | None = None,
    scorer: Scorer = "admm",
    scope: Literal["row", "community"] = "row",
    shares: Literal["uniform", "owl"] = "uniform",
    refit: bool | None = None,
    damping: float = DAMPING,
    include: Patterns = None,
    exclude: Patterns = None,
    in_place: bool = False,
    store: Store | None = None,
    progress: Progress = silent,
) -> Sparsified:
    """Set single weights of a model to zero, and let those that stay make up for them.

    Layer by layer, W x is what a sparse V x shall come closest to over the data: that needs only
    the second moments E x x^T of what enters. The model is walked block by block: what enters a
    block comes out of those before it as they are now, all layers of a block are looked at in one
    run of it, and only its moments are in memory. What lies outside any chain of blocks costs a
    pass of the whole model each.

    Takes part what is a Linear, a convolution in the plane, or a Conv1D of the transformers
    library. What shares its weight (a tied embedding) stays dense, and so does what a language
    model gives its words with, unless ``include`` names it.

    Args:
        model: is not changed, unless ``in_place``.
        budget: :class:`natsel.Sparsity` or :class:`natsel.NM`; or one for each pattern of weights'
            names, which must not overlap: what none matches stays dense; or masks by name, as
            :func:`natsel.select` gives them: then only the rest is refitted.
        data: batches as :func:`natsel.score` takes them; labels are not read.
        scorer: "obs" chooses column by column and makes up as it goes; "admm" lets masks and
            weights take turns; "wanda" is |w| times the norm of its input, "magnitude" |w|; or a
            function of the weights and E x x^T, both as matrices.
        scope: "row" takes the same share of each output, "community" of each tensor.
        shares: "uniform", or "owl": layers with more outliers lose less, the mean stays.
        refit: afterwards give what stays the best weights there are for its mask, by least squares
            in each row; None does for "obs" and "admm", and for given masks.
        damping: added to the diagonal of the moments, as a share of its mean.
        include: patterns of the weights' names that take part.
        exclude: patterns of those that stay dense.
        in_place: change the model itself: no second copy in memory.
        store: where hidden states are held between blocks; in memory by default.
        progress: called after each block.

    Returns:
        The model with its zeros, and the masks; :func:`natsel.hold` keeps them while it trains.

    Raises:
        ValueError: if an argument is not allowed, or data are missing.
        NonFiniteError: if a weight, or what enters a layer, holds NaN or infinity.

    Example:
        >>> import natsel
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> data = [(torch.randn(32, 8, generator=torch.Generator().manual_seed(0)),)]
        >>> found = sparsify(model, natsel.NM(2, 4), data=data)
        >>> found.sparsity, found.model[0].weight.count_nonzero().item()
        (0.5, 32)

    Reference:
        Frantar and Alistarh, "SparseGPT", ICML 2023; Sun et al., "A simple and effective pruning
        approach for large language models" (Wanda), ICLR 2024.
    """
    if not callable(scorer):
        choose("scorer", scorer, SCORERS)
    choose("scope", scope, SCOPES)
    choose("shares", shares, SHARES)
    if isinstance(damping, bool) or not 0 <= damping < float("inf"):
        refuse("damping", damping, "a number >= 0")
    given = isinstance(budget, Mapping) and any(isinstance(b, Tensor) for b in budget.values())
    wants = (given or scorer in ("obs", "admm")) if refit is None else refit
    solver = Solver("magnitude" if given else scorer, wants, damping)
    if (solver.reads_data or shares == "owl") and data is None:
        told = "masks that are given" if given else f"scorer {scorer!r}"
        refuse("data", None, f"batches of inputs: {told} and what is made up for need them")
    base = unwrapped(model)
    result = base if in_place else copied(folded(base), {})
    layers, left = layers_of(result, include, exclude)
    budgets = budgets_of(layers, budget)
    left |= {name: "no budget is for it" for name in layers if name not in budgets}
    layers = {name: layers[name] for name in layers if name in budgets}
    batches = reread(check_data(data)) if solver.reads_data or shares == "owl" else None
    if shares == "owl":
        budgets = _by_outliers(result, layers, budgets, batches)
    patterns = {n: pattern_of(n, layer, budgets[n], scope) for n, layer in layers.items()}
    found: dict[str, Tensor] = {}
    done: list[Done] = []

    def take(some: Mapping[str, nn.Module], look: Callable[[], None]) -> None:
        fresh, told = sparsify_layers(some, patterns, look, solver=solver)
        found.update(fresh)
        done.extend(told)

    passes = 0.0
    if solver.reads_data:
        passes = visit(result, layers, batches, take, store=store, progress=progress)
    else:
        for name, layer in layers.items():  # one after the other: what is new is there once
            take({name: layer}, lambda: None)
    left |= {name: UNRUN for name in layers if name not in found}
    if not found:
        refuse("data", "nothing that reaches a layer", "batches that run the model")
    masks = Survivors(found, device=None)
    attach_sparse(result, masks, base)
    return Sparsified(result, masks, tuple(done), left, passes)


def _by_outliers(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    budgets: Mapping[str, WeightBudget | Tensor],
    batches: Any,
) -> dict[str, WeightBudget | Tensor]:
    """Return a share for each layer by its outliers, in one pass over the data."""
    values = set(budgets.values()) if not _has_masks(budgets) else set()
    share = next(iter(values)) if len(values) == 1 else None
    if not isinstance(share, Sparsity):
        refuse_together({"shares": "owl", "budget": "NM, masks or patterns"}, "one Sparsity")
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows = rows_entering(layers[name], entering(args, named).detach())
        sums[name] = sums.get(name, 0) + rows.float().square().sum(0)
        counts[name] = counts.get(name, 0) + len(rows)

    with watching(layers, add), evaluating(model), without_cache(model), torch.no_grad():
        for batch in batches:
            call(model, inputs_for(model, batch))
    ratios, sizes = {}, {}
    for name in sums:
        weight = as_matrix(layers[name], layers[name].get_parameter("weight"))
        ratios[name] = outlier_ratio(weight, (sums[name] / max(counts[name], 1)).sqrt())
        sizes[name] = weight.numel()
    found = owl_shares(ratios, sizes, share.value)
    return {n: replace(share, value=found[n]) if n in found else share for n in layers}


def _has_masks(budgets: Mapping[str, object]) -> bool:
    return any(isinstance(value, Tensor) for value in budgets.values())
