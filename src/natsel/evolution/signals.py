"""What is read from the model in a step: how fit everybody is, and who competes with whom."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.communities import Communities
from natsel.dynamics import competition
from natsel.evolution.populations import Group, Populations
from natsel.fitness import Fitness
from natsel.fitness.parts import PartsReader, Watch
from natsel.fitness.taylor import OF_MASS_GRADIENT


class Signals:
    """Reads weights, gradients and, where the fitness wants them, activations of a model.

    Args:
        communities: whose populations to read.
        fitness: the signal.
    """

    def __init__(self, communities: Communities, fitness: Fitness) -> None:
        self._model = communities.model
        self._fitness = fitness
        self._reader = PartsReader(communities)
        self._watch: Watch | None = None
        if fitness.statistic is not None:
            self._watch = Watch(
                communities, fitness.statistic, training=True, asked=f"fitness={fitness.name!r}"
            )

    def read(self, populations: Populations, step: int) -> Tensor:
        """Return the fitness of every population now, flat.

        Raises:
            ValueError: if the signal has the wrong shape, or there are no gradients to read.
            NonFiniteError: if it is NaN or infinite; the message names ``step``.
        """
        raw = self._raw(populations)
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

    def _raw(self, populations: Populations) -> Tensor:
        finish = OF_MASS_GRADIENT.get(self._fitness.signal)
        if finish is not None:
            read = self._reader.mass_gradient
            rows = [read(position, _gradient) for position, _ in populations.rows]
            return finish(torch.cat(rows).float())
        statistics = self._watch.read() if self._watch else None
        gradient = _gradient if self._fitness.needs_gradient else _no_gradient
        rows = []
        for position, mass in populations.rows:
            row = self._fitness.signal(self._reader.read(position, mass, gradient, statistics))
            if row.shape != mass.shape:
                refuse("fitness", self._fitness.name, f"a signal of shape [{len(mass)}]")
            rows.append(row)
        return torch.cat(rows).float()

    def _any_gradient(self) -> bool:
        gradients = (p.grad for p in self._model.parameters())
        return any(g is not None and bool(g.any()) for g in gradients)

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


def _no_gradient(parameter: nn.Parameter) -> Tensor | None:
    return None
