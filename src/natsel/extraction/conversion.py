"""What became of the layers of a model that lost single weights, told layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Layer:
    """One layer whose weight lost single weights.

    Attributes:
        name: of the layer; of a tensor that belongs to no Linear, of the tensor.
        kept: how many weights survive.
        size: how many there were.
        in_features: size of an input, 0 where it is no Linear.
        out_features: size of an output, 0 where it is no Linear.
        rows: how many inputs it was timed on.
        dense_ms: shortest time of the dense layer; None if it was not timed.
        csr_ms: shortest time of the compressed layer; None if it was not timed.
        reason: why it stayed dense; empty if it was converted.
    """

    name: str
    kept: int
    size: int
    in_features: int = 0
    out_features: int = 0
    rows: int = 0
    dense_ms: float | None = None
    csr_ms: float | None = None
    reason: str = ""

    @property
    def sparsity(self) -> float:
        """The share of its weights that is gone."""
        return 1 - self.kept / self.size


@dataclass(frozen=True)
class Conversion:
    """Which layers of a model hold only their surviving weights, and which stayed dense.

    Attributes:
        layers: one for each tensor that lost weights.
    """

    layers: tuple[Layer, ...]

    @property
    def converted(self) -> tuple[Layer, ...]:
        """The layers that hold only what survives."""
        return tuple(layer for layer in self.layers if not layer.reason)

    @property
    def absent(self) -> set[str]:
        """The names of the weights in whose place only the survivors are stored."""
        return {f"{layer.name}.weight" for layer in self.converted}

    def __repr__(self) -> str:
        return f"Conversion({self._outcome()})"

    def _outcome(self) -> str:
        return f"converted {len(self.converted)} of {len(self.layers)} to compressed rows (CSR)"

    def summary(self) -> str:
        """Return one line per layer: what it keeps, both times, and what became of it."""
        lines = [self._outcome()]
        for layer in self.layers:
            text = f"{layer.name}: {layer.sparsity:.1%} removed"
            if layer.dense_ms is not None and layer.csr_ms is not None:
                text += f", {layer.dense_ms:.3g} ms dense, {layer.csr_ms:.3g} ms as CSR"
                text += f" on {layer.rows} rows"
            lines.append(f"{text}; {layer.reason or 'converted'}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as JSON holds it."""
        return {"layers": [asdict(layer) for layer in self.layers]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Conversion:
        """Return what :meth:`to_dict` turned into plain data.

        Raises:
            ValueError: if a field is missing, unknown, or of another type.
        """
        try:
            layers = tuple(Layer(**layer) for layer in data["layers"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no conversion: {error}") from None
        for layer in layers:
            counts = (layer.kept, layer.size, layer.in_features, layer.out_features, layer.rows)
            if any(type(n) is not int or n < 0 for n in counts) or not layer.size:
                raise ValueError(f"this is no conversion: a count of {layer.name!r} is none")
            if not isinstance(layer.name, str) or not isinstance(layer.reason, str):
                raise ValueError(f"this is no conversion: {layer.name!r} is no name")
        return cls(layers)


def is_gain(dense_ms: float, csr_ms: float) -> bool:
    """Say whether a layer is converted: where that is measured to be faster, and nowhere else.

    Example:
        >>> is_gain(1.0, 0.9), is_gain(1.0, 1.0)
        (True, False)
    """
    return csr_ms < dense_ms
