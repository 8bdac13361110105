"""Tokens that are all the same hide what attention does: others take their place in a trial."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from natsel.common.calls import Inputs, tensors_of_inputs, with_tensors

LOOK_UP = "aten.embedding.default"
PASSED = ("aten.view", "aten.reshape", "aten.to", "aten._to_copy", "aten.alias", "aten.clone")


def spread(inputs: Inputs, program: ExportedProgram) -> Inputs:
    """Return inputs in which no sequence of tokens is one and the same token.

    Args:
        inputs: of the model.
        program: the exported model, which says what is looked up in a table, and how long it is.

    Returns:
        The inputs; whole numbers that are all the same and looked up in a table now differ.
    """
    lengths = _lengths(program)
    names = list(inputs) if isinstance(inputs, dict) else list(program.graph_signature.user_inputs)
    tensors = tensors_of_inputs(inputs)
    found = [
        _counted(x, lengths.get(str(name), 0))
        for name, x in zip([*names, *[""] * len(tensors)], tensors, strict=False)
    ]
    return with_tensors(inputs, found)


def _counted(x: Tensor, length: int) -> Tensor:
    is_same = x.numel() > 1 and not x.is_floating_point() and bool((x == x.reshape(-1)[0]).all())
    if not is_same or length < 2:
        return x
    return (torch.arange(x.numel(), device=x.device) % length).reshape(x.shape).to(x.dtype)


def _lengths(program: ExportedProgram) -> dict[str, int]:
    """Return, by the name of an input, the length of the shortest table it is looked up in."""
    found: dict[str, int] = {}
    for node in program.graph.nodes:
        if str(node.target) != LOOK_UP:
            continue
        table, looked_up = node.args[:2]
        while isinstance(looked_up, fx.Node) and str(looked_up.target).startswith(PASSED):
            looked_up = looked_up.args[0]
        if isinstance(looked_up, fx.Node) and looked_up.op == "placeholder":
            length = _rows(table)
            found[looked_up.name] = min(length, found.get(looked_up.name, length))
    return found


def _rows(table: Any) -> int:
    return int(table.meta["val"].shape[0])
