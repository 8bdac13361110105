"""What the dense model says of each window, held so that it need not be asked again.

Probabilities of fifty thousand words are large. They are held in half precision where there are
few places; of more, what enters the last layer is held, a hundredth of it, and that layer run
again; where no plain last layer is found, the dense model is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.calls import Inputs, call, logits_of, without_cache
from natsel.common.modes import evaluating
from natsel.quality.head import headless

ROOM = 2**28
"""Bytes of log-probabilities that are held."""


class Dense:
    """Log-probabilities of the dense model, window by window.

    Args:
        model: the dense model.
        windows: what it runs on.
        rows: of each window the numbers of the places that are asked for.
        head: path of the last layer, of which the output is the logits; None where there is none.
        room: bytes that may be held as log-probabilities.

    Attributes:
        held: "probabilities", "hidden states" or "nothing".
    """

    def __init__(
        self,
        model: nn.Module,
        windows: Sequence[Inputs],
        rows: Sequence[Tensor],
        *,
        head: str | None = None,
        room: int = ROOM,
    ) -> None:
        self._model = model
        self._windows = windows
        self._rows = rows
        found = None if head is None else model.get_submodule(head)
        assert found is None or isinstance(found, nn.Linear)
        self._head = found
        self._path = head
        self._last: tuple[int, Tensor] | None = None
        first = self._entering(0)
        size = 2 * self._through(first[:1]).numel() * sum(len(each) for each in rows)
        self.held = "probabilities"
        if size > room:
            self.held = "nothing" if head is None else "hidden states"
        self._kept: list[Tensor] = []
        if self.held == "nothing":
            return
        for number in range(len(windows)):
            left = self._entering(number) if number else first
            if self.held == "probabilities":
                left = self._through(left).float().log_softmax(-1).half()
            self._kept.append(left)

    def __call__(self, number: int, part: slice) -> Tensor:
        """Return log-probabilities of some of the places of a window, float32 ``[part, K]``."""
        if self.held == "probabilities":
            logits = self._kept[number][part]
        elif self.held == "hidden states":
            logits = self._through(self._kept[number][part])
        else:
            if self._last is None or self._last[0] != number:
                self._last = (number, self._entering(number))
            logits = self._last[1][part]
        # What was rounded to half precision does not quite sum to 1 any more: made so here.
        return logits.float().log_softmax(-1)

    def _entering(self, number: int) -> Tensor:
        """Return what enters the last layer at the places, or the logits without one."""
        with (
            evaluating(self._model),
            without_cache(self._model),
            torch.no_grad(),
            headless(self._model, self._path),
        ):
            left = logits_of(call(self._model, self._windows[number]))
        left = left if self._head is not None else classes_last(left)
        return left.flatten(0, -2)[self._rows[number].to(left.device)]

    def _through(self, entering: Tensor) -> Tensor:
        if self._head is None:
            return entering
        with torch.no_grad():
            return F.linear(entering, self._head.weight, self._head.bias)


def classes_last(logits: Tensor) -> Tensor:
    """Return logits with the classes last: of images they come second.

    Example:
        >>> classes_last(torch.zeros(1, 7, 4, 4)).shape
        torch.Size([1, 4, 4, 7])
    """
    return logits.movedim(1, -1) if logits.dim() > 3 else logits
