"""A configuration of the original class for a small model, where one can say what it is."""

from __future__ import annotations

import copy
import heapq
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.calls import call, first_samples, outputs_of
from natsel.common.modes import evaluating
from natsel.communities.tensors import all_tensors
from natsel.integrations.transformers import facts
from natsel.integrations.transformers.examples import example_inputs
from natsel.integrations.transformers.library import build

# Numbers that are often left open; a model of another width must state them.
_OPEN = ("head_dim", "n_inner", "num_key_value_heads")
_WIDTH = re.compile(r"size|dim|embd|d_model|width|hidden")
_NO_WIDTH = re.compile(r"vocab|window|image|patch|chunk")
_NO_SIZE = re.compile(r"_ids?$|(^|_)(n_)?layers?$|vocab|^max_|image|patch|channels|version|per_tok")
MAX_BUILDS = 64
"""How many configurations are looked at for one model, without values: milliseconds each."""
Path = tuple[str, ...]
Edit = tuple[tuple[Path, int], ...]
"""Numbers that change together, by their path."""
Changes = frozenset[tuple[Path, int]]
Proof = Callable[[nn.Module, Any, Mapping[str, Any], Mapping[str, Any]], bool]
Wrong = dict[tuple[str, int], tuple[int, int]]
"""What differs, as (there, wanted) by tensor and axis; a number in a module has axis -1."""


def plain_config(
    small: nn.Module,
    kind: Any,
    data: Mapping[str, Any],
    like: Mapping[str, Any],
    proof: Proof | None = None,
) -> dict[str, Any] | None:
    """Find numbers of the dense configuration that make the class itself as small as a model.

    Numbers are changed in the proportions in which tensors shrank, several at once where one alone
    would spoil another. What is found is proven: a model built from it has the same classes and
    shapes, the numbers in its modules are the same or forward does not use them, and both give
    the same output, bit for bit.

    Args:
        small: the model to describe.
        kind: its class.
        data: the dense configuration.
        like: which implementations the small model uses.
        proof: that a configuration is the right one; :func:`proven` by default.

    Returns:
        The configuration, or None if there is none.
    """
    target = facts.shapes(small)
    dense = build(kind, data, device="meta")
    if not _one_width(facts.shapes(dense), target):
        return None
    must = followed(small, dense)
    starts = [dict(data)]
    sizes = {v for n, v in facts.numbers(dense).items() if n.endswith(".head_dim")}
    if data.get("head_dim") is None and len(sizes) == 1:
        # Heads keep their width when there are fewer of them.
        starts.append({**data, "head_dim": sizes.pop()})
    searches = [_Search(kind, start, target, must) for start in starts]
    likely = (found for search in searches for found in search.likely())
    others = (found for search in searches for found in search.nearest_first())
    for found in itertools.chain(likely, others):
        if (proof or proven)(small, kind, found, like):
            return found
    return None


def followed(small: nn.Module, dense: nn.Module) -> dict[str, int]:
    """Return the whole numbers in modules that are smaller in a small model than in a dense one.

    One that is larger was left over when its module shrank: forward does not use it.
    """
    before = facts.numbers(dense)
    return {
        name: value
        for name, value in facts.numbers(small).items()
        if type(value) is int and type(before.get(name)) is int and value < before[name]
    }


def _one_width(before: Mapping[str, list[int]], after: Mapping[str, list[int]]) -> bool:
    """Say whether the same tensor has the same shape in every layer where it had."""
    seen: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    was: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for name, shape in after.items():
        seen[re.sub(r"\d+", "*", name)].add(tuple(shape))
        was[re.sub(r"\d+", "*", name)].add(tuple(before.get(name, ())))
    return before.keys() == after.keys() and all(len(seen[n]) <= len(was[n]) for n in seen)


class _Search:
    """Configurations near a dense one that give the shapes and numbers of a small model.

    Each change must put something right by itself, or count heads: of those no shape may tell.
    """

    def __init__(
        self,
        kind: Any,
        data: dict[str, Any],
        target: Mapping[str, list[int]],
        must: Mapping[str, int],
    ) -> None:
        self._data = data
        self._kind, self._target, self._must = kind, target, must
        self._left: dict[Changes, Wrong | None] = {}

    def likely(self) -> Iterator[dict[str, Any]]:
        """Yield the configuration in which all changes meet that each spoil nothing, if it fits."""
        wrong = self._wrong(frozenset())
        if wrong is None:
            return
        sizes = set(wrong.values())
        edits = [e for e in _edits(self._data, sizes) if _is_as_sizes(self._data, e, sizes)]
        every: dict[Path, int] = {}
        right: set[tuple[str, int]] = set()
        for edit, left in self._helping(edits, wrong):
            mended = wrong.keys() - left.keys()
            spoils = left.keys() - wrong.keys() or any(path in every for path, _ in edit)
            # Heads of half the width and half as many heads mend the same.
            if not spoils and (mended - right or not mended):
                every |= dict(edit)
                right |= mended
        if self._wrong(frozenset(every.items())) == {}:
            yield _edited(self._data, tuple(every.items()))

    def nearest_first(self) -> Iterator[dict[str, Any]]:
        """Yield every configuration that fits, of the fewest changes first."""
        wrong = self._wrong(frozenset())
        if wrong is None:
            return
        every = _edits(self._data, set(wrong.values()))
        edits = [edit for edit, _ in self._helping(every, wrong)]
        order = itertools.count()
        waiting: list[tuple[int, int, int, Changes]] = [(len(wrong), 0, next(order), frozenset())]
        seen = {waiting[0][-1]}
        while waiting:
            num_wrong, depth, _, done = heapq.heappop(waiting)
            if not num_wrong:
                yield _edited(self._data, tuple(done))
            for edit in edits:
                both = done | set(edit)
                if both in seen or {p for p, _ in done} & {p for p, _ in edit}:
                    continue
                seen.add(both)
                if (left := self._wrong(both)) is not None:
                    heapq.heappush(waiting, (len(left), depth + 1, next(order), both))

    def _helping(self, edits: Iterable[Edit], wrong: Wrong) -> list[tuple[Edit, Wrong]]:
        """Return the changes that put something right or count heads, with what they leave."""
        found = []
        for edit in edits:
            left = self._wrong(frozenset(edit))
            if left is not None and (wrong.keys() - left.keys() or _counts_heads(edit)):
                found.append((edit, left))
        return sorted(found, key=lambda pair: len(pair[1]))

    def _wrong(self, done: Changes) -> Wrong | None:
        if done not in self._left and len(self._left) < MAX_BUILDS:
            trial = _edited(self._data, tuple(done))
            self._left[done] = differences(self._kind, trial, self._target, self._must)
        return self._left.get(done)


