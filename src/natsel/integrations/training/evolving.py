"""An evolution in the hands of a trainer: made when training begins, logged, kept, taken up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, as_inputs, tensors_of_inputs, with_tensors
from natsel.common.errors import choose, refuse
from natsel.common.logs import logger_of
from natsel.common.wrappers import unwrapped
from natsel.communities import Communities, discover
from natsel.communities.gates.gating import gated_slices
from natsel.dynamics import Dynamic
from natsel.dynamics import get as get_dynamic
from natsel.evolution import Ecology, Evolution
from natsel.evolution.attachment import check_holds
from natsel.evolution.ecology import check_constants
from natsel.evolution.loop import Steps
from natsel.extraction import extract
from natsel.fitness import Fitness, Parts
from natsel.fitness import get as get_fitness
from natsel.integrations.training.frozen import that_train
from natsel.selection import Sparsity

_LOG = logger_of(__name__)

Loaded = dict[str, Tensor]
Given = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
DISCOVERY = ("proof", "residual", "lora", "branches")
"""Options of :func:`natsel.discover`."""

_OF_EVOLUTION = ("seed", "process_group", "compare_every")


class Evolving:
    """The part of a callback that knows no trainer.

    Args:
        dynamics: a registered law, or a function of the same form.
        fitness: a registered signal, or a function of ``Parts``.
        example_inputs: what the model runs on; None for what the trainer's model says itself.
        kinds: such as ("neuron", "head"): which populations evolve; None for all.
        discovery: options of :func:`natsel.discover`.
        resume: whether a resumed training takes its evolution up; False begins one anew.
        log_communities: whether each community is logged, too, not only the whole.
        options: of :class:`natsel.Evolution`: constants, ``seed``, ``compare_every``.

    Raises:
        ValueError: if a name or a constant is not allowed.
    """

    def __init__(
        self,
        *,
        dynamics: str | Dynamic | Callable[..., Tensor] = "logistic",
        fitness: str | Fitness | Callable[[Parts], Tensor] = "taylor",
        example_inputs: Given | None = None,
        kinds: Sequence[str] | None = None,
        discovery: Mapping[str, Any] | None = None,
        resume: Any = True,
        log_communities: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        # What is wrong here is told now, not after the data were read.
        constants = {n: v for n, v in options.items() if n not in _OF_EVOLUTION}
        check_constants(constants)
        Ecology(**{**get_dynamic(dynamics).constants(), **constants})
        for name in discovery or {}:
            choose("discovery", name, DISCOVERY)
        if isinstance(kinds, str):
            refuse("kinds", kinds, "a sequence of kinds, such as ('neuron', 'head')")
        self._options = {"dynamics": dynamics, "fitness": get_fitness(fitness), **options}
        self._example_inputs = None if example_inputs is None else as_inputs(example_inputs)
        self._kinds = None if kinds is None else tuple(kinds)
        self._discovery = dict(discovery or {})
        self._resume = resume
        self._log_communities = log_communities
        self._evolution: Evolution | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._before: int | None = None

    @property
    def evolution(self) -> Evolution:
        """The evolution, from when training begins.

        Raises:
            ValueError: if it has not begun.
        """
        if self._evolution is None:
            raise ValueError(
                f"{type(self).__name__} has no evolution yet: it begins when the trainer trains"
            )
        return self._evolution

    @property
    def communities(self) -> Communities:
        """The communities that evolve."""
        return self.evolution.communities

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer of torch, whatever the trainer wrapped it in; the small model's later."""
        return self._optimizer

    def readings(self) -> dict[str, float]:
        """Return what is logged, by name."""
        evolution = self.evolution
        masses, alive = evolution.masses, evolution.alive
        every = torch.cat(list(masses.values()))
        found = {
            "evolution/mass": float(every.mean()),
            "evolution/alive": float(evolution.num_alive),
            "evolution/extinct_share": evolution.extinct_share,
            "evolution/pressure": evolution.pressure,
            "evolution/skipped": float(evolution.num_skipped),
        }
        for name, mass in masses.items() if self._log_communities else ():
            found[f"evolution/mass/{name}"] = float(mass.mean())
            found[f"evolution/alive/{name}"] = float(alive[name].sum())
        return found

    def extract(
        self, budget: Sparsity | None = None, *, optimizer: bool = True, **options: Any
    ) -> nn.Module:
        """Return the small model that holds only who survives, and let the optimizer train it.

        The trainer's model is not changed; its optimizer is ``callback.optimizer``, which goes on
        with the small one: momenta and second moments are cut like the parameters.

        Args:
            budget: how many to remove, as ``Evolution.survivors`` takes it; None for those that
                went extinct.
            optimizer: whether the optimizer follows.
            options: of :func:`natsel.extract`: ``compensate``, ``data``, ``verify``.

        Returns:
            The small model, verified.

        Raises:
            ValueError: if training has not begun, or the optimizer cannot follow.
            VerificationError: if the small model differs from the masked one.
        """
        evolution = self.evolution
        follows = self._optimizer if optimizer else None
        model = evolution.communities.model
        return extract(model, evolution.survivors(budget), optimizer=follows, **options)

    # For the callbacks of a trainer.

    def _is_open(self) -> bool:
        return self._evolution is not None and not self._evolution.is_closed

    def _step_is_due(self) -> None:
        """Take notice that the optimizer is about to step, or a scaler to skip that."""
        if self._is_open():
            self._before = self._num_told()

    def _step_is_over(self) -> None:
        """Count a step that was skipped and of which nobody told: the optimizer was not called."""
        if self._before is not None and self._is_open() and self._num_told() == self._before:
            Steps(self.evolution).skip()
        self._before = None

    def _num_told(self) -> int:
        return self.evolution.num_steps + self.evolution.num_skipped

    def _begin(
        self, model: nn.Module, optimizer: Any, inputs_of: Callable[[nn.Module], Given]
    ) -> Loaded | None:
        """Make the evolution of a model, or go on with that of the same model.

        Returns:
            The gated weights as they were before they were gated; None if they are gated already.
        """
        network = unwrapped(model)
        self._optimizer = None
        known = self._evolution
        if known is not None and self._is_open() and known.communities.model is network:
            known.attach(optimizer)
            self._optimizer = check_holds(optimizer, network)
            return None
        given = self._example_inputs
        communities = discover(
            network, on_device(network, given or as_inputs(inputs_of(network))), **self._discovery
        )
        if self._kinds is not None:
            communities = communities.only(*self._kinds)
        communities = that_train(communities, self._options["fitness"])
        weights = gated_weights(communities)
        found = {name: weight.detach().clone() for name, weight in weights.items()}
        self._evolution = Evolution(communities, optimizer=optimizer, **self._options)
        self._optimizer = check_holds(optimizer, network)
        _LOG.info("evolves while the trainer trains: %r", self._evolution)
        return found

    def _take_up(self, state: Mapping[str, Any], loaded: Loaded | None, source: object) -> None:
        """Go on where a state was saved, if it belongs to the weights that were loaded.

        Args:
            state: of an evolution.
            loaded: the weights that the trainer loaded; None if nobody knows them as they were.
            source: what the state is from, for messages.

        Raises:
            ValueError: if it does not belong; a new evolution has left the model then.
        """
        try:
            self.evolution.load_state_dict(state)
            self._check_loaded(state, loaded or {}, source)
        except ValueError as error:
            if loaded is not None:
                self.evolution.close(fold=False)
            raise ValueError(f"{source}: {error}") from None

    def _check_loaded(self, state: Mapping[str, Any], loaded: Loaded, source: object) -> None:
        acting = self.communities.model.state_dict()
        for name, weight in loaded.items():
            # What a trainer does not keep, such as frozen weights, is as it was at first.
            if not (_alike(acting[name], weight) or _alike(state["weights"][name], weight)):
                refuse(
                    "resume",
                    self._resume,
                    f"the evolution of the very checkpoint that the trainer loaded ({name} has "
                    "other values): its folder, or False to begin anew",
                )


def gated_weights(communities: Communities) -> dict[str, nn.Parameter]:
    """Return the parameters that read populations, by name.

    Example:
        >>> import natsel
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> list(gated_weights(natsel.discover(model, torch.zeros(1, 4))))
        ['1.weight']
    """
    named = dict(communities.model.named_parameters())
    names = {part.tensor for c in communities.values() for part in gated_slices(c)}
    return {name: named[name] for name in sorted(names)}


def on_device(model: nn.Module, inputs: Inputs) -> Inputs:
    """Return inputs where the model is."""
    device = next(model.parameters()).device
    return with_tensors(inputs, [tensor.to(device) for tensor in tensors_of_inputs(inputs)])


def _alike(found: Tensor, expected: Tensor) -> bool:
    return torch.equal(found.to(expected), expected)
