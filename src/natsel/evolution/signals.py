"""What is read from the model in a step: how fit everybody is, and who competes with whom."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.common.sharding.local import is_spread, local
from natsel.common.sharding.reducing import any_of, summed
from natsel.common.sharding.wrapping import Spread, spread_of
from natsel.communities import Communities
from natsel.dynamics import competition
from natsel.evolution.populations import Group, Populations
from natsel.evolution.replicas import Replicas, check_alike
from natsel.fitness import Fitness
from natsel.fitness.parts import PartsReader, Watch
from natsel.fitness.taylor import OF_MASS_GRADIENT


class Signals:
    """Reads weights, gradients and, where the fitness wants them, activations of a model.

    Args:
        communities: whose populations to read.
        fitness: the signal.
        replicas: processes that train copies of the model. Gradients they have in common;
            activations each has of its own, so that statistics of those are taken over all.
    """

    def __init__(self, communities: Communities, fitness: Fitness, replicas: Replicas) -> None:
        self._replicas = replicas
        self._model = communities.model
        self._communities = {name: c.size for name, c in communities.items()}
        self._fitness = fitness
        self._reader = PartsReader(communities)
        self._spread: Spread | None = None
        self._watch: Watch | None = None
        if fitness.statistic is not None:
            self._watch = Watch(
                communities, fitness.statistic, training=True, asked=f"fitness={fitness.name!r}"
            )

    def read(self, populations: Populations, step: int, scale: Tensor | None = None) -> Tensor:
        """Return the fitness of every population now, flat.

        Args:
            populations: who is alive, with which mass.
            step: for messages.
            scale: what gradients were multiplied by, if they still are.

        Raises:
            ValueError: if the signal has the wrong shape, there are no gradients to read, or they
                are spread over processes.
            NonFiniteError: if it is NaN or infinite; the message names ``step``.
        """
        self._look_at_spread()
        gradient = _gradient if scale is None else _Unscaled(scale)
        raw = self._raw(populations, gradient)
        if populations.num_alive < len(raw):
            raw.mul_(populations.alive)
        # A sum that is finite has no term that is not; opposite terms that cancel do no harm.
        size = float(raw.sum())
        if not math.isfinite(size):
            populations.check_finite(raw, f"fitness {self._fitness.name!r}", step)
        # With masses near 0 a signal may vanish; after zero_grad no parameter has a gradient.
        if size == 0.0 and self._fitness.needs_gradient and not self._any_gradient():
            raise ValueError(
                "no gradient was found: call evolution.step() after loss.backward() and before "
                "optimizer.zero_grad(), or give the Evolution its optimizer; batches without "
                "samples or labels give none"
            )
        return raw

    def overflowed(self) -> bool:
        """Tell whether gradients are NaN or infinite while all weights are numbers.

        So it is where a loss was scaled up too far: the step is skipped, and the scale lowered.
        """
        weights = self._reader.weights()
        if not self._fitness.needs_gradient or self._any(not _is_finite(w) for w in weights):
            return False
        return self._any(w.grad is not None and not _is_finite(w.grad) for w in weights)

    def _raw(
        self, populations: Populations, given: Callable[[nn.Parameter], Tensor | None]
    ) -> Tensor:
        finish = OF_MASS_GRADIENT.get(self._fitness.signal)
        if finish is not None:
            read = self._reader.mass_gradient
            group = self._group
            rows = [read(position, given, group) for position, _ in populations.rows]
            return finish(summed(torch.cat(rows), group).float())
        statistics = self._watch.read(self._replicas.group()) if self._watch else None
        gradient = given if self._fitness.needs_gradient else _no_gradient
        by_sums = self._fitness.by_sums
        rows = []
        for position, mass in populations.rows:
            row = self._fitness.signal(
                self._reader.read(position, mass, gradient, statistics, by_sums=by_sums)
            )
            if row.shape != mass.shape:
                refuse("fitness", self._fitness.name, f"a signal of shape [{len(mass)}]")
            rows.append(row)
        return torch.cat(rows).float()

    def _any_gradient(self) -> bool:
        gradients = (p.grad for p in self._model.parameters())
        return self._any(g is not None and bool(local(g).any()) for g in gradients)

    def _any(self, told: Iterable[bool]) -> bool:
        """Tell whether anything is so in any process that holds a share of the model."""
        return any_of(any(told), self._group, self._reader.weights()[0].device)

    def _look_at_spread(self) -> None:
        """See whether the model is spread now; after a pass without backward, spread it again."""
        if any(map(is_spread, self._reader.weights())) is (self._spread is not None):
            if self._spread is not None:
                self._spread.settle()
            return
        self._spread = spread_of(self._model)
        if self._spread is not None:
            check_alike(self._communities, self._spread.group)

    @property
    def _group(self) -> Any:
        """The processes that the model is spread over; None if it is not."""
        return None if self._spread is None else self._spread.group

    def competition(self, group: Group) -> Tensor:
        """Return how alike the weights are that make the populations, ``[communities, n, n]``."""
        matrices = []
        for row, position in enumerate(group.positions):
            parts = self._reader.read(position, group.mass[row], _no_gradient)
            rows = []
            for part in parts.producers:
                weight = part.weight.movedim(part.axis, 0)[part.index].flatten(1)
                rows.append(weight.float())
            matrices.append(competition(torch.cat(rows, dim=1)))
        return torch.stack(matrices)

    def reset(self) -> None:
        """Forget the activations seen so far."""
        if self._watch is not None:
            self._watch.reset()

    def close(self) -> None:
        """Take what observes activations off the model."""
        if self._watch is not None:
            self._watch.close()


def _gradient(parameter: nn.Parameter) -> Tensor | None:
    if parameter.grad is None and parameter.requires_grad:
        # Nothing reached it in this step. If that is true of all, Signals.read refuses.
        return torch.zeros_like(parameter)
    return parameter.grad


class _Unscaled:
    """Reads gradients that still carry the scale of the loss."""

    def __init__(self, scale: Tensor) -> None:
        self._inverse = scale.double().reciprocal()

    def __call__(self, parameter: nn.Parameter) -> Tensor | None:
        gradient = _gradient(parameter)
        return None if gradient is None else gradient * self._inverse.to(gradient)


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(local(tensor)).all())


def _no_gradient(parameter: nn.Parameter) -> Tensor | None:
    return None
