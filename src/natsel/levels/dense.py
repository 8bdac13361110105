"""What the dense model says of each window, held so that it need not be asked again.

Probabilities of fifty thousand words are large. They are held in half precision where there are
few windows; of more, what enters the last layer is held, a hundredth of it, and that layer run
again; where no plain last layer is found, the dense model is.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.calls import Inputs, call, logits_of, without_cache
from natsel.common.modes import evaluating
from natsel.quality.head import head_of, headless

ROOM = 2**28
"""Bytes of log-probabilities that are held."""


class Dense:
    """Log-probabilities of the dense model, window by window.

    Args:
        model: the dense model.
        windows: what it runs on, one sample each.
        room: bytes that may be held as log-probabilities.

    Attributes:
        held: "probabilities", "hidden states" or "nothing".
        shapes: of the places of each window.
    """

    def __init__(self, model: nn.Module, windows: list[Inputs], *, room: int = ROOM) -> None:
        self._model = model
        self._windows = windows
        self._kept: list[Tensor] = []
        first = self._run(0)
        self.shapes: list[torch.Size] = []
        self._last: tuple[int, Tensor] = (-1, first)
        self.held = "probabilities"
        self._head: nn.Linear | None = None
        path = None
        if 2 * first.numel() * len(windows) > room:
            path = head_of(model, windows[0])
            self.held = "nothing" if path is None else "hidden states"
        if path is not None:
            found = model.get_submodule(path)
            assert isinstance(found, nn.Linear)
            self._head = found
        if self.held == "nothing":
            self.shapes = [classes_last(self._run(i)).shape[:-1] for i in range(len(windows))]
        else:
            with headless(model, path) if path is not None else nullcontext():
                for number in range(len(windows)):
                    left = self._run(number)
                    if path is None:
                        left = classes_last(left).float().log_softmax(-1).half()
                    self._kept.append(left)
                    self.shapes.append(left.shape[:-1])

    def __call__(self, number: int, rows: slice) -> Tensor:
        """Return log-probabilities of some places of a window, float32 ``[places, classes]``."""
        if self.held == "hidden states":
            assert self._head is not None
            hidden = self._kept[number].flatten(0, -2)[rows]
            with torch.no_grad():
                logits = F.linear(hidden, self._head.weight, self._head.bias)
        elif self.held == "probabilities":
            logits = self._kept[number].flatten(0, -2)[rows]
        else:
            if self._last[0] != number:
                self._last = (number, classes_last(self._run(number)).flatten(0, -2))
            logits = self._last[1][rows]
        # What was rounded to half precision does not quite sum to 1 any more: made so here.
        return logits.float().log_softmax(-1)

    def _run(self, number: int) -> Tensor:
        with evaluating(self._model), without_cache(self._model), torch.no_grad():
            return logits_of(call(self._model, self._windows[number]))


def classes_last(logits: Tensor) -> Tensor:
    """Return logits with the classes last: of images they come second.

    Example:
        >>> classes_last(torch.zeros(1, 7, 4, 4)).shape
        torch.Size([1, 4, 4, 7])
    """
    return logits.movedim(1, -1) if logits.dim() > 3 else logits
