"""What making a model sparse gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from natsel.selection.survivors import Survivors
from natsel.single_weights.in_block import Done


@dataclass(frozen=True, eq=False, repr=False)
class Sparsified:
    """A model with zeros for the weights that went.

    Attributes:
        model: of the same shape; zeros make nothing faster by themselves.
        masks: which weights stay, by parameter.
        layers: what became of each, in the order in which they were taken.
        left: the layers that stayed dense, each with the reason.
        passes: how often the whole model ran over the data; a block of a chain is half of one.
    """

    model: nn.Module
    masks: Survivors
    layers: tuple[Done, ...]
    left: Mapping[str, str] = field(default_factory=dict)
    passes: float = 0

    @property
    def sparsity(self) -> float:
        """The share that went of the weights of the layers that took part."""
        return self.masks.sparsity

    def summary(self) -> str:
        """Return in words what went, and what it changes in each layer on average."""
        size = sum(layer.size for layer in self.layers)
        kept = sum(layer.kept for layer in self.layers)
        text = (
            f"{size - kept:,} of {size:,} weights of {len(self.layers)} layers are 0 "
            f"({1 - kept / size:.1%})"
        )
        errors = [x for x in self.layers if x.error is not None and x.masked is not None]
        if errors:
            mean = sum(x.error or 0.0 for x in errors) / len(errors)
            masked = sum(x.masked or 0.0 for x in errors) / len(errors)
            text += f"; squared change of a layer over the data: {mean:.2%}, masked {masked:.2%}"
        if self.left:
            by: dict[str, int] = {}
            for reason in self.left.values():
                by[reason] = by.get(reason, 0) + 1
            text += "; dense: " + ", ".join(f"{n} ({reason})" for reason, n in by.items())
        return text

    def plain(self) -> dict[str, Any]:
        """Return all of it but the tensors as plain data."""
        return {
            "sparsity": self.sparsity,
            "layers": [asdict(layer) for layer in self.layers],
            "left": dict(self.left),
            "passes": self.passes,
            "summary": self.summary(),
        }

    def __repr__(self) -> str:
        return f"Sparsified({type(self.model).__name__}: {self.summary()})"
