"""The training-time loop: masses evolve under fitness while the network trains."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.communities import Communities
from natsel.communities.gates import Gated, install
from natsel.dynamics import Dynamic
from natsel.dynamics import get as get_dynamic
from natsel.evolution.attachment import Attachment, check_holds
from natsel.evolution.ecology import Ecology, Landing, check_constants
from natsel.evolution.outlook import Future, Outlook, describe, foretell
from natsel.evolution.populations import Populations
from natsel.evolution.signals import Signals
from natsel.evolution.trajectory import Trajectory
from natsel.evolution.writing import Writer
from natsel.fitness import Fitness, Parts
from natsel.fitness import get as get_fitness
from natsel.selection import Sparsity, Survivors, select


class Evolution:
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
        communities.require()
        self.dynamic = get_dynamic(dynamics)
        self.fitness = get_fitness(fitness)
        check_constants(constants)
        self.ecology = Ecology(**{**self.dynamic.constants(), **constants})
        self.communities = communities
        sizes = {name: community.size for name, community in communities.items()}
        self.ecology.check_floor(sizes)
        floors = [self.ecology.floor_of(community) for community in communities.values()]
        self._carried = self.ecology.carried(sizes.values(), floors=floors)
        if optimizer is not None:
            check_holds(optimizer, communities.model)
        self._device = next(communities.model.parameters()).device
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._alpha = 1.0 - math.exp(-self.ecology.every / self.ecology.horizon)
        self._signals = Signals(communities, self.fitness)
        try:
            self._gates: list[Gated] = install(communities)
        except ValueError:
            self._signals.close()
            raise
        self._pressure = float(self.ecology.pressure)
        self._steps = 0
        self._attachment: Attachment | None = None
        self._populations = Populations(
            sizes,
            self.ecology,
            space=self.dynamic.space,
            signed=self.fitness.signed,
            device=self._device,
            floors=floors,
        )
        places = self._populations.places()
        self._writers = [
            Writer(gated, self._populations.influence, places[gated.places.to(self._device)])
            for gated in self._gates
        ]
        self._write_gates()
        self.trajectory = Trajectory(communities.num_populations)
        self._record()
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
        check_holds(optimizer, self.communities.model)
        self.detach()
        self._attachment = Attachment(optimizer, self.communities.model, self.step)

    def detach(self) -> None:
        """Stop evolving before each ``optimizer.step()``; :meth:`step` still works."""
        if self._attachment is not None:
            self._attachment.end()
            self._attachment = None

    @torch.no_grad()
    def step(self) -> None:
        """Read the fitness of every population and evolve the masses by one step.

        Raises:
            ValueError: if there are no gradients to read (called after ``zero_grad``), or the model
                has moved to another device.
            NonFiniteError: if a fitness is NaN or infinite.

        Whatever it raises, masses stay as they were; averages too, unless the law is at fault.
        """
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
        raw = self._signals.read(populations, self._steps + 1)
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
        self._write_gates()
        self._record_when_due()

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
            mass = self.dynamic.step(
                group.mass,
                populations.payoff(group),
                self.ecology.rate * self.ecology.every,
                pressure=populations.intensity(group, self._pressure, full=full),
                competition=group.competition,
                generator=self._generator,
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
        return self._populations.num_alive

    @property
    def extinct_share(self) -> float:
        """Share of all populations that are extinct."""
        return 1.0 - self.num_alive / self.communities.num_populations

    @property
    def masses(self) -> dict[str, Tensor]:
        """The mass of every population, in [0, 1]: what scales its influence now."""
        return self._populations.by_name(self._populations.influence)

    @property
    def fitness_values(self) -> dict[str, Tensor]:
        """The averaged fitness of every population, 1 for the mean of its community's living."""
        return self._populations.by_name(self._populations.all_relative())

    @property
    def alive(self) -> dict[str, Tensor]:
        """Which populations are not extinct."""
        return self._populations.by_name(self._populations.alive.bool())

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
            floor={n: self.ecology.floor_of(c) for n, c in self.communities.items()},
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
        return Landing.of(
            capacity,
            num_carried=self._carried,
            num_alive=self.num_alive,
            num_populations=self.communities.num_populations,
            pressure=self._pressure,
        )

    def outlook(self) -> Outlook:
        """Say who is extinct, and in how many steps the next is: the law, played on.

        The masses go on from where they are while everybody stays as fit as on average so far.
        """
        populations = self._populations
        full = self._carried is not None and self.num_alive <= self._carried
        future = Future(
            populations,
            self.dynamic,
            self.ecology,
            pressure=self._pressure,
            rising=self._carried is not None,
            generator=self._generator,
        )
        return describe(
            None if full else future,
            ecology=self.ecology,
            num_alive=self.num_alive,
            num_populations=self.communities.num_populations,
            lowest=populations.lowest(populations.influence[:-1]),
            pressure=self._pressure,
            num_steps=self._steps,
        )

    def forecast(self, num_steps: int) -> str | None:
        """Say before training that the run will hardly land at its capacity, and what would do.

        Args:
            num_steps: how many steps the run has.

        Returns:
            One sentence; None where nothing speaks against it, or there is no capacity.
        """
        if self._carried is None:
            return None
        return foretell(
            self.dynamic,
            self.ecology,
            self._populations.sizes,
            floors=[self.ecology.floor_of(c) for c in self.communities.values()],
            carried=self._carried,
            num_steps=num_steps,
        )

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as plain tensors and numbers."""
        return {
            "steps": self._steps,
            "pressure": self._pressure,
            "dynamics": self.dynamic.name,
            "fitness": self.fitness.name,
            "sizes": dict(self._populations.sizes),
            "constants": self.ecology.constants(),
            "generator": self._generator.get_state(),
            **self._populations.state_dict(),
            "trajectory": self.trajectory.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the run that saved ``state`` was.

        Raises:
            ValueError: if the state is of another dynamic, fitness or model, or of a run with
                other constants; nothing has changed then.
        """
        mine = self.state_dict()
        if missing := sorted(mine.keys() - state.keys()):
            refuse("state", f"one without {', '.join(missing)}", "the result of state_dict()")
        for name in ("dynamics", "fitness", "sizes"):
            if state[name] != mine[name]:
                refuse(f"state[{name!r}]", state[name], repr(mine[name]))
        self.ecology.check_same(state["constants"])
        self._steps, self._pressure = int(state["steps"]), float(state["pressure"])
        self._generator.set_state(state["generator"].cpu())
        self._populations.load_state_dict(state, self._pressure)
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
            else:
                setattr(twin, name, None if name == "_attachment" else copy.deepcopy(value, memo))
        return twin
