"""Make the layers of one block sparse, from what enters them: only this block is in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from natsel.common.errors import NonFiniteError
from natsel.single_weights.alternating import alternate
from natsel.single_weights.matrices import as_matrix, like_weight
from natsel.single_weights.moments import second_moments
from natsel.single_weights.obs import DAMPING, WIDTH, Prepared, error, solve
from natsel.single_weights.patterns import Given, Pattern, keep
from natsel.single_weights.refit import refit as refitted

Scorer = Literal["obs", "admm", "wanda", "magnitude"] | Callable[[Tensor, Tensor], Tensor]
"""A name, or a function of the weights and of H (see :func:`obs.solve`), both as matrices."""


@dataclass(frozen=True)
class Solver:
    """How the weights of a layer are chosen, and what the others make of it.

    Attributes:
        scorer: "obs" chooses column by column and lets those behind make up; "admm" lets
            masks and weights take turns; "wanda" is |w| times the norm of its input, "magnitude"
            |w|, and a function gives scores of its own.
        refit: afterwards give what stays the best weights there are, by least squares in each row.
        damping: added to the diagonal of the second moments, as a share of its mean.
        width: columns that "obs" decides together.
    """

    scorer: Scorer = "obs"
    refit: bool = True
    damping: float = DAMPING
    width: int = WIDTH

    @property
    def reads_data(self) -> bool:
        """Whether second moments are needed."""
        return self.refit or self.scorer != "magnitude"


@dataclass(frozen=True)
class Done:
    """What became of one layer.

    Attributes:
        name: of its weight.
        kept: how many weights stay.
        size: of how many.
        error: mean squared change of what it gives over the data, as a share of what it gave; None
            where no data were read.
        masked: the same of masking alone.
    """

    name: str
    kept: int
    size: int
    error: float | None = None
    masked: float | None = None


def sparsify_layers(
    layers: Mapping[str, nn.Module],
    patterns: Mapping[str, Pattern],
    look: Callable[[], None],
    *,
    solver: Solver | None = None,
) -> tuple[dict[str, Tensor], list[Done]]:
    """Make some layers sparse, in place.

    Args:
        layers: by the name of their weight; see :mod:`natsel.single_weights.matrices`.
        patterns: for each layer how many of its weights stay, as a matrix.
        look: runs the layers over all data, as ``place.look`` of a block does.
        solver: how.

    Returns:
        A mask for each weight, of its shape, and what became of each; what never ran is left as it
        was, and in neither.

    Raises:
        NonFiniteError: if what enters a layer, or its weight, holds NaN or infinity; then nothing
            has changed.

    Example:
        >>> from natsel.single_weights.patterns import OfRows
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 1.0]])
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
        >>> masks, _ = sparsify_layers({"w": layer}, {"w": OfRows(1)}, lambda: layer(x))
        >>> masks["w"], round(layer.weight.sum().item(), 1)  # 3, but for the damping
        (tensor([[False,  True]]), 3.0)
    """
    solver = Solver() if solver is None else solver
    seconds = second_moments(layers, look) if solver.reads_data else {}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    done: list[Done] = []
    for name, layer in layers.items():
        weight = as_matrix(layer, layer.get_parameter("weight").detach())
        if solver.reads_data and name not in seconds:
            continue
        second = seconds[name].mean.to(weight.device) if solver.reads_data else None
        for tensor in (weight, second):
            if tensor is not None and not bool(torch.isfinite(tensor).all()):
                raise NonFiniteError(f"{name}, or what enters it, holds NaN or infinity")
        fresh, mask = sparse(weight, second, patterns[name], solver)
        found[name] = like_weight(layer, fresh), like_weight(layer, mask)
        errors = {}
        if second is not None:
            whole = error(weight, torch.zeros_like(weight), second)
            parts = {"error": fresh, "masked": weight * mask}
            errors = {
                k: error(weight, v, second) / whole if whole else 0.0 for k, v in parts.items()
            }
        done.append(Done(name, int(mask.sum()), mask.numel(), **errors))
    with torch.no_grad():
        for name, (fresh, _) in found.items():
            layers[name].get_parameter("weight").copy_(fresh)
    return {name: mask for name, (_, mask) in found.items()}, done


def sparse(
    weight: Tensor,
    second: Tensor | None,
    pattern: Pattern,
    solver: Solver,
    *,
    prepared: Prepared | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the sparse weights of one matrix, and their mask.

    Args:
        weight: ``[rows, columns]``.
        second: moments of what enters, ``[columns, columns]``; None where the solver reads none.
        pattern: how many stay, and where.
        solver: how.
        prepared: of "obs", what :func:`obs.prepare` returned for these moments.
    """
    if isinstance(pattern, Given) or solver.scorer == "obs":
        assert second is not None
        fresh, mask = solve(
            weight,
            second,
            pattern,
            damping=solver.damping,
            width=solver.width,
            prepared=prepared,
        )
    else:
        if solver.scorer == "admm":
            assert second is not None
            mask = alternate(weight, second, pattern, damping=solver.damping)
        else:
            mask = keep(scores_of(weight, second, solver), pattern)
        fresh = weight * mask
    if solver.refit and second is not None:
        best = refitted(weight, second, mask, start=fresh, damping=solver.damping)
        # In few digits the best may round to something worse.
        if error(weight, best, second) <= error(weight, fresh, second):
            fresh = best
    return fresh, mask


def scores_of(weight: Tensor, second: Tensor | None, solver: Solver) -> Tensor:
    """Return what decides, for scorers that look at each weight alone."""
    wide = weight if weight.dtype == torch.float64 else weight.float()
    if solver.scorer == "magnitude":
        return wide.abs()
    assert second is not None
    if callable(solver.scorer):
        return solver.scorer(wide, second)
    return wide.abs() * second.diagonal().sqrt().to(wide)
