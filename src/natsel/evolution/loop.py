"""The training-time loop: masses evolve under fitness while the network trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import NonFiniteError, refuse
from natsel.common.sharding.reducing import ALL
from natsel.common.showing import html_table, named
from natsel.communities import Communities
from natsel.communities.gates.averages import follow_averages
from natsel.communities.gates.gates import Gated, drop, install, suspended
from natsel.communities.gates.gates import fold as folded_in
from natsel.communities.gates.gating import check
from natsel.dynamics import Dynamic
from natsel.dynamics import get as get_dynamic
from natsel.evolution.attachment import Attachment, check_holds
from natsel.evolution.depth import check_branches
from natsel.evolution.ecology import Ecology, check_constants
from natsel.evolution.populations import Populations
from natsel.evolution.replicas import Replicas
from natsel.evolution.resuming import Resumable
from natsel.evolution.signals import Signals
from natsel.evolution.skips import Skips
from natsel.evolution.trajectory import Trajectory
from natsel.evolution.writing import Writer
from natsel.fitness import Fitness, Parts
from natsel.fitness import get as get_fitness


class Evolution(Resumable):
    """Masses on the populations of a model, evolving with every training step.

    Each population gets a mass that scales its influence (a gate on the weights that read it).
    Once per step the fitness of every population is read from weights and gradients that training
    has anyway, averaged over a horizon, divided by the mean of its community's living, and the
    masses take one step of the dynamic. A population whose mass stays under ``level`` goes
    extinct: its mass is 0 for good, and removing it changes nothing. There is no schedule and no
    target: populations die because their fitness stays low. With a ``capacity`` the pressure is
    itself a state: it rises while more live than the environment carries, and nobody dies once
    they do not; under a capacity of a tenth it also grows with itself. A community at its floor
    feels no pressure, so that those who are left recover.

    Call :meth:`step` after ``loss.backward()`` and before ``optimizer.zero_grad()``, or pass the
    optimizer and it is called by itself before each ``optimizer.step()``, where the fitness
    identity is exact.

    Args:
        communities: from :func:`natsel.discover`; their model gets gates.
        dynamics: a registered law, or a function of the same form.
        fitness: a registered signal, or a function of ``Parts``.
        optimizer: if given, every ``optimizer.step()`` evolves the masses, see :meth:`attach`.
        seed: seed of the generator that stochastic laws draw from.
        process_group: the processes that train copies of this model together: "default" for all of
            ``torch.distributed``, where it runs, or None if each trains a model of its own. Over
            them, statistics of activations are taken, and masses are compared.
        compare_every: steps between two comparisons, beside one after the first; None for never.
        constants: any field of :class:`Ecology`.

    Raises:
        ValueError: if a name or a constant is not allowed, or the model has no community.

    Example:
        >>> import natsel
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> evolution = Evolution(natsel.discover(model, (torch.zeros(1, 4),)))
        >>> model(torch.ones(3, 4)).square().mean().backward()
        >>> evolution.step()
        >>> evolution.num_steps
        1
    """

    def __init__(
        self,
        communities: Communities,
        *,
        dynamics: str | Dynamic | Callable[..., Tensor] = "logistic",
        fitness: str | Fitness | Callable[[Parts], Tensor] = "taylor",
        optimizer: torch.optim.Optimizer | None = None,
        seed: int = 0,
        process_group: Any = ALL,
        compare_every: int | None = 100,
        **constants: Any,
    ) -> None:
        communities.require()
        self.dynamic = get_dynamic(dynamics)
        self.fitness = get_fitness(fitness)
        check_branches(communities, self.fitness, self.dynamic)
        check_constants(constants)
        self.ecology = Ecology(**{**self.dynamic.constants(), **constants})
        self.communities = communities
        sizes = {name: community.size for name, community in communities.items()}
        self.ecology.check_floor(sizes)
        floors = [self.ecology.floor_of(community) for community in communities.values()]
        self._carried = self.ecology.carried(sizes.values(), floors=floors)
        self._replicas = Replicas(process_group, compare_every)
        if optimizer is not None:
            check_holds(optimizer, communities.model)
        check(communities)
        self._device = next(communities.model.parameters()).device
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._alpha = 1.0 - math.exp(-self.ecology.every / self.ecology.horizon)
        self._pressure = float(self.ecology.pressure)
        self._steps = 0
        self._skips = Skips()
        self._attachment: Attachment | None = None
        self._closed: str | None = None
        self._populations = Populations(
            sizes,
            self.ecology,
            space=self.dynamic.space,
            signed=self.fitness.signed,
            device=self._device,
            floors=floors,
        )
        try:
            self._signals = Signals(communities, self.fitness, self._replicas)
            self._gates: list[Gated] = install(communities)
            places = self._populations.places()
            self._writers = [
                Writer(gated, self._populations.influence, places[gated.places.to(self._device)])
                for gated in self._gates
            ]
            follow_averages()
            self._write_gates()
            self.trajectory = Trajectory(communities.num_populations)
            self._record()
            if optimizer is not None:
                self.attach(optimizer)
        except BaseException:
            self.detach()
            drop(communities.model)
            raise

    def __repr__(self) -> str:
        total = self.communities.num_populations
        state = "" if self._closed is None else f", {self._closed}"
        return (
            f"Evolution({named(self.dynamic.name)} law, {named(self.fitness.name)} fitness; step "
            f"{self._steps:,}: {self.num_alive:,} of {total:,} populations alive, pressure "
            f"{self._pressure:.4g}{state})"
        )

    def _repr_html_(self) -> str:
        alive, masses = self.alive, self.masses
        rows = (
            (name, c.kind, int(alive[name].sum()), c.size, f"{float(masses[name].mean()):.3f}")
            for name, c in self.communities.items()
        )
        head = ("community", "kind", "alive", "of", "mean mass")
        return html_table(head, rows, len(self.communities), [repr(self)])

    # Training.

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Evolve with each ``optimizer.step()`` from now on; needed again after a deep copy.

        The signal is read before the weights move; from a step with a closure, after the closure
        ran for the first time, and the masses change when the step is over. A step that a
        ``GradScaler`` skips evolves nothing. Of an optimizer that wraps another (accelerate's,
        lightning's) the inner one counts.

        It ends by itself when the optimizer goes on with another model, as it does after
        ``natsel.extract(model, survivors, optimizer=optimizer)``.

        Raises:
            ValueError: if the optimizer holds no parameter of the model.
        """
        self._check_open()
        check_holds(optimizer, self.communities.model)
        self.detach()
        self._attachment = Attachment(optimizer, self.communities.model, Steps(self))

    def detach(self) -> None:
        """Stop evolving before each ``optimizer.step()``; :meth:`step` still works."""
        if self._attachment is not None:
            self._attachment.end()
            self._attachment = None

    @torch.no_grad()
    def step(self) -> None:
        """Read the fitness of every population and evolve the masses by one step.

        Where gradients are NaN or infinite although no weight is, as they are when a scaled loss
        overflows, nothing evolves; ``num_skipped`` counts that.

        Raises:
            ValueError: if there are no gradients to read (called after ``zero_grad``), the model
                has moved to another device, or the evolution is closed.
            NonFiniteError: if a fitness is NaN or infinite for another reason, or too many steps
                in a row were skipped.
            PartedError: if processes that train together have different masses.

        Whatever it raises, masses stay as they were; averages too, unless the law is at fault.
        """
        try:
            self._advance(None)
        except NonFiniteError as error:
            if not self._signals.overflowed():
                raise
            self._skips.take(error)
            self._signals.reset()
            return
        self._write_gates()

    @torch.no_grad()
    def _advance(self, scale: Tensor | None) -> None:
        """Evolve by one step, but let the gates as they are."""
        self._check_open()
        if (device := self._gates[0].gate.mass.device) != self._device:
            refuse(
                "device",
                str(device),
                f"the model on {str(self._device)!r}, where it was when its Evolution was made; "
                "move it first, then make the Evolution",
            )
        if self._steps % self.ecology.every:
            self._steps += 1
            self._record_when_due()
            return
        populations = self._populations
        raw = self._signals.read(populations, self._steps + 1, scale)
        full = self._carried is not None and self.num_alive <= self._carried
        if self._steps:
            populations.average.lerp_(raw, self._alpha)
        else:
            populations.average.copy_(raw)
        mass = populations.confined(self._evolved(full=full))
        influence = populations.influence_of(mass, self._pressure)
        # One reduction tells that nobody is near extinction, and that no mass is NaN.
        lowest = populations.lowest(influence)
        if math.isnan(lowest):
            what = f"masses under {self.dynamic.name!r}"
            populations.check_finite(mass, what, self._steps + 1)
        populations.take(mass, influence)
        self._steps += 1
        self._signals.reset()
        if not full:
            populations.extinguish(lowest=lowest, carried=self._carried)
        if self._carried is not None:
            crowded = self.num_alive > self._carried
            self._pressure = self.ecology.next_pressure(self._pressure, crowded=crowded)
        populations.press(self._pressure)
        self._skips.over()
        self._record_when_due()
        self._replicas.compare_when_due(populations.influence, self._steps, self._generator)

    def _evolved(self, *, full: bool) -> Tensor:
        """Return the masses after one step of the law, flat.

        Args:
            full: whether no more live than the environment carries.
        """
        due = self._steps % self.ecology.competition_every < self.ecology.every
        measures = self.dynamic.competes and due
        populations, masses = self._populations, []
        for group in populations.groups:
            if measures:
                group.competition = self._signals.competition(group)
            mass = populations.stepped(
                group, self.dynamic, self._pressure, self._generator, full=full
            )
            if mass.shape != group.mass.shape:
                shapes = f"{tuple(group.mass.shape)} for masses of that shape"
                refuse("dynamics", self.dynamic.name, f"a law that returns shape {shapes}")
            masses.append(mass.reshape(-1))
        return torch.cat(masses)

    def _record_when_due(self) -> None:
        if self._steps % self.trajectory.interval == 0:
            self._record()

    def _write_gates(self) -> None:
        for writer in self._writers:
            writer.write()

    def _record(self) -> None:
        populations = self._populations
        self.trajectory.record(self._steps, populations.in_order(populations.influence))

    # The model without gates.

    @contextmanager
    def ungated(self) -> Iterator[nn.Module]:
        """Let the model be a plain one for a while, that computes the same.

        Its classes are its own, its weights hold the masses, nothing of natsel is in it. Afterwards
        every weight is what it was before, bit for bit; one that was changed meanwhile acts as it
        does then.

        Yields:
            The model.

        Raises:
            ValueError: if the evolution is closed.

        Example:
            >>> import natsel
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
            >>> evolution = Evolution(natsel.discover(model, (torch.zeros(1, 4),)))
            >>> with evolution.ungated() as plain:
            ...     type(plain[1]) is torch.nn.Linear
            True
        """
        self._check_open()
        self._closed = "inside evolution.ungated()"
        try:
            with suspended(self.communities.model, fold=True):
                yield self.communities.model
        finally:
            self._closed = None

    def close(self, *, fold: bool = True) -> None:
        """Take gates, hooks and classes off the model for good, and evolve no more.

        Args:
            fold: True to multiply the masses into the weights, so that the model computes what it
                does now; False to drop them, so that its weights are those that were trained.

        Raises:
            ValueError: if it is closed already, or ``fold`` is no boolean.

        Masses, survivors and trajectory can still be read.
        """
        if not isinstance(fold, bool):
            refuse("fold", fold, "True (masses go into the weights) or False (they are dropped)")
        self._check_open()
        self.detach()
        self._signals.close()
        remove = folded_in if fold else drop
        remove(self.communities.model)
        self._closed = "closed"

    @property
    def is_closed(self) -> bool:
        """Whether the gates are off the model for good."""
        return self._closed == "closed"

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ValueError(
                f"this evolution is {self._closed}: expected one that is open"
                + ("; make a new Evolution of the model" if self._closed == "closed" else "")
            )


class Steps:
    """What an optimizer tells an evolution."""

    def __init__(self, evolution: Evolution) -> None:
        self._evolution = evolution

    def advance(self, scale: Tensor | None = None) -> None:
        """Evolve by one step; the gates stay as they are."""
        self._evolution._advance(scale)

    def write(self) -> None:
        """Write the masses into the gates."""
        self._evolution._write_gates()

    def skip(self) -> None:
        """Evolve nothing: gradients overflowed."""
        self._evolution._skips.count()
        self._evolution._signals.reset()
