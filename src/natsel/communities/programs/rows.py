"""Numbers in a row that code computes from nothing: they become buffers, so that they can be cut.

ALiBi computes a slope for each head from the number of heads. With fewer heads it would compute
others; those that are left keep theirs where the row is a tensor. Each layer has a row of its own,
for each may lose other heads.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from natsel.communities.labels.graph import operator_name
from natsel.communities.programs.normal_form import copied
from natsel.communities.programs.program import Program, tensor_at
from natsel.communities.programs.trace import TensorKind

NAME = "natsel_row_{}"
MAX_LENGTH = 1024
PERIODIC = ("aten.sin.default", "aten.cos.default")
"""What reads frequencies: those of positions, that all layers share, stay computed."""


def with_rows(program: Program) -> Program:
    """Return a program in which rows of numbers are buffers, one for each that reads them.

    Args:
        program: with no size rewritten yet.

    Returns:
        The same if it computes no such row.
    """
    graph = copied(program._code.module.graph)
    rows = _rows(graph)
    made: dict[str, Tensor] = {}
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    pairs = zip(placeholders, program._code.sources, strict=True)
    held = {node for node, source in pairs if source is not None}
    specs, last = [], placeholders[-1]
    for row, value in rows.items():
        region, readers = _reached(graph, row, held)
        if any(operator_name(n) in PERIODIC for n in region) or "output" in {r.op for r in readers}:
            continue
        for reader in readers:
            name = NAME.format(len(made))
            with graph.inserting_after(last):
                last = graph.placeholder(name)
            last.meta = dict(row.meta)
            made[name] = value.clone()
            kind = InputKind.BUFFER
            specs.append(InputSpec(kind, TensorArgument(last.name), name, persistent=True))
            _reread(graph, reader, region, row, last)
    if not made:
        return program
    graph.eliminate_dead_code()
    return _built(program, graph, made, specs)


def _built(
    program: Program, graph: fx.Graph, made: dict[str, Tensor], specs: list[InputSpec]
) -> Program:
    code = program._code
    module = fx.GraphModule(code.module, graph)
    signature = replace(code.signature, input_specs=[*code.signature.input_specs, *specs])
    tensors = {name: tensor_at(program, name) for name in code.tensors} | made
    code = replace(
        code,
        module=module,
        signature=signature,
        sources=(*code.sources, *made),
        tensors={name: TensorKind.of(tensor) for name, tensor in tensors.items()},
        canonical={**code.canonical, **{name: name for name in made}},
        digest=zlib.crc32(module.code.encode()),
    )
    return Program.build(code, tensors, {*program.state_dict(), *made})


def _rows(graph: fx.Graph) -> dict[fx.Node, Tensor]:
    """Return what is computed from nothing and is a row, where something else is made of it."""
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "call_function" and all(n in values for n in node.all_input_nodes):
            value = _computed(node, values)
            if value is not None:
                values[node] = value
    return {
        node: value
        for node, value in values.items()
        if _is_row(value) and any(not _is_row(values.get(user)) for user in node.users)
    }


def _computed(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Return what a node gives; None where that is chance, or a large table."""
    assert callable(node.target)
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return None
    args = fx.node.map_arg(node.args, values.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
    with torch.no_grad():
        found = node.target(*args, **kwargs)
    return None if isinstance(found, Tensor) and found.numel() > MAX_LENGTH**2 else found


def _is_row(value: Any) -> bool:
    """Tell whether a value is a row of numbers that are neither all the same nor counted up."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    length = max(value.shape, default=0)
    if not 2 <= length <= MAX_LENGTH or value.numel() != length:
        return False
    steps = value.detach().reshape(-1).double().diff()
    return not torch.allclose(steps, steps[:1].expand_as(steps))


def _reached(
    graph: fx.Graph, row: fx.Node, held: set[fx.Node]
) -> tuple[set[fx.Node], list[fx.Node]]:
    """Return what is made of a row and no weight, and who reads that or the row besides."""
    heavy = set(held)
    region: set[fx.Node] = set()
    readers: list[fx.Node] = []
    for node in graph.nodes:
        entering = node.all_input_nodes
        if any(n in heavy for n in entering):
            heavy.add(node)
        reads = any(n is row or n in region for n in entering)
        if not reads:
            continue
        if node in heavy or node.op == "output":
            readers.append(node)
        else:
            region.add(node)
    return region, readers


def _reread(
    graph: fx.Graph, reader: fx.Node, region: set[fx.Node], row: fx.Node, held: fx.Node
) -> None:
    """Let a node read what is made of another row, by copies of what makes it."""
    copies = {row: held}
    wanted, stack = set(), list(reader.all_input_nodes)
    while stack:
        node = stack.pop()
        if node in region and node not in wanted:
            wanted.add(node)
            stack += node.all_input_nodes
    for node in list(graph.nodes):
        if node in wanted:
            with graph.inserting_before(reader):
                copies[node] = graph.node_copy(node, lambda n: copies.get(n, n))
            copies[node].meta = dict(node.meta)
    for old, new in copies.items():
        if old in reader.all_input_nodes:
            reader.replace_input_with(old, new)
