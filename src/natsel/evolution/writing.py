"""Masses are written into gates: from a view of them where they lie as the gate wants them."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.communities.gates.gates import Gated


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
        rows = _rows(influence, places)
        self._is_whole = rows is not None and rows.shape[1] == 1
        self._source = (
            rows.view_as(gated.gate.mass) if rows is not None and self._is_whole else rows
        )

    def write(self) -> None:
        """Write the present influence."""
        mass: Tensor = self._gate.mass
        if self._source is None:
            mass.copy_(self._influence.index_select(0, self._places).view_as(mass))
        elif self._is_whole:
            mass.copy_(self._source)
        else:
            mass.view(self._source.shape).copy_(self._source)


def _rows(influence: Tensor, places: Tensor) -> Tensor | None:
    """Return the view ``[populations, width]`` that shows these places; None if none does.

    One does where populations follow each other and each is read ``width`` times in a row.
    """
    first, num_populations = int(places[0]), int(places[-1] - places[0]) + 1
    if num_populations < 1 or len(places) % num_populations:
        return None
    width = len(places) // num_populations
    following = torch.arange(first, first + num_populations, device=places.device)
    if not torch.equal(places, following.repeat_interleave(width)):
        return None
    return influence[first : first + num_populations, None].expand(-1, width)
