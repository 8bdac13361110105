"""Several processes that share each step: the accelerate library starts them and lets them talk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse

T = TypeVar("T")
PRECISIONS = {"no": None, "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Together:
    """The processes of a run.

    Attributes:
        accelerator: an ``accelerate.Accelerator``; None for this process alone.
    """

    accelerator: Any = None

    def __post_init__(self) -> None:
        known = ("process_index", "num_processes", "reduce", "wait_for_everyone")
        if self.accelerator is not None and not all(hasattr(self.accelerator, x) for x in known):
            told = type(self.accelerator).__name__
            refuse("accelerator", told, "an accelerate.Accelerator, or None")
        if self.accelerator is not None and self.precision not in PRECISIONS.values():
            refuse("accelerator", self.accelerator.mixed_precision, f"one of {[*PRECISIONS]}")

    @property
    def size(self) -> int:
        """How many processes there are."""
        return 1 if self.accelerator is None else int(self.accelerator.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this process writes and tells."""
        return self.accelerator is None or self.accelerator.process_index == 0

    @property
    def precision(self) -> str | None:
        """The precision of the products that was asked for."""
        if self.accelerator is None:
            return None
        asked = str(self.accelerator.mixed_precision)
        return PRECISIONS.get(asked, asked)

    def placed(self, model: nn.Module) -> nn.Module:
        """Put a model onto the device of this process."""
        return model if self.accelerator is None else model.to(self.accelerator.device)

    def wait(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            self.accelerator.wait_for_everyone()

    def share(self, num_samples: int) -> int:
        """Return how many samples run together at most, so that each process has some.

        Example:
            >>> ALONE.share(5)
            5
        """
        return max(1, -(-num_samples // self.size))

    def own(self, pieces: Sequence[T]) -> Sequence[T]:
        """Return the pieces of a step that this process runs."""
        if self.size == 1:
            return pieces
        return pieces[self.accelerator.process_index :: self.size]

    def add_up(self, model: nn.Module, means: Tensor) -> Tensor:
        """Sum what is told and the gradients over all processes; buffers become their mean.

        Args:
            model: whose gradients are each process's own part; changed in place.
            means: this process's part.

        Returns:
            The sum of the parts.
        """
        if self.size == 1:
            return means
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.requires_grad:
                    continue
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.copy_(self.accelerator.reduce(parameter.grad, "sum"))
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.accelerator.reduce(buffer.clone(), "mean"))
        told: Tensor = self.accelerator.reduce(means.to(self.accelerator.device), "sum")
        return told.cpu()


ALONE = Together()