def _is_as_sizes(data: Mapping[str, Any], edit: Edit, wrong: set[tuple[int, int]]) -> bool:
    """Say whether numbers change as the size of a tensor does, or count heads."""
    before = dict(_entries(data))
    return _counts_heads(edit) or any((before[path], new) in wrong for path, new in edit)


def _counts_heads(edit: Edit) -> bool:
    return "head" in edit[0][0][-1]


def differences(
    kind: Any, data: Mapping[str, Any], target: Mapping[str, list[int]], must: Mapping[str, int]
) -> Wrong | None:
    """Return what a model built from a configuration has otherwise; None if it has other tensors.

    Args:
        kind: a class of the library.
        data: the configuration.
        target: the wanted shapes by tensor.
        must: the wanted numbers by "module.attribute".
    """
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
    """Yield changes of one number each, and of all widths that are the same."""
    ratios = sorted({Fraction(b, a) for a, b in wrong if a})
    widths: dict[int, list[Path]] = defaultdict(list)
    for path, value in _entries(data):
        if value is None:
            if path[-1] in _OPEN:
                yield from (((path, size),) for size in sorted({b for _, b in wrong}))
        elif value > 1 and not _NO_SIZE.search(path[-1]):
            if _WIDTH.search(path[-1]) and not _NO_WIDTH.search(path[-1]):
                widths[value].append(path)
            for ratio in ratios:
                if (value * ratio).denominator == 1:
                    yield ((path, int(value * ratio)),)
    for value, paths in widths.items():
        for ratio in ratios:
            if len(paths) > 1 and (value * ratio).denominator == 1:
                yield tuple((path, int(value * ratio)) for path in paths)


def _entries(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], int | None]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and key.endswith("config"):
            yield from (((key, *path), number) for path, number in _entries(value))
        elif value is None or type(value) is int:
            yield (key,), value


def _edited(data: Mapping[str, Any], edit: Edit) -> dict[str, Any]:
    result = copy.deepcopy(dict(data))
    for (*parents, key), value in edit:
        inner = result
        for parent in parents:
            inner = inner[parent]
        inner[key] = value
    return result


def proven(small: nn.Module, kind: Any, data: Mapping[str, Any], like: Mapping[str, Any]) -> bool:
    """Say whether a model built from a configuration is the small one: it computes the same."""
    twin = build(kind, data, like=like)
    if not fits(small, twin):
        return False
    for name, tensor in all_tensors(small).items():
        path, _, attribute = name.rpartition(".")
        setattr(twin.get_submodule(path), attribute, tensor)
    mine = answers(small)
    return mine is not None and same(mine, answers(twin))


def fits(small: nn.Module, twin: nn.Module) -> bool:
    """Say whether a model from a configuration has all that a small one has, but for values."""
    if facts.shapes(twin) != facts.shapes(small) or facts.classes(twin) != facts.classes(small):
        return False
    kept = small.state_dict(keep_vars=True).keys()
    loose = {name for name, _ in small.named_buffers() if name not in kept}
    if facts.computed(small, twin, exact=False) != loose:
        return False
    return facts.numbers(small).keys() == facts.numbers(twin).keys()


def answers(model: Any) -> list[Tensor] | None:
    """Return what a model gives on its example inputs; None if it does not run on any."""
    parameter = next(p for p in model.parameters() if p.is_floating_point())
    try:
        first = first_samples(example_inputs(model), 1)
        assert isinstance(first, dict)
        inputs = {n: x.to(parameter.device) for n, x in first.items()}
        inputs = {
            n: x.to(parameter.dtype) if x.is_floating_point() else x for n, x in inputs.items()
        }
        with evaluating(model), torch.no_grad():
            return outputs_of(call(model, inputs)) or None
    # A configuration with the right shapes need not run, and may fail in any way.
    except Exception:  # noqa: BLE001
        return None


def same(mine: list[Tensor], theirs: list[Tensor] | None) -> bool:
    """Say whether two answers are equal, bit for bit."""
    return theirs is not None and len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))
