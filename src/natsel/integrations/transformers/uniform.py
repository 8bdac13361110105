"""A configuration of the original class for a small model, where one can say what it is."""

from __future__ import annotations

import copy
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from natsel.common.calls import call, outputs_of
from natsel.communities.discover import evaluating
from natsel.communities.tensors import all_tensors
from natsel.integrations.transformers import facts
from natsel.integrations.transformers.examples import example_inputs
from natsel.integrations.transformers.library import build

# Numbers that are often left open; a model of another width must state them.
_OPEN = ("head_dim", "n_inner", "num_key_value_heads")
Edit = tuple[tuple[str, ...], int]


def plain_config(
    small: nn.Module,
    kind: Any,
    data: Mapping[str, Any],
    must: Mapping[str, int],
    like: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Find numbers of the dense configuration that make the class itself as small as a model.

    Numbers are changed in the proportions in which tensors shrank. What is found is proven: a
    model built from it has the same classes, shapes and numbers; where a number in the small model
    is left over from the dense one, both also give the same output, bit for bit.

    Args:
        small: the model to describe.
        kind: its class in the library.
        data: the dense configuration.
        must: numbers in modules that followed a size.
        like: which implementations the small model uses.

    Returns:
        The configuration, or None if there is none.
    """
    target = facts.shapes(small)
    dense = build(kind, data, device="meta")
    if not _one_width(facts.shapes(dense), target):
        return None
    starts = [dict(data)]
    sizes = {v for n, v in facts.numbers(dense).items() if n.endswith(".head_dim")}
    if data.get("head_dim") is None and len(sizes) == 1:
        # Heads keep their width when there are fewer of them.
        starts.append({**data, "head_dim": sizes.pop()})
    for start in starts:
        for found in _search(kind, start, target, must):
            if _proven(small, kind, found, like):
                return found
    return None


def _one_width(before: Mapping[str, list[int]], after: Mapping[str, list[int]]) -> bool:
    """Say whether the same tensor has the same shape in every layer where it had."""
    seen: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    was: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for name, shape in after.items():
        seen[re.sub(r"\d+", "*", name)].add(tuple(shape))
        was[re.sub(r"\d+", "*", name)].add(tuple(before.get(name, ())))
    return before.keys() == after.keys() and all(len(seen[n]) <= len(was[n]) for n in seen)


def _search(
    kind: Any, data: dict[str, Any], target: Mapping[str, list[int]], must: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """Yield configurations that give the shapes and numbers, those that change least first.

    Each change must put something right and nothing wrong.
    """
    wrong = _wrong(kind, data, target, must)
    if wrong is None:
        return
    useful = []
    for edit in _edits(data, set(wrong.values())):
        left = _wrong(kind, _edited(data, edit), target, must)
        if left is not None and left.keys() < wrong.keys():
            useful.append((len(left), edit))
    edits = [edit for _, edit in sorted(useful, key=lambda pair: pair[0])]
    waiting = deque([(data, wrong, 0)])
    while waiting:
        data, wrong, start = waiting.popleft()
        if not wrong:
            yield data
            continue
        for i, edit in enumerate(edits[start:], start):
            trial = _edited(data, edit)
            left = _wrong(kind, trial, target, must)
            if left is not None and left.keys() < wrong.keys():
                waiting.append((trial, left, i + 1))


def _wrong(
    kind: Any, data: Mapping[str, Any], target: Mapping[str, list[int]], must: Mapping[str, int]
) -> dict[tuple[str, int], tuple[int, int]] | None:
    """Return what differs as (there, wanted) by place; None if there are other tensors."""
    try:
        model = build(kind, data, device="meta")
    except ValueError:
        return None
    there, numbers = facts.shapes(model), facts.numbers(model)
    if {n: len(s) for n, s in there.items()} != {n: len(s) for n, s in target.items()}:
        return None
    wrong = {
        (name, axis): (found, wanted)
        for name, shape in target.items()
        for axis, (found, wanted) in enumerate(zip(there[name], shape, strict=True))
        if found != wanted
    }
    for name, wanted in must.items():
        if numbers.get(name) != wanted:
            wrong[name, -1] = (numbers.get(name, 0), wanted)
    return wrong


def _edits(data: Mapping[str, Any], wrong: set[tuple[int, int]]) -> Iterator[Edit]:
    """Yield changes of one number each."""
    ratios = {Fraction(b, a) for a, b in wrong if a}
    for path, value in _entries(data):
        if value is None:
            if path[-1] in _OPEN:
                yield from ((path, size) for size in sorted({b for _, b in wrong}))
        elif value > 1:
            for ratio in sorted(ratios):
                if (value * ratio).denominator == 1:
                    yield path, int(value * ratio)


def _entries(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], int | None]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and key.endswith("config"):
            yield from (((key, *path), number) for path, number in _entries(value))
        elif value is None or type(value) is int:
            yield (key,), value


def _edited(data: Mapping[str, Any], edit: Edit) -> dict[str, Any]:
    result = copy.deepcopy(dict(data))
    (*parents, key), value = edit
    inner = result
    for parent in parents:
        inner = inner[parent]
    inner[key] = value
    return result


def _proven(small: nn.Module, kind: Any, data: Mapping[str, Any], like: Mapping[str, Any]) -> bool:
    """Say whether a model built from a configuration is the small one."""
    twin = build(kind, data, like=like)
    if facts.shapes(twin) != facts.shapes(small) or facts.classes(twin) != facts.classes(small):
        return False
    kept = small.state_dict(keep_vars=True).keys()
    loose = {name for name, _ in small.named_buffers() if name not in kept}
    if facts.computed(small, twin, exact=False) != loose:
        return False
    mine, theirs = facts.numbers(small), facts.numbers(twin)
    if mine == theirs:
        return True
    return mine.keys() == theirs.keys() and _same_output(small, twin)


def _same_output(small: nn.Module, twin: Any) -> bool:
    """Say whether a model gives the same output as the small one with the same tensors."""
    for name, tensor in all_tensors(small).items():
        path, _, attribute = name.rpartition(".")
        setattr(twin.get_submodule(path), attribute, tensor)
    device = next(small.parameters()).device
    try:
        inputs = {n: x.to(device) for n, x in example_inputs(twin).items()}
    except ValueError:
        return False
    dtype = next(p.dtype for p in small.parameters() if p.is_floating_point())
    inputs = {n: x.to(dtype) if x.is_floating_point() else x for n, x in inputs.items()}
    try:
        with evaluating(small), torch.no_grad():
            theirs = outputs_of(call(twin.to(device), inputs))
            mine = outputs_of(call(small, inputs))
    except RuntimeError:  # a configuration with the right shapes need not run
        return False
    return len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))
