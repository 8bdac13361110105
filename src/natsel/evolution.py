"""The training-time loop: masses evolve under fitness while the network trains."""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import NonFiniteError, choose, refuse
from natsel.communities import Communities
from natsel.communities.gates import Gated, install
from natsel.dynamics import Dynamic, competition
from natsel.dynamics import get as get_dynamic
from natsel.ecology import Ecology, Landing
from natsel.fitness import Fitness, Parts
from natsel.fitness import get as get_fitness
from natsel.fitness.parts import PartsReader, Watch
from natsel.selection import Sparsity, Survivors, select
from natsel.selection.budget import nearest_count
from natsel.trajectory import Trajectory

__all__ = ["CEILING", "Ecology", "Evolution", "Landing"]

CEILING = 0.999
"""A mass of exactly 1 is at rest under the logistic law, whatever its fitness: stay below."""

RESERVE = 0.1
"""Share of the extinction level that the living keep in a box: from exactly 0 nobody returns."""

MAX_PER_MASS = 50.0
"""Bound of the fitness per unit of mass, so that a nearly extinct population cannot explode."""

TENSORS = ("mass", "average", "alive", "below")


@dataclass
class _Group:
    """Communities of one size, evolved in one call: views of shape ``[communities, size]``."""

    positions: list[int]
    mass: Tensor
    average: Tensor
    alive: Tensor
    competition: Tensor | None = None
    any_dead: bool = False
    exposed: Tensor | None = None
    """1 where pressure is felt, ``[communities, 1]``; None if no community is at its floor."""


