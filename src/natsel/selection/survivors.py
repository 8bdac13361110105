"""The result of a selection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.common.showing import NUM_LISTED, html_table, listed, named
from natsel.communities import Communities
from natsel.selection.multiples import Rounding


class Survivors(Mapping[str, Tensor]):
    """One boolean tensor per community: true survives.

    Args:
        masks: ``{community: tensor}``.
        communities: what they belong to, if it is known; extraction needs it.
        rounding: the multiple of which kept counts are, where it was measured.
        device: where the masks are; None leaves each where it is.

    Raises:
        ValueError: if a mask is not a boolean tensor.
    """

    def __init__(
        self,
        masks: Mapping[str, Tensor],
        communities: Communities | None = None,
        rounding: Rounding | None = None,
        *,
        device: torch.device | str | None = "cpu",
    ) -> None:
        for name, mask in masks.items():
            # A number is no decision: scores given by mistake would keep whatever is not 0.
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                refuse(f"survivors[{name!r}]", found, "a tensor of booleans")
        self._masks = {
            n: m.detach().to(m.device if device is None else device) for n, m in masks.items()
        }
        self.communities = communities
        self.rounding = rounding

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        parts = (f"{named(n)}: {int(m.count_nonzero())}/{m.numel()}" for n, m in self.items())
        # What they come to is counted only where it is shown: there may be very many.
        total = self._in_all() if len(self) > NUM_LISTED else ""
        return f"Survivors({listed(parts, len(self), total)})"

    def _repr_html_(self) -> str:
        rows = ((n, int(m.count_nonzero()), m.numel()) for n, m in self.items())
        return html_table(("community", "survive", "of"), rows, len(self), [self._in_all()])

    def _in_all(self) -> str:
        size = sum(m.numel() for m in self.values())
        return f"{size - self.num_removed:,} of {size:,} survive"

    @property
    def num_removed(self) -> int:
        """How many populations are gone."""
        return sum(m.numel() - int(m.count_nonzero()) for m in self.values())

    @property
    def sparsity(self) -> float:
        """The share of populations that are gone."""
        total = sum(m.numel() for m in self.values())
        return self.num_removed / total if total else 0.0

    def check(self, communities: Communities) -> None:
        """Make sure that these survivors fit some communities.

        Raises:
            ValueError: if a name is unknown, a length is wrong, or a community would be empty.
        """
        for name, mask in self.items():
            if name not in communities:
                refuse("survivors", name, f"communities of this model: {', '.join(communities)}")
            size = communities[name].size
            if mask.shape != (size,):
                refuse(f"survivors[{name!r}]", tuple(mask.shape), f"a mask of shape ({size},)")
            if not bool(mask.any()):
                refuse(f"survivors[{name!r}]", "all false", "at least one survivor")
            minimum = communities[name].minimum
            if int(mask.sum()) < minimum:
                allowed = f"at least the {minimum} that its router chooses"
                refuse(f"survivors[{name!r}]", f"{int(mask.sum())} survivors", allowed)


class PackedSurvivors(Survivors):
    """Survivors of weights that are kept as one bit each, and unpacked as they are asked for.

    Args:
        packed: by name bits, uint8 ``[ceil(n / 8)]``, the first weight in the lowest bit of the
            first byte, and the shape of the mask.

    Attributes:
        bits: the packed masks.
    """

    def __init__(self, packed: Mapping[str, tuple[Tensor, torch.Size]]) -> None:
        super().__init__({})
        self.bits = {name: bits for name, (bits, _) in packed.items()}
        self._shapes = {name: shape for name, (_, shape) in packed.items()}

    def __getitem__(self, name: str) -> Tensor:
        return unpacked(self.bits[name], self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.bits)

    def __len__(self) -> int:
        return len(self.bits)

    def shape_of(self, name: str) -> torch.Size:
        """Return the shape of a mask, without unpacking it."""
        return self._shapes[name]


def unpacked(bits: Tensor, shape: torch.Size) -> Tensor:
    """Return a mask of bits as booleans.

    Example:
        >>> unpacked(torch.tensor([5], dtype=torch.uint8), torch.Size([3]))
        tensor([ True, False,  True])
    """
    flat = np.unpackbits(bits.numpy(), count=shape.numel(), bitorder="little")
    return torch.from_numpy(flat.view(bool)).view(shape)


def all_survive(communities: Communities) -> Survivors:
    """Return the selection that removes nothing."""
    return Survivors(
        {n: torch.ones(c.size, dtype=torch.bool) for n, c in communities.items()}, communities
    )
