"""Recurrent layers: a hidden unit is one population, with its rows of every gate."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from natsel.communities.labels.graph import Weight, is_weight, place
from natsel.communities.labels.propagation import Propagation, rule
from natsel.communities.labels.rules.weights import channels_of, spread

GATES = {"lstm.input": 4, "gru.input": 3, "rnn_tanh.input": 1, "rnn_relu.input": 1}


@rule(*(f"aten.{name}" for name in GATES))
def recurrent(
    run: Propagation,
    node: fx.Node,
    x: Any,
    state: Any,
    weights: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """h' = f(W_in x + b_in, W_hh h + b_hh), unit by unit; all layers keep one width, as in torch.

    Unit j of a layer owns row j of every gate and column j of its recurrent weight.
    """
    num_gates = GATES[str(node.target).removeprefix("aten.")]
    states = list(state) if isinstance(state, list | tuple) else [state]
    num_directions = 2 if bidirectional else 1
    per_cell = 4 if has_biases else 2
    refs = all(is_weight(w) for w in weights)
    if not refs or len(weights) != num_layers * num_directions * per_cell:
        computed = next((w for w in weights if not is_weight(w)), weights[0])
        return run.unlike_weight(node, (x, states, weights), computed)
    reason = f"it carries plain data{place(node)}"
    x = run.lift(x)
    channels = channels_of(run, x, x.dim() - 1, reason)
    num_steps = prod(x.shape[:-1])
    first: Tensor | None = None
    for layer in range(num_layers):
        units = []
        for direction in range(num_directions):
            start = (layer * num_directions + direction) * per_cell
            cell = weights[start : start + per_cell]
            unit = _cell(run, node, channels, cell, num_gates)
            for w in cell[:2]:
                run.charge(w, (0, 1), float(num_steps * prod(w.sizes)))
            if first is None:
                first = unit
            run.space.unite(first, unit, reason)
            for tensor in states:
                entered = run.lift(tensor).reshape(num_layers * num_directions, -1, len(unit))
                own = entered[layer * num_directions + direction]
                run.space.unite(unit.expand_as(own), own, f"its first state is data{place(node)}")
            units.append(unit)
        channels = torch.cat(units)
    assert first is not None
    shapes = [tuple(v.shape) for v in node.meta["val"]]
    return tuple(
        spread(channels if number == 0 else first, shape, len(shape) - 1)
        for number, shape in enumerate(shapes)
    )


def _cell(
    run: Propagation,
    node: fx.Node,
    channels: Tensor,
    cell: list[Weight],
    num_gates: int,
) -> Tensor:
    """Return the labels of the units of one layer and direction."""
    reason = f"the gates of one unit stand together{place(node)}"
    run.space.unite(channels, run.axis(cell[0], 1, "in"), f"it carries plain data{place(node)}")
    unit = run.axis(cell[1], 1, "in")
    for number, ref in enumerate(cell):
        rows = run.axis(ref, 0, "out" if number < 2 else "tied")
        run.space.unite(unit.repeat(num_gates), rows, reason)
    return unit


CELLS = {"lstm_cell.default": 4, "gru_cell.default": 3}
CELLS |= {"rnn_tanh_cell.default": 1, "rnn_relu_cell.default": 1}


@rule(*(f"aten.{name}" for name in CELLS))
def recurrent_cell(
    run: Propagation,
    node: fx.Node,
    x: Any,
    state: Any,
    entering: Any,
    recurring: Any,
    *biases: Any,
) -> Any:
    """One step of the same, with the state as an input."""
    weights = [w for w in (entering, recurring, *biases) if w is not None]
    if not all(is_weight(w) for w in weights):
        computed = next(w for w in weights if not is_weight(w))
        return run.unlike_weight(node, (x, state, weights), computed)
    x = run.lift(x)
    channels = channels_of(run, x, x.dim() - 1, f"it carries plain data{place(node)}")
    num_gates = CELLS[str(node.target).removeprefix("aten.")]
    unit = _cell(run, node, channels, weights, num_gates)
    for w in weights[:2]:
        run.charge(w, (0, 1), float(prod(x.shape[:-1]) * prod(w.sizes)))
    for tensor in state if isinstance(state, list | tuple) else [state]:
        before = run.lift(tensor)
        reason = f"its state is data{place(node)}"
        run.space.unite(unit.expand_as(before), before, reason)
    value = node.meta["val"]
    if isinstance(value, list | tuple):
        return tuple(unit.expand(tuple(v.shape)) for v in value)
    return unit.expand(tuple(value.shape))
