"""The state of an optimizer as paths and tensors, and which part of each tensor remains."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from natsel.communities.surgery.surgery import cut
from natsel.extraction.state_layouts import Layout, axes_of, is_gram

PLAIN = (bool, int, float, complex, str, bytes, type(None), enum.Enum, torch.dtype, torch.device)


@dataclass(frozen=True)
class Move:
    """A parameter and what stands in its place in the small model.

    Attributes:
        name: of the parameter.
        old: the parameter.
        new: the one of the small model; None where nothing of it remains.
        kept: per axis that shrinks, the places that remain.
    """

    name: str
    old: nn.Parameter
    new: nn.Parameter | None
    kept: Mapping[int, Tensor]

    def places(self, span: tuple[int, int] | None) -> Tensor | None:
        """Return which places of some axes, flattened into one, remain; None for all."""
        if span is None or not any(axis in self.kept for axis in range(*span)):
            return None
        shape = self.old.shape[slice(*span)]
        kept = {axis - span[0]: i for axis, i in self.kept.items() if span[0] <= axis < span[1]}
        numbers = torch.arange(shape.numel()).view(shape)
        return cut(numbers, kept).reshape(-1)


@dataclass(frozen=True)
class Leaf:
    """One tensor of the state of one parameter.

    Attributes:
        move: the parameter.
        path: the key in its state, with the places in lists and dictionaries.
        value: the tensor.
    """

    move: Move
    path: str
    value: Tensor

    @property
    def words(self) -> str:
        """What to call it in messages."""
        shape, of = tuple(self.value.shape), tuple(self.move.old.shape)
        return f"state {self.path!r} of {self.move.name} has shape {shape} beside {of}"


@dataclass(frozen=True)
class Part:
    """What remains of a leaf.

    Attributes:
        places: per axis of it, the places that remain; only of those that shrink.
        missing: the axes of the parameter that shrink and that it does not have.
        gram: whether it is a matrix of one axis with itself.
    """

    places: Mapping[int, Tensor] = field(default_factory=dict)
    missing: frozenset[int] = frozenset()
    gram: bool = False

    @classmethod
    def of(cls, layout: Layout, move: Move) -> Part:
        """Return what a layout leaves of a leaf."""
        places = {dim: move.places(span) for dim, span in enumerate(layout)}
        return cls(
            {dim: index for dim, index in places.items() if index is not None},
            frozenset(set(move.kept) - axes_of(layout)),
            is_gram(layout) and bool(axes_of(layout) & set(move.kept)),
        )

    def same_as(self, other: Part) -> bool:
        """Tell whether two parts are cut and weighed alike."""
        return (
            (self.gram, self.missing) == (other.gram, other.missing)
            and self.places.keys() == other.places.keys()
            and all(torch.equal(index, other.places[dim]) for dim, index in self.places.items())
        )


def leaves_of(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in nested dictionaries and lists that is neither, with its path.

    Example:
        >>> list(leaves_of({"step": 3, "axes": ["a", "b"]}))
        [('step', 3), ('axes[0]', 'a'), ('axes[1]', 'b')]
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves_of(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from leaves_of(item, f"{path}[{place}]")
    else:
        yield path, value


def replaced(value: Any, at: Callable[[str, Tensor], Tensor], path: str = "") -> Any:
    """Return nested dictionaries and lists with other tensors, of the same types.

    Args:
        value: dictionaries, lists, tuples and what is in them.
        at: the tensor in place of the one at a path.
        path: where ``value`` is.
    """
    if isinstance(value, Mapping):
        items = {
            key: replaced(item, at, f"{path}.{key}" if path else str(key))
            for key, item in value.items()
        }
        if type(value) is dict:
            return items
        return type(value)(items)  # type: ignore[call-arg]
    if isinstance(value, list | tuple):
        parts = [replaced(item, at, f"{path}[{place}]") for place, item in enumerate(value)]
        if hasattr(value, "_fields"):
            return type(value)(*parts)
        return type(value)(parts)
    return at(path, value) if isinstance(value, Tensor) else value
