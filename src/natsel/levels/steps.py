"""Single weights as levels: each layer solved at several sparsities, of which a plan takes one.

The steps between two of them are the populations of a layer: with ``k`` of its steps kept, a layer
runs on the weights that were solved for that sparsity. So a candidate is put together, not solved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from natsel.blockwise import Held, Store
from natsel.common.errors import NonFiniteError, refuse
from natsel.common.progress import Progress, silent
from natsel.levels.space import Place, Space
from natsel.selection.budget import Gauge, Sparsity
from natsel.single_weights.in_block import Solver, sparse
from natsel.single_weights.matrices import as_matrix, like_weight
from natsel.single_weights.moments import second_moments
from natsel.single_weights.obs import Prepared, error, prepare
from natsel.single_weights.patterns import OfRows
from natsel.single_weights.visiting import visit

LAST = 0.9
"""Of the weights that a uniform plan leaves, the share that the sparsest level may take."""


@dataclass(frozen=True)
class Steps:
    """The levels of one layer.

    Attributes:
        name: of its weight.
        rows: outputs.
        columns: inputs.
        removed: of each row, how many weights go at each level; the first level is the sparsest.
        errors: what each level changes over the data, as a share of what the layer gives.
        even: the level of the uniform plan.
    """

    name: str
    rows: int
    columns: int
    removed: tuple[int, ...]
    errors: tuple[float, ...]
    even: int

    def left(self, level: int) -> int:
        """Return how many weights a level leaves."""
        return self.rows * (self.columns - self.removed[level])


def grid(columns: int, share: float, spread: float, num: int) -> tuple[tuple[int, ...], int]:
    """Return how many weights of a row go at each level, the sparsest first, and the even one.

    Args:
        columns: of the row.
        share: that goes of it in the uniform plan.
        spread: by how much the shares of the outermost levels differ from that.
        num: levels on either side.

    Raises:
        ValueError: if nothing of a row would stay.

    Example:
        >>> grid(100, 0.7, 0.2, 2)
        ((90, 80, 70, 60, 50), 2)
        >>> grid(4, 0.5, 0.2, 2)
        ((3, 2, 1), 1)
    """
    middle = Sparsity(share).count(columns)
    if middle == columns:
        refuse("sparsity", f"{columns} of {columns} weights of a row", "a share that leaves one")
    reach = min(spread, share, LAST * (1 - share))
    found = {middle}
    for k in range(1, num + 1):
        step = max(int(k == num), round(reach * k / num * columns))
        step = min(step, columns - 1 - middle, middle)
        found |= {middle + step, middle - step}
    counts = tuple(sorted(found, reverse=True))
    return counts, counts.index(middle)


class Solved:
    """Every layer at every level, packed: which weights stay, and their values.

    Lends the model with one level of each layer, as :class:`natsel.levels.judge.Judge` asks for.

    Args:
        model: the dense one; it is not changed.
        layers: by the name of their weight.
        store: where the weights are held; in memory by default.

    Attributes:
        steps: of each layer.
        owned: of each layer its weight.
        passes: of the model over the data.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, nn.Module], *, store: Store | None = None
    ) -> None:
        self.model = model
        self.steps: dict[str, Steps] = {}
        self.owned: Mapping[str, Sequence[Sequence[str]]] = {}
        self.passes = 0.0
        self._layers = layers
        self._store: Store = Held() if store is None else store
        self._first: dict[str, int] = {}
        self._now: dict[str, tuple[int, Tensor]] = {}

    def solve(
        self,
        batches: Any,
        share: float,
        *,
        spread: float,
        num: int,
        solver: Solver,
        progress: Progress = silent,
    ) -> None:
        """Solve all levels of all layers, from what enters them in the dense model.

        Args:
            batches: that can be read again.
            share: that goes in the uniform plan.
            spread: see :func:`grid`.
            num: see :func:`grid`.
            solver: how.
            progress: called after each block.

        Raises:
            NonFiniteError: if a weight, or what enters a layer, holds NaN or infinity.
        """

        def take(layers: Mapping[str, nn.Module], look: Any) -> None:
            seconds = second_moments(layers, look)
            ready: dict[int, tuple[Tensor, Prepared | None]] = {}
            for name, layer in layers.items():
                if name not in seconds:
                    continue
                if (key := id(seconds[name])) not in ready:  # layers that read the same share one
                    ready[key] = _ready(name, seconds[name].mean, solver)
                self._solve(name, layer, *ready[key], grid_of(layer, share, spread, num), solver)

        self.passes = visit(
            self.model, self._layers, batches, take, told="levels: solve", progress=progress
        )
        self.owned = {name: [[name]] for name in self.steps}

    def _solve(
        self,
        name: str,
        layer: nn.Module,
        second: Tensor,
        prepared: Prepared | None,
        counts: tuple[tuple[int, ...], int],
        solver: Solver,
    ) -> None:
        weight = as_matrix(layer, layer.get_parameter("weight").detach())
        second = second.to(weight.device)
        if not bool(torch.isfinite(weight).all()):
            raise NonFiniteError(f"{name} holds NaN or infinity")
        whole = error(weight, torch.zeros_like(weight), second)
        errors = []
        self._first[name] = 2 * sum(len(s.removed) for s in self.steps.values())
        for level, removed in enumerate(counts[0]):
            fresh, mask = sparse(weight, second, OfRows(removed), solver, prepared=prepared)
            errors.append(error(weight, fresh, second) / whole if whole else 0.0)
            bits = np.packbits(mask.cpu().numpy().reshape(-1))
            at = self._first[name] + 2 * level
            self._store.put(at, torch.from_numpy(bits))
            self._store.put(at + 1, fresh[mask])
        rows, columns = weight.shape
        self.steps[name] = Steps(name, rows, columns, counts[0], tuple(errors), counts[1])

    def weight(self, name: str, level: int) -> Tensor:
        """Return the weight of a layer at a level, in its own shape."""
        steps, layer = self.steps[name], self._layers[name]
        at = self._first[name] + 2 * level
        size = steps.rows * steps.columns
        bits = np.unpackbits(self._store.get(at).numpy(), count=size)
        values = self._store.get(at + 1).to(layer.get_parameter("weight").device)
        mask = torch.from_numpy(bits).bool().to(values.device)
        matrix = torch.zeros(size, dtype=values.dtype, device=values.device)
        matrix.masked_scatter_(mask, values)
        return like_weight(layer, matrix.view(steps.rows, steps.columns))

    @contextmanager
    def masked(
        self, survivors: Mapping[str, Tensor]
    ) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        """Lend the model, and the weights of the levels that some steps come to."""
        replaced = {}
        for name in self.steps:
            level = int(survivors[name].sum())
            if name not in self._now or self._now[name][0] != level:
                self._now[name] = (level, self.weight(name, level))
            replaced[name] = self._now[name][1]
        yield self.model, replaced

    def space(self) -> Space:
        """Return the space of all plans that leave no more weights than the uniform one."""
        places = [Place(n, tuple(range(len(s.removed) - 1)), 0) for n, s in self.steps.items()]
        kinds = [f"{s.rows} x {s.columns}" for s in self.steps.values()]
        alike = [
            tuple(i for i, kind in enumerate(kinds) if kind == each)
            for each in dict.fromkeys(kinds)
        ]
        size = sum(s.rows * s.columns for s in self.steps.values())
        limit = sum(s.left(s.even) for s in self.steps.values())

        def read(survivors: Mapping[str, Tensor]) -> float:
            return float(sum(s.left(int(survivors[n].sum())) for n, s in self.steps.items()))

        gauge = Gauge(
            name="sparsity",
            asked=1 - limit / size,
            limit=limit,
            read=read,
            describe=lambda left: f"a sparsity of {1 - left / size:.4f} ({left:,.0f} of {size:,})",
        )
        return Space(places, gauge, kinds=kinds, alike=alike)


def _ready(name: str, second: Tensor, solver: Solver) -> tuple[Tensor, Prepared | None]:
    if not bool(torch.isfinite(second).all()):
        raise NonFiniteError(f"what enters {name} holds NaN or infinity")
    return second, prepare(second, damping=solver.damping) if solver.scorer == "obs" else None


def grid_of(layer: nn.Module, share: float, spread: float, num: int) -> tuple[tuple[int, ...], int]:
    """Return the levels of a layer, see :func:`grid`."""
    columns = as_matrix(layer, layer.get_parameter("weight")).shape[1]
    return grid(columns, share, spread, num)
