"""Zeros of single weights in the hands of a trainer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from natsel.common.wrappers import unwrapped
from natsel.extraction import masks_of
from natsel.selection.holding import Hold, hold


class Holding:
    """The part of a callback that knows no trainer.

    Args:
        masks: of booleans, by parameter; None for those that the model itself knows.
    """

    def __init__(self, masks: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self._masks = masks
        self._hold: Hold | None = None

    def _hold_in(self, model: nn.Module) -> None:
        self._let_go()
        network = unwrapped(model)
        self._hold = hold(network, masks_of(network) if self._masks is None else self._masks)

    def _let_go(self) -> None:
        if self._hold is not None:
            self._hold.close()
            self._hold = None
