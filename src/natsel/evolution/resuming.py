"""What a stopped evolution needs to go on, and copies of one that runs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self, cast

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.common.sharding.local import is_spread, local, spread_as
from natsel.common.sharding.wrapping import settle
from natsel.communities.gates.gates import Gated
from natsel.evolution.readings import Readings


class Resumable(Readings):
    """An evolution that can be stopped, and copied together with its model."""

    _device: torch.device
    _gates: list[Gated]

    def _check_open(self) -> None:
        raise NotImplementedError

    def _write_gates(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as plain tensors and numbers.

        The model's own state holds the weights as they act. Those that the optimizer moves do not
        follow from that bit for bit, and not at all where a mass is 0: here they are too.
        """
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
            "skipped": self._skips.total,
            "weights": self._raw_weights(),
            "share": self._share(),
        }

    def _raw_weights(self) -> dict[str, Tensor]:
        """Return what the optimizer moves, of the weights that the model saves as they act.

        Of a model that is spread over processes, this one's shares.
        """
        settle(self.communities.model)
        parameters = dict(self.communities.model.named_parameters())
        return {g.tensor: parameters[g.tensor].detach().clone() for g in self._gates}

    def _share(self) -> list[int] | None:
        """Return which share of a spread model this process holds, and of how many.

        None of a plain one.
        """
        for parameter in self.communities.model.parameters():
            if is_spread(parameter):
                mesh = cast(Any, parameter).device_mesh
                return [mesh.get_coordinate()[-1], mesh.size(mesh.ndim - 1)]
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the run that saved ``state`` was.

        The state of the model may be loaded before or after.

        Raises:
            ValueError: if the state is of another dynamic, fitness or model, or of a run with
                other constants; nothing has changed then.
        """
        self._check_open()
        settle(self.communities.model)
        mine = self.state_dict()
        if missing := sorted(mine.keys() - state.keys() - {"share"}):
            refuse("state", f"one without {', '.join(missing)}", "the result of state_dict()")
        if state.get("share") not in (None, mine["share"]):
            refuse(
                "state",
                f"of share {state['share']}",
                f"that of this process, {mine['share']}: save "
                "natsel.evolution.Stateful(evolution) by torch.distributed.checkpoint, which keeps "
                "the shares of all",
            )
        for name in ("dynamics", "fitness", "sizes"):
            if state[name] != mine[name]:
                refuse(f"state[{name!r}]", state[name], repr(mine[name]))
        self.ecology.check_same(state["constants"])
        parameters = dict(self.communities.model.named_parameters())
        shapes = {g.tensor: tuple(parameters[g.tensor].shape) for g in self._gates}
        theirs = {name: tuple(raw.shape) for name, raw in state["weights"].items()}
        if theirs != shapes:
            refuse("state['weights']", theirs, str(shapes))
        self._steps, self._pressure = int(state["steps"]), float(state["pressure"])
        self._generator.set_state(state["generator"].cpu())
        self._populations.load_state_dict(state, self._pressure)
        self.trajectory.load_state_dict(state["trajectory"])
        self._skips.total = int(state["skipped"])
        with torch.no_grad():
            for name, raw in state["weights"].items():
                weight = parameters[name]
                local(weight).copy_(local(raw if is_spread(raw) else spread_as(raw, weight)))
        self._write_gates()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the evolution together with its model; call :meth:`attach` for its optimizer."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        for name, value in vars(self).items():
            if name == "_generator":
                twin._generator = torch.Generator(self._device)
                twin._generator.set_state(value.get_state())
            else:
                setattr(twin, name, None if name == "_attachment" else copy.deepcopy(value, memo))
        return twin