class Evolution:
    """Masses on the populations of a model, evolving with every training step.

    Each population gets a mass that scales its influence (a gate on the weights that read it).
    Once per step the fitness of every population is read from weights and gradients that training
    has anyway, averaged over a horizon, divided by the mean of its community's living, and the
    masses take one step of the dynamic. A population whose mass stays under ``level`` goes
    extinct: its mass is 0 for good, and removing it changes nothing. There is no schedule and no
    target: populations die because their fitness stays low. With a ``capacity`` the pressure is
    itself a state: it rises while more live than the environment carries, and nobody dies once
    they do not. A community at its floor feels no pressure, so that those who are left recover.

    Call :meth:`step` after ``loss.backward()`` and before ``optimizer.zero_grad()``, or pass the
    optimizer and it is called by itself before each ``optimizer.step()``, where the fitness
    identity is exact.

    Args:
        communities: from :func:`natsel.discover`; their model gets gates.
        dynamics: a registered law, or a function of the same form.
        fitness: a registered signal, or a function of ``Parts``.
        optimizer: if given, every ``optimizer.step()`` evolves the masses first.
        seed: seed of the generator that stochastic laws draw from.
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
        **constants: Any,
    ) -> None:
        if not len(communities):
            left = "; ".join(f"{r.name}: {r.reason}" for r in communities.refused[:3])
            refuse("communities", "none", f"a model with at least one community ({left})")
        self.dynamic = get_dynamic(dynamics)
        self.fitness = get_fitness(fitness)
        for name in constants:
            choose("constant", name, Ecology.__dataclass_fields__)
        self.ecology = Ecology(**{**self.dynamic.constants(), **constants})
        self.communities = communities
        self._carried = self._carrying()
        if optimizer is not None:
            self._check_holds(optimizer)
        self._device = next(communities.model.parameters()).device
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._alpha = 1.0 - math.exp(-1.0 / self.ecology.horizon)
        self._reader = PartsReader(communities)
        self._watch: Watch | None = None
        if self.fitness.statistic is not None:
            self._watch = Watch(communities, self.fitness.statistic, training=True)
        try:
            self._gates: list[Gated] = install(communities)
        except ValueError:
            if self._watch is not None:
                self._watch.close()
            raise
        self._pressure = float(self.ecology.pressure)
        self._steps = 0
        self._handle: Any = None
        self._populate()
        self.trajectory = Trajectory(communities.num_populations)
        self._write_gates()
        self.trajectory.record(0, self._in_order(self._influence))
        if optimizer is not None:
            self.attach(optimizer)

    # Training.

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Evolve before each ``optimizer.step()`` from now on; needed again after a deep copy.

        It ends by itself when the optimizer goes on with another model, as it does after
        ``natsel.extract(model, survivors, optimizer=optimizer)``.

        Raises:
            ValueError: if the optimizer holds no parameter of the model.
        """
        self._check_holds(optimizer)
        self.detach()
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    def detach(self) -> None:
        """Stop evolving before each ``optimizer.step()``; :meth:`step` still works."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._holds(optimizer):
            self.step()
        else:
            self.detach()

    def _holds(self, optimizer: torch.optim.Optimizer) -> bool:
        held = (id(p) for group in optimizer.param_groups for p in group["params"])
        return any(p in self._parameters for p in held)

    def _check_holds(self, optimizer: torch.optim.Optimizer) -> None:
        self._parameters = {id(p) for p in self.communities.model.parameters()}
        if not self._holds(optimizer):
            refuse("optimizer", type(optimizer).__name__, "one that holds the model's parameters")

    @torch.no_grad()
    def step(self) -> None:
        """Read the fitness of every population and evolve the masses by one step.

        Raises:
            ValueError: if there are no gradients to read (called after ``zero_grad``).
            NonFiniteError: if a fitness is NaN or infinite.

        Whatever it raises, masses and averages stay as they were.
        """
        raw = self._raw()
        full = self._carried is not None and self._num_alive <= self._carried
        if self._steps:
            self._average.lerp_(raw, self._alpha)
        else:
            self._average.copy_(raw)
        measures = self.dynamic.competes and self._steps % self.ecology.competition_every == 0
        masses = []
        for group in self._groups:
            if measures:
                group.competition = self._measure_competition(group)
            mass = self.dynamic.step(
                group.mass,
                self._payoff(group),
                self.ecology.rate,
                pressure=self._intensity(group, full=full),
                competition=group.competition,
                generator=self._generator,
            )
            if mass.shape != group.mass.shape:
                shapes = f"{tuple(group.mass.shape)} for masses of that shape"
                refuse("dynamics", self.dynamic.name, f"a law that returns shape {shapes}")
            masses.append(mass.reshape(-1))
        mass = torch.cat(masses)
        if self.dynamic.space == "box":
            mass.clamp_(RESERVE * self.ecology.level, CEILING)
        if self._num_alive < len(mass):
            mass.mul_(self._alive)
        # One reduction tells that nobody is near extinction, and that no mass is NaN.
        influence = self._influence_of(mass)
        num_safe = int(torch.count_nonzero(influence >= self.ecology.level))
        if num_safe < self._num_alive:
            self._check_finite(mass, f"masses under {self.dynamic.name!r}")
        self._mass.copy_(mass)
        if self._mass.data_ptr() != self._influence.data_ptr():
            self._influence[:-1] = influence
        self._steps += 1
        if self._watch:
            self._watch.reset()
        if not full:
            self._extinctions(any_under=num_safe < self._num_alive)
        if self._carried is not None and self._num_alive > self._carried:
            self._pressure += self.ecology.adaptation
        self._write_gates()
        if self._steps % self.trajectory.interval == 0:
            self.trajectory.record(self._steps, self._in_order(self._influence))

    # What users read.

    @property
    def num_steps(self) -> int:
        """Steps so far."""
        return self._steps

    @property
    def pressure(self) -> float:
        """The selection pressure now."""
        return self._pressure

    @property
    def num_alive(self) -> int:
        """How many populations are not extinct."""
        return self._num_alive

    @property
    def extinct_share(self) -> float:
        """Share of all populations that are extinct."""
        return 1.0 - self._num_alive / self.communities.num_populations

    @property
    def masses(self) -> dict[str, Tensor]:
        """The mass of every population, in [0, 1]: what scales its influence now."""
        return self._by_name(self._influence)

    @property
    def fitness_values(self) -> dict[str, Tensor]:
        """The averaged fitness of every population, 1 for the mean of its community's living."""
        return self._by_name(self._all_relative())

    @property
    def alive(self) -> dict[str, Tensor]:
        """Which populations are not extinct."""
        return self._by_name(self._alive.bool())

    def survivors(self, budget: Sparsity | None = None) -> Survivors:
        """Return who survives: all that did not go extinct, or exactly as many as a budget asks.

        Args:
            budget: how many to remove; the lowest masses go first, ties by fitness then index,
                over all communities together (masses are relative to their community already).

        Returns:
            The survivors, never fewer than the floor in a community.
        """
        if budget is None:
            return Survivors(self.alive, self.communities)
        return select(
            self.masses,
            budget,
            communities=self.communities,
            scope="global",
            normalize=None,
            floor=self.ecology.floor,
            ties=self.fitness_values,
        )

    def landing(self) -> Landing:
        """Say how close the run came to its carrying capacity.

        Raises:
            ValueError: if the run has no capacity.
        """
        capacity = self.ecology.capacity
        if capacity is None or self._carried is None:
            refuse("capacity", None, "a run with a carrying capacity")
        asked, reached = 1.0 - capacity, self.extinct_share
        landed = self._num_alive == self._carried or abs(asked - reached) <= 0.01
        words = (
            f"{reached:.1%} of the populations went extinct; the environment carries {capacity:.1%}"
        )
        if not landed:
            words += (
                f", which leaves {self._num_alive - self._carried} too many. Train longer, or "
                f"raise rate or adaptation (pressure is {self._pressure:.2f})"
            )
        return Landing(asked, reached, landed, words)

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as plain tensors and numbers."""
        return {
            "steps": self._steps,
            "pressure": self._pressure,
            "dynamics": self.dynamic.name,
            "fitness": self.fitness.name,
            "sizes": {name: c.size for name, c in self.communities.items()},
            "generator": self._generator.get_state(),
            **{name: getattr(self, f"_{name}").clone() for name in TENSORS},
            "competition": [
                None if g.competition is None else g.competition.clone() for g in self._groups
            ],
            "trajectory": self.trajectory.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the run that saved ``state`` was.

        Raises:
            ValueError: if the state is of another dynamic, fitness or model.
        """
        mine = self.state_dict()
        if missing := sorted(mine.keys() - state.keys()):
            refuse("state", f"one without {', '.join(missing)}", "the result of state_dict()")
        for name in ("dynamics", "fitness", "sizes"):
            if state[name] != mine[name]:
                refuse(f"state[{name!r}]", state[name], repr(mine[name]))
        self._steps, self._pressure = int(state["steps"]), float(state["pressure"])
        self._generator.set_state(state["generator"].cpu())
        for name in TENSORS:
            getattr(self, f"_{name}").copy_(state[name])
        for group, matrix in zip(self._groups, state["competition"], strict=True):
            group.competition = None if matrix is None else matrix.to(self._device, copy=True)
        self._count()
        self.trajectory.load_state_dict(state["trajectory"])
        self._write_gates()

    def __deepcopy__(self, memo: dict[int, Any]) -> Evolution:
        """Copy the evolution together with its model; call :meth:`attach` for its optimizer."""
        twin = object.__new__(Evolution)
        memo[id(self)] = twin
        for name, value in vars(self).items():
            if name == "_generator":
                twin._generator = torch.Generator(self._device)
                twin._generator.set_state(value.get_state())
            elif name == "_handle":
                twin._handle = None
            elif name not in ("_influence", *(f"_{t}" for t in TENSORS), "_groups", "_rows"):
                setattr(twin, name, copy.deepcopy(value, memo))
        twin._populate()
        for name in TENSORS:
            getattr(twin, f"_{name}").copy_(getattr(self, f"_{name}"))
        for mine, theirs in zip(self._groups, twin._groups, strict=True):
            theirs.competition = copy.deepcopy(mine.competition, memo)
        twin._count()
        twin._write_gates()
        return twin

    # Inside. All per-population tensors are flat, communities of one size side by side.

    def _carrying(self) -> int | None:
        if self.ecology.capacity is None:
            return None
        carried = nearest_count(self.ecology.capacity, self.communities.num_populations)
        least = sum(min(self.ecology.floor, c.size) for c in self.communities.values())
        if carried < least:
            refuse(
                "capacity",
                self.ecology.capacity,
                f"at least {least / self.communities.num_populations:.4f}: a floor of "
                f"{self.ecology.floor} keeps {least} populations alive",
            )
        return carried

    def _populate(self) -> None:
        """Lay out the tensors: everybody alive, with the initial mass."""
        total, device = self.communities.num_populations, self._device
        simplex = self.dynamic.space == "simplex"
        initial = 1.0 if simplex else min(self.ecology.initial, CEILING)
        # The last element is the mass of places that belong to no population.
        self._influence = torch.ones(total + 1, device=device)
        self._mass = torch.ones(total, device=device) if simplex else self._influence[:-1]
        self._mass.fill_(initial)
        self._average = torch.zeros(total, device=device)
        self._alive = torch.ones(total, device=device)
        self._below = torch.zeros(total, device=device)
        members: dict[int, list[int]] = defaultdict(list)
        for position, community in enumerate(self.communities.values()):
            members[community.size].append(position)
        self._groups = []
        self._starts = [0] * len(self.communities)
        start = 0
        for size, positions in members.items():
            stop = start + size * len(positions)
            mass, average, alive = (
                flat[start:stop].view(len(positions), size)
                for flat in (self._mass, self._average, self._alive)
            )
            self._groups.append(_Group(positions, mass, average, alive))
            for row, position in enumerate(positions):
                self._starts[position] = start + row * size
            start = stop
        self._sizes = [c.size for c in self.communities.values()]
        self._rows_at = sorted(self._starts)
        self._rows = [
            (position, self._influence[first : first + size])
            for position, (first, size) in sorted(
                enumerate(zip(self._starts, self._sizes, strict=True)), key=lambda item: item[1][0]
            )
        ]
        places = self._in_order(torch.arange(total + 1, device=device))
        places = torch.cat([places, places.new_tensor([total])])
        self._places = [places[gated.places.to(device)] for gated in self._gates]
        self._count()

    def _count(self) -> None:
        self._num_alive = int(self._alive.sum())
        self._any_below = bool(self._below.any())
        for group in self._groups:
            living = group.alive.sum(-1, keepdim=True)
            group.any_dead = bool((living < group.alive.shape[-1]).any())
            exposed = living > self.ecology.floor
            group.exposed = None if bool(exposed.all()) else exposed.float()

    def _raw(self) -> Tensor:
        """Return the fitness now, checked: ``[num_populations]``."""
        statistics = self._watch.read() if self._watch else None
        gradient = _gradient if self.fitness.needs_gradient else _no_gradient
        rows = []
        for position, mass in self._rows:
            row = self.fitness.signal(self._reader.read(position, mass, gradient, statistics))
            if row.shape != mass.shape:
                refuse("fitness", self.fitness.name, f"a signal of shape [{len(mass)}]")
            rows.append(row)
        raw = torch.cat(rows).float()
        if self._num_alive < len(raw):
            raw = raw * self._alive
        size = float(torch.linalg.vector_norm(raw, 1))
        if not math.isfinite(size):
            self._check_finite(raw, f"fitness {self.fitness.name!r}")
        # With masses near 0 a signal may vanish; after zero_grad no parameter has a gradient.
        if size == 0.0 and self.fitness.needs_gradient and not self._any_gradient():
            raise ValueError(
                "gradients=0 is not allowed: expected evolution.step() after loss.backward() "
                "and before optimizer.zero_grad()"
            )
        return raw

    def _any_gradient(self) -> bool:
        gradients = (p.grad for p in self.communities.model.parameters())
        return any(g is not None and bool(g.any()) for g in gradients)

    def _relative(self, group: _Group) -> Tensor:
        """Divide by the mean of the community's living, so that communities are comparable."""
        value = group.average.clamp(min=0.0) if self.fitness.signed else group.average
        if group.any_dead:
            value = value * group.alive
            mean = value.sum(-1, keepdim=True) / group.alive.sum(-1, keepdim=True)
        else:
            mean = value.mean(-1, keepdim=True)
        return value / mean.clamp_(min=1e-30)

    def _payoff(self, group: _Group) -> Tensor:
        """Return the fitness that the law sees.

        A signal such as |m dL/dm| is what a whole population contributes. Laws of the simplex
        describe growth per unit of mass: there it is divided by the mass, so that a population
        that has more than it makes use of loses to one that has less.
        """
        relative = self._relative(group)
        if self.dynamic.space == "box":
            return relative
        return (relative / group.mass.clamp(min=1e-6)).clamp_(max=MAX_PER_MASS)

    def _intensity(self, group: _Group, *, full: bool) -> float | Tensor:
        """Return the pressure that a law is given: none where nobody may die.

        On the simplex pressure is not a rate: it is the share of mass that full influence takes.
        """
        pressure = 0.0 if full else 1.0 if self.dynamic.space == "simplex" else self._pressure
        return pressure if group.exposed is None else pressure * group.exposed

    def _influence_of(self, mass: Tensor) -> Tensor:
        """Return what masses scale the network by, in [0, 1], both flat.

        In the box it is the mass itself. On the simplex the mean mass of a community's living is
        1, and a population needs ``pressure`` times that for its full influence.
        """
        if self.dynamic.space == "box":
            return mass
        needed = torch.full_like(mass, max(self._pressure, 1e-6))
        for group, view in zip(self._groups, self._views(needed), strict=True):
            if group.exposed is not None:
                view.mul_(group.exposed).clamp_(min=1e-6)
        return (mass / needed).clamp_(max=1.0)

    def _views(self, flat: Tensor) -> list[Tensor]:
        """Return a flat tensor as one view per group, ``[communities, size]`` each."""
        shapes = [group.mass.shape for group in self._groups]
        parts = flat.split([shape.numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def _all_relative(self) -> Tensor:
        return torch.cat([self._relative(group).reshape(-1) for group in self._groups])

    def _measure_competition(self, group: _Group) -> Tensor:
        matrices = []
        for row, position in enumerate(group.positions):
            parts = self._reader.read(position, group.mass[row], _no_gradient)
            rows = []
            for part in parts.producers:
                weight = part.weight.movedim(part.axis, 0)[part.index].flatten(1)
                rows.append(weight.float())
            matrices.append(competition(torch.cat(rows, dim=1)))
        return torch.stack(matrices)

    def _extinctions(self, *, any_under: bool) -> None:
        """Declare dead what stayed under the level, the smallest first, down to what is carried."""
        if not any_under:
            if self._any_below:
                self._below.zero_()
                self._any_below = False
            return
        self._below.add_(self._alive).mul_(self._influence[:-1] < self.ecology.level)
        self._any_below = True
        if float(self._below.max()) < self.ecology.patience:
            return
        dying = (self._below >= self.ecology.patience).nonzero().reshape(-1)
        if not len(dying):
            return
        candidates = sorted(
            zip(
                self._influence[dying].tolist(),
                self._all_relative()[dying].tolist(),
                dying.tolist(),
                strict=True,
            )
        )
        allowed = len(candidates) if self._carried is None else self._num_alive - self._carried
        dead: dict[int, list[int]] = defaultdict(list)
        for _, _, place in candidates[:allowed]:
            dead[bisect_right(self._rows_at, place) - 1].append(place)
        for row, places in dead.items():
            self._bury(row, places)
        self._count()

    def _bury(self, row: int, places: list[int]) -> None:
        """Bury populations of one community, the first ones first, down to its floor."""
        first = self._rows_at[row]
        whole = slice(first, first + self._sizes[self._rows[row][0]])
        places = places[: max(int(self._alive[whole].sum()) - self.ecology.floor, 0)]
        if not places:
            return
        index = torch.tensor(places, device=self._device)
        if self.dynamic.space == "simplex":
            # The mean mass of the living stays 1.
            living = float(self._alive[whole].sum()) - len(places)
            rest = float(self._mass[whole].sum()) - float(self._mass[index].sum())
            self._mass[whole] *= living / max(rest, 1e-30)
        for flat in (self._mass, self._alive, self._average, self._below):
            flat.index_fill_(0, index, 0.0)

    def _write_gates(self) -> None:
        if self._mass.data_ptr() != self._influence.data_ptr():
            self._influence[:-1] = self._influence_of(self._mass)
        for gated, places in zip(self._gates, self._places, strict=True):
            mass = gated.gate.mass
            if mass.dtype == torch.float32 and mass.device == self._device:
                torch.index_select(self._influence, 0, places, out=mass.view(-1))
            else:
                mass.copy_(self._influence.index_select(0, places).view_as(mass))

    def _in_order(self, flat: Tensor) -> Tensor:
        """Return numbers per population in the order of the communities."""
        return torch.cat(list(self._by_name(flat).values()))

    def _by_name(self, flat: Tensor) -> dict[str, Tensor]:
        return {
            name: flat[start : start + size].clone()
            for name, start, size in zip(self.communities, self._starts, self._sizes, strict=True)
        }

    def _check_finite(self, flat: Tensor, what: str) -> None:
        if bool(torch.isfinite(flat).all()):
            return
        for name, values in self._by_name(flat).items():
            if not bool(torch.isfinite(values).all()):
                raise NonFiniteError(
                    f"{what} became NaN or infinite at step {self._steps + 1} in community {name!r}"
                )


def _gradient(parameter: nn.Parameter) -> Tensor | None:
    if parameter.grad is None and parameter.requires_grad:
        # Nothing reached it in this step. If that is true of all, step() refuses.
        return torch.zeros_like(parameter)
    return parameter.grad


def _no_gradient(parameter: nn.Parameter) -> Tensor | None:
    return None
