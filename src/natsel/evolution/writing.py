"""Masses are written into gates: from a view of them where they lie as the gate wants them."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.communities.gates import Gated


class Writer:
    """Writes the masses of one gate.

    A deep copy together with the influence reads the copy of it.

    Args:
        gated: the weight.
        influence: of all populations, flat; it is read at every :meth:`write`.
        places: where in ``influence`` the mass of each place of the gate is.
    """

    def __init__(self, gated: Gated, influence: Tensor, places: Tensor) -> None:
        self._gate = gated.gate
        self._influence = influence
        self._places = places
        self._view = _view(influence, places)

    def write(self) -> None:
        """Write the present influence."""
        mass: Tensor = self._gate.mass
        if self._view is None:
            mass.copy_(self._influence.index_select(0, self._places).view_as(mass))
        else:
            mass.view(self._view.shape).copy_(self._view)


def _view(influence: Tensor, places: Tensor) -> Tensor | None:
    """Return the view ``[populations, width]`` that shows these places; None if none does.

    It does where populations follow each other and each is read as often as the others, in a row.
    """
    first, num_populations = int(places[0]), int(places[-1] - places[0]) + 1
    width, rest = divmod(len(places), max(num_populations, 1))
    following = torch.arange(first, first + num_populations, device=places.device)
    if rest or not torch.equal(places, following.repeat_interleave(width)):
        return None
    view = influence[first : first + num_populations]
    return view.unsqueeze(-1).expand(num_populations, width)
