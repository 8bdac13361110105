"""The training-time loop: masses evolve under fitness while the network trains."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from natsel.common.errors import NonFiniteError, refuse
from natsel.communities import Communities
from natsel.communities.gates import Gated, install
from natsel.dynamics import Dynamic, competition
from natsel.dynamics import get as get_dynamic
from natsel.fitness import Fitness, Parts
from natsel.fitness import get as get_fitness
from natsel.fitness.parts import PartsReader, Watch
from natsel.selection import Sparsity, Survivors, select
from natsel.trajectory import Trajectory

CEILING = 0.999
"""A mass of exactly 1 is at rest under the logistic law, whatever its fitness: stay below."""


@dataclass(frozen=True)
class Ecology:
    """The constants of a run; all are per training step, and none knows how long the run is.

    Attributes:
        rate: time that passes in one training step.
        pressure: selection pressure at the start (constant unless there is a capacity).
        horizon: steps over which fitness is averaged (the time constant of the EMA).
        initial: mass of every population at the start, in (0, 1].
        level: a population whose mass stays under this level goes extinct.
        patience: for how many steps it has to stay there.
        floor: how many populations of each community survive at least.
        capacity: share of all populations that the environment carries, or None.
        adaptation: how fast the pressure rises while more live than the environment carries.
        competition_every: steps between two measurements of who competes with whom.
    """

    rate: float
    pressure: float
    horizon: int = 100
    initial: float = 0.9
    level: float = 0.02
    patience: int = 20
    floor: int = 1
    capacity: float | None = None
    adaptation: float = 5e-4
    competition_every: int = 100

    def __post_init__(self) -> None:
        for name in ("rate", "pressure", "adaptation"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                refuse(name, value, "a finite number >= 0")
        for name in ("horizon", "patience", "competition_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                refuse(name, value, "a whole number >= 1")
        if not 0 < self.initial <= 1:
            refuse("initial", self.initial, "a mass in (0, 1]")
        if not 0 < self.level < self.initial:
            refuse("level", self.level, f"a mass in (0, initial={self.initial})")
        if not isinstance(self.floor, int) or self.floor < 1:
            refuse("floor", self.floor, "a whole number >= 1")
        if self.capacity is not None and not 0 < self.capacity <= 1:
            refuse("capacity", self.capacity, "a share in (0, 1], or None")


@dataclass
class _Group:
    """Communities of one size, evolved in one call: tensors of shape ``[communities, size]``."""

    positions: list[int]
    mass: Tensor
    average: Tensor
    alive: Tensor
    below: Tensor
    competition: Tensor | None = None
    any_dead: bool = False


@dataclass(frozen=True)
class Landing:
    """How a run with a carrying capacity ended.

    Attributes:
        asked: share of populations that should be extinct.
        reached: share that is.
        landed: whether the two are within 1 %.
        message: the same in words.
    """

    asked: float
    reached: float
    landed: bool
    message: str


class Evolution:
    """Masses on the populations of a model, evolving with every training step.

    Each population gets a mass that scales its influence (a gate on the weights that read it).
    Once per step the fitness of every population is read from weights and gradients that training
    has anyway, averaged over a horizon, divided by the mean of its community's living, and the
    masses take one step of the dynamic. A population whose mass stays under ``level`` goes
    extinct: its mass is 0 for good, and removing it changes nothing. There is no schedule and no
    target: populations die because their fitness stays low. With a ``capacity`` the pressure is
    itself a state: it rises while more live than the environment carries, and nobody dies once
    they do not.

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
        known = Ecology.__dataclass_fields__
        for name in constants:
            if name not in known:
                refuse("constant", name, f"one of {', '.join(known)}")
        defaults = {"rate": self.dynamic.rate, "pressure": self.dynamic.pressure}
        self.ecology = Ecology(**{**defaults, **constants})
        self.communities = communities
        self._reader = PartsReader(communities)
        self._watch = (
            Watch(communities, self.fitness.statistic) if self.fitness.statistic else None
        )
        self._gates: list[Gated] = install(communities)
        self._generator = torch.Generator().manual_seed(seed)
        self._pressure = float(self.ecology.pressure)
        self._steps = 0
        self._handle: Any = None
        self._device = next(communities.model.parameters()).device
        self._groups = self._make_groups()
        self.trajectory = Trajectory(communities.num_populations)
        self._write_gates()
        self.trajectory.record(0, self._flat())
        if optimizer is not None:
            self.attach(optimizer)

    # Training.

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Evolve before each ``optimizer.step()`` from now on; needed again after a deep copy."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    def _before_step(self, *_: Any) -> None:
        self.step()

    @torch.no_grad()
    def step(self) -> None:
        """Read the fitness of every population and evolve the masses by one step.

        Raises:
            ValueError: if there are no gradients to read (called after ``zero_grad``).
            NonFiniteError: if a fitness is NaN or infinite; masses stay as they were.
        """
        self._steps += 1
        with_capacity = self.ecology.capacity is not None
        pressure = self._pressure
        if with_capacity and self.num_alive <= self._carried():
            pressure = 0.0
        alpha = 1.0 - math.exp(-1.0 / self.ecology.horizon)
        statistics = self._watch.read() if self._watch else None
        for group in self._groups:
            raw = self._raw(group, statistics)
            if self._steps == 1:
                group.average.copy_(raw)
            else:
                group.average.lerp_(raw, alpha)
            total = float(group.average.sum())
            if not math.isfinite(total):
                self._report_non_finite(group)
            if total == 0.0 and self.fitness.needs_gradient and not self.fitness.signed:
                raise ValueError(
                    "gradients=0 is not allowed: expected evolution.step() after loss.backward() "
                    "and before optimizer.zero_grad()"
                )
            if self.dynamic.competes and (self._steps - 1) % self.ecology.competition_every == 0:
                group.competition = self._measure_competition(group)
            mass = self.dynamic.step(
                group.mass,
                self._relative(group),
                self.ecology.rate,
                pressure=pressure,
                competition=group.competition,
                generator=self._generator,
            )
            if self.dynamic.space == "box":
                mass = mass.clamp_(0.0, CEILING)
            group.mass = mass * group.alive if group.any_dead else mass
        if self._watch:
            self._watch.reset()
        self._extinctions()
        self._write_gates()
        if with_capacity:
            self._adapt()
        if self._steps % self.trajectory.interval == 0:
            self.trajectory.record(self._steps, self._flat())

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
        return self.communities.num_populations - sum(
            int((g.alive == 0).sum()) for g in self._groups if g.any_dead
        )

    @property
    def extinct_share(self) -> float:
        """Share of all populations that are extinct."""
        return 1.0 - self.num_alive / self.communities.num_populations

    @property
    def masses(self) -> dict[str, Tensor]:
        """The mass of every population, in [0, 1]: what scales its influence now."""
        return self._by_name(lambda g: g.mass.clamp(max=1.0))

    @property
    def fitness_values(self) -> dict[str, Tensor]:
        """The averaged fitness of every population, 1 for the mean of its community's living."""
        return self._by_name(self._relative)

    @property
    def alive(self) -> dict[str, Tensor]:
        """Which populations are not extinct."""
        return self._by_name(lambda g: g.alive.bool())

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
            {n: m.double() for n, m in self.masses.items()},
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
        if capacity is None:
            refuse("capacity", None, "a run with a carrying capacity")
        asked, reached = 1.0 - capacity, self.extinct_share
        landed = abs(asked - reached) <= 0.01
        words = (
            f"{reached:.1%} of the populations went extinct; the environment carries {capacity:.1%}"
        )
        if not landed:
            words += (
                f": {abs(asked - reached):.1%} away. Train longer, or raise rate or adaptation "
                f"(pressure is {self._pressure:.2f})"
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
            "generator": self._generator.get_state(),
            "groups": [
                {
                    "mass": g.mass.clone(),
                    "average": g.average.clone(),
                    "alive": g.alive.clone(),
                    "below": g.below.clone(),
                    "competition": None if g.competition is None else g.competition.clone(),
                }
                for g in self._groups
            ],
            "trajectory": self.trajectory.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the run that saved ``state`` was.

        Raises:
            ValueError: if the state is of another dynamic, fitness or model.
        """
        for name, mine in (("dynamics", self.dynamic.name), ("fitness", self.fitness.name)):
            if state[name] != mine:
                refuse(f"state[{name!r}]", state[name], repr(mine))
        if [g["mass"].shape for g in state["groups"]] != [g.mass.shape for g in self._groups]:
            shapes = [tuple(g["mass"].shape) for g in state["groups"]]
            refuse("state", shapes, f"masses of shapes {[tuple(g.mass.shape) for g in self._groups]}")
        self._steps, self._pressure = int(state["steps"]), float(state["pressure"])
        self._generator.set_state(state["generator"].cpu())
        for group, saved in zip(self._groups, state["groups"], strict=True):
            group.mass = saved["mass"].to(self._device).clone()
            group.average = saved["average"].to(self._device).clone()
            group.alive = saved["alive"].to(self._device).clone()
            group.below = saved["below"].to(self._device).clone()
            group.any_dead = not bool(group.alive.bool().all())
            matrix = saved["competition"]
            group.competition = None if matrix is None else matrix.to(self._device).clone()
        self.trajectory.load_state_dict(state["trajectory"])
        self._write_gates()

    def __deepcopy__(self, memo: dict[int, Any]) -> Evolution:
        """Copy the evolution together with its model; call :meth:`attach` for its optimizer."""
        twin = object.__new__(Evolution)
        memo[id(self)] = twin
        for name, value in vars(self).items():
            if name == "_generator":
                generator = torch.Generator()
                generator.set_state(value.get_state())
                twin._generator = generator
            elif name == "_handle":
                twin._handle = None
            else:
                setattr(twin, name, copy.deepcopy(value, memo))
        return twin

    # Inside.

    def _make_groups(self) -> list[_Group]:
        positions: dict[int, list[int]] = {}
        for position, community in enumerate(self.communities.values()):
            positions.setdefault(community.size, []).append(position)
        initial = 1.0 if self.dynamic.space == "simplex" else min(self.ecology.initial, CEILING)
        return [
            _Group(
                positions=members,
                mass=torch.full((len(members), size), initial, device=self._device),
                average=torch.zeros(len(members), size, device=self._device),
                alive=torch.ones(len(members), size, device=self._device),
                below=torch.zeros(len(members), size, device=self._device),
            )
            for size, members in positions.items()
        ]

    def _raw(self, group: _Group, statistics: Mapping[tuple[str, int], Tensor] | None) -> Tensor:
        rows = [
            self.fitness.signal(
                self._reader.read(
                    position, group.mass[row].clamp(max=1.0), _gradient, statistics
                )
            )
            for row, position in enumerate(group.positions)
        ]
        raw = torch.stack(rows).float() if len(rows) > 1 else rows[0].float().unsqueeze(0)
        return raw * group.alive if group.any_dead else raw

    def _relative(self, group: _Group) -> Tensor:
        """Divide by the mean of the community's living, so that communities are comparable."""
        value = group.average.clamp(min=0.0) if self.fitness.signed else group.average
        if group.any_dead:
            value = value * group.alive
            mean = value.sum(-1, keepdim=True) / group.alive.sum(-1, keepdim=True)
        else:
            mean = value.mean(-1, keepdim=True)
        return value / mean.clamp(min=1e-30)

    def _measure_competition(self, group: _Group) -> Tensor:
        matrices = []
        for position in group.positions:
            parts = self._reader.read(position, group.mass[0], lambda _: None)
            rows = []
            for part in parts.producers:
                weight = part.weight.movedim(part.axis, 0)[part.index].flatten(1)
                rows.append(weight.float())
            matrices.append(competition(torch.cat(rows, dim=1)))
        return torch.stack(matrices)

    def _carried(self) -> int:
        assert self.ecology.capacity is not None
        return math.floor(self.ecology.capacity * self.communities.num_populations + 0.5)

    def _adapt(self) -> None:
        excess = self.num_alive / max(self._carried(), 1) - 1.0
        if excess > 0:
            self._pressure += self.ecology.adaptation * min(excess, 1.0)

    def _extinctions(self) -> None:
        """Declare dead what stayed under the level, the smallest first, down to what is carried."""
        allowed = self.communities.num_populations
        if self.ecology.capacity is not None:
            allowed = self.num_alive - self._carried()
            if allowed <= 0:
                return
        for group in self._groups:
            under = (group.mass < self.ecology.level) & group.alive.bool()
            group.below = torch.where(under, group.below + 1, 0.0)
        dying = [(g.below >= self.ecology.patience) for g in self._groups]
        if not any(bool(d.any()) for d in dying):
            return
        candidates = []
        for index, (group, dead) in enumerate(zip(self._groups, dying, strict=True)):
            fitness = self._relative(group)
            for row, column in dead.nonzero().tolist():
                candidates.append(
                    (float(group.mass[row, column]), float(fitness[row, column]), index, row, column)
                )
        for _, _, index, row, column in sorted(candidates)[:allowed]:
            group = self._groups[index]
            if float(group.alive[row].sum()) <= self.ecology.floor:
                continue
            self._bury(group, row, column)

    def _bury(self, group: _Group, row: int, column: int) -> None:
        if self.dynamic.space == "simplex":
            share = float(group.mass[row, column])
            total = float(group.mass[row].sum())
            group.mass[row] *= total / max(total - share, 1e-30)
        group.mass[row, column] = 0.0
        group.alive[row, column] = 0.0
        group.average[row, column] = 0.0
        group.any_dead = True

    def _flat(self) -> Tensor:
        """Return all masses in the order of the communities, ``[num_populations]``."""
        rows: list[Tensor] = [torch.empty(0)] * len(self.communities)
        for group in self._groups:
            bounded = group.mass.clamp(max=1.0) if self.dynamic.space == "simplex" else group.mass
            for row, position in enumerate(group.positions):
                rows[position] = bounded[row]
        return torch.cat(rows)

    def _write_gates(self) -> None:
        flat = self._flat()
        flat = torch.cat([flat, torch.ones(1, device=flat.device)])
        for gated in self._gates:
            target = gated.gate.mass
            value = flat.index_select(0, gated.places)
            target.copy_(value.reshape(target.shape))

    def _by_name(self, function: Callable[[_Group], Tensor]) -> dict[str, Tensor]:
        names = list(self.communities)
        found = {}
        for group in self._groups:
            for row, position in zip(function(group), group.positions, strict=True):
                found[names[position]] = row.detach().clone()
        return {name: found[name] for name in names}

    def _report_non_finite(self, group: _Group) -> None:
        names = list(self.communities)
        for row, position in enumerate(group.positions):
            if not bool(torch.isfinite(group.average[row]).all()):
                raise NonFiniteError(
                    f"fitness {self.fitness.name!r} became NaN or infinite at step {self._steps} "
                    f"in community {names[position]!r}"
                )


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise ValueError(
            "gradients=None is not allowed: expected evolution.step() after loss.backward() and "
            "before optimizer.zero_grad()"
        )
    return parameter.grad
