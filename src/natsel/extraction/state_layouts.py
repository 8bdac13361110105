"""Which axes of its parameter a state tensor has: known by class, else by shape, never guessed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import torch

from natsel.common.errors import choose

Layout = tuple[tuple[int, int] | None, ...]
"""Per axis of a state tensor the axes [first, stop) of the parameter that it is; None for none."""

Kind = Literal["same", "constant", "row", "column", "sum"]


class Known(NamedTuple):
    """What a key of an optimizer's state is.

    Attributes:
        kind: "same" (one number per weight), "constant" (not of the parameter's axes), "row" (the
            mean over the last axis), "column" (the mean over the last but one) or "sum" (over the
            axes that its shape lacks; a matrix of one axis with itself is a sum too).
        partner: of a row its column, of a column its row.
    """

    kind: Kind
    partner: str = ""


def _same(*keys: str) -> dict[str, Known]:
    return {key: Known("same") for key in keys}


def _means(row: str, column: str) -> dict[str, Known]:
    return {row: Known("row", column), column: Known("column", row)}


KNOWN: dict[str, Mapping[str, Known]] = {
    "torch.ASGD": _same("ax"),
    "torch.Adadelta": _same("square_avg", "acc_delta"),
    "torch.Adafactor": {**_same("variance"), **_means("row_var", "col_var")},
    "torch.Adagrad": _same("sum"),
    "torch.Adam": _same("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "torch.AdamW": _same("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "torch.Adamax": _same("exp_avg", "exp_inf"),
    "torch.Muon": _same("momentum_buffer"),
    "torch.NAdam": _same("exp_avg", "exp_avg_sq"),
    "torch.RAdam": _same("exp_avg", "exp_avg_sq"),
    "torch.RMSprop": _same("square_avg", "momentum_buffer", "grad_avg"),
    "torch.Rprop": _same("prev", "step_size"),
    "torch.SGD": _same("momentum_buffer"),
    "torch.SparseAdam": _same("exp_avg", "exp_avg_sq"),
    "transformers.Adafactor": {
        **_same("exp_avg", "exp_avg_sq"),
        **_means("exp_avg_sq_row", "exp_avg_sq_col"),
    },
}
"""What is known of the state of an optimizer and of those that derive from it."""


def qualified(kind: type) -> str:
    """Return the package and the name of a class.

    Example:
        >>> qualified(torch.optim.Adam)
        'torch.Adam'
    """
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def known_keys(optimizer: object) -> dict[str, Known]:
    """Return what is known of each key of an optimizer's state, the nearest class first.

    Example:
        >>> known_keys(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))]))
        {'momentum_buffer': Known(kind='same', partner='')}
    """
    found: dict[str, Known] = {}
    for base in reversed(type(optimizer).__mro__):
        found |= KNOWN.get(qualified(base), {})
    return found


def layouts_of(state: Iterable[int], shape: Iterable[int]) -> set[Layout]:
    """Return every way in which a state tensor may have the axes of its parameter.

    Its axes are single axes of the parameter in their order, or neighbours flattened into one,
    each at most once; or, of a matrix, twice the same.

    Args:
        state: the shape of the state tensor.
        shape: the shape of the parameter.

    Example:
        >>> sorted(layouts_of((4, 1), (4, 3)))
        [((0, 1), None)]
        >>> sorted(layouts_of((3, 3), (3, 3)))
        [((0, 1), (0, 1)), ((0, 1), (1, 2)), ((1, 2), (1, 2))]
    """
    sizes, axes = tuple(state), tuple(shape)
    found = set(_in_order(sizes, axes, 0))
    if len(sizes) == 2 and sizes[0] == sizes[1] > 1:
        found |= {(span, span) for span in _spans(sizes[0], axes, 0)}
    return found


def _in_order(sizes: tuple[int, ...], axes: tuple[int, ...], start: int) -> Iterator[Layout]:
    if not sizes:
        yield ()
        return
    if sizes[0] == 1:
        for rest in _in_order(sizes[1:], axes, start):
            yield (None, *rest)
    for span in _spans(sizes[0], axes, start):
        for rest in _in_order(sizes[1:], axes, span[1]):
            yield (span, *rest)


def _spans(size: int, axes: tuple[int, ...], start: int) -> Iterator[tuple[int, int]]:
    for first in range(start, len(axes)):
        for stop in range(first + 1, len(axes) + 1):
            if math.prod(axes[first:stop]) == size:
                yield first, stop


def layout_of_kind(kind: Kind, state: tuple[int, ...], num_axes: int) -> Layout | None:
    """Return the layout of a key that is known, None where its shape is another.

    Rows and columns have an axis of size 1 in place of the one that they average, or none.

    Example:
        >>> layout_of_kind("row", (4, 1), 2), layout_of_kind("column", (3,), 2)
        (((0, 1), None), ((1, 2),))
    """
    spans: list[tuple[int, int] | None] = [(axis, axis + 1) for axis in range(num_axes)]
    if kind in ("row", "column"):
        averaged = num_axes - (1 if kind == "row" else 2)
        if averaged < 0:
            return None
        spans[averaged] = None
        if len(state) == num_axes - 1:
            del spans[averaged]
    return tuple(spans) if len(spans) == len(state) else None


def is_gram(layout: Layout) -> bool:
    """Tell whether a state tensor is a matrix of one axis with itself."""
    return len(layout) == 2 and layout[0] is not None and layout[0] == layout[1]


def axes_of(layout: Layout) -> set[int]:
    """Return the axes of the parameter that a state tensor has."""
    return {axis for span in layout if span for axis in range(*span)}


def register_state(optimizer: type[torch.optim.Optimizer], **kinds: Kind) -> None:
    """Say what the state of an optimizer is, where its shapes do not tell.

    Args:
        optimizer: the class; those that derive from it follow.
        kinds: per key "same" (one number per weight), "constant" (nothing of it is cut) or "sum"
            (over the axes that its shape lacks, such as the matrices of Shampoo: what remains is
            the part of the kept places).

    Raises:
        ValueError: if a kind is none of these.

    Example:
        >>> class Lion(torch.optim.Optimizer):
        ...     '''One momentum.'''
        >>> register_state(Lion, exp_avg="same")
    """
    for key, kind in kinds.items():
        choose(key, kind, ("same", "constant", "sum"))
    name = qualified(optimizer)
    KNOWN[name] = {**KNOWN.get(name, {}), **{key: Known(kind) for key, kind in kinds.items()}}
