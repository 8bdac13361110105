"""Take branches out of a model: modules go, empty blocks go, and what counts blocks follows."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from natsel.common.errors import refuse
from natsel.communities.branches.absent import Absent
from natsel.communities.branches.branch import Branch, Dropped, Shortening

ZERO_BASED = ("layer_idx", "layer_index", "layer_id", "block_idx", "block_index")
"""Attributes in which a module holds which of the blocks of its list it is in."""


def shortening_of(
    model: nn.Module, gone: Collection[Branch], branches: Iterable[Branch]
) -> Shortening:
    """Return what the removal of some branches does to the modules of a model.

    Args:
        model: that has the branches.
        gone: those that go.
        branches: all of the model.
    """
    blocks = {b.block for b in gone if b.block} - {b.block for b in branches if b not in gone}
    outer = sorted(b for b in blocks if not any(b.startswith(f"{o}.") for o in blocks))
    dropped: dict[str, list[int]] = defaultdict(list)
    for block in outer:
        container, _, number = block.rpartition(".")
        dropped[container].append(int(number))
    kept = Shortening({p: Dropped(tuple(sorted(n)), _size(model, p)) for p, n in dropped.items()})
    stands = []
    for stand in (s for b in gone for s in b.stands):
        path = kept.renamed(stand.path)
        if path is not None:
            stands.append(replace(stand, path=path))
    absent = {s.path for b in gone for s in b.stands}
    return replace(kept, stands=tuple(stands), numbers=_renumbered(model, absent, kept))


def _size(model: nn.Module, path: str) -> int:
    blocks = model.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList | nn.Sequential)
    return len(blocks)


def shorten(model: nn.Module, shortening: Shortening) -> None:
    """Carry a shortening out, in place; a list that is as short already stays as it is.

    Args:
        model: changed.
        shortening: of it.

    Raises:
        ValueError: if the model has no such module or list.
    """
    for path, gone in shortening.dropped.items():
        blocks = dict(model.named_modules()).get(path)
        if not isinstance(blocks, nn.ModuleList | nn.Sequential):
            refuse("model", type(model).__name__, f"one with a list of blocks at {path}")
        if len(blocks) == gone.size - len(gone.numbers):
            continue
        if len(blocks) != gone.size or not gone.numbers or max(gone.numbers) >= gone.size:
            refuse(f"model {path}", f"{len(blocks)} blocks", f"{gone.size}, as were cut")
        kept = [block for number, block in enumerate(blocks) if number not in gone.numbers]
        for name in list(blocks._modules):
            del blocks._modules[name]
        for number, block in enumerate(kept):
            blocks._modules[str(number)] = block
        _state_counts(model, path, gone)
    modules = dict(model.named_modules())
    for stand in shortening.stands:
        if stand.path not in modules or not stand.path:
            refuse("model", type(model).__name__, f"one with a module at {stand.path}")
        parent, _, name = stand.path.rpartition(".")
        setattr(modules[parent], name, Absent(stand.zero, stand.arity, stand.passed))
    for name, value in shortening.numbers.items():
        path, _, attribute = name.rpartition(".")
        if path not in modules or type(vars(modules[path]).get(attribute)) is not int:
            refuse("model", type(model).__name__, f"one with a whole number at {name}")
        setattr(modules[path], attribute, value)


def _below(name: str, paths: Collection[str]) -> bool:
    return any(name.startswith(f"{path}.") for path in paths)


def blocks_around(model: nn.Module, branch: Branch) -> list[str]:
    """Return the paths of all blocks of lists that hold a branch, outer ones first."""
    parts = branch.holder.split(".") if branch.holder else []
    return [
        ".".join(parts[: place + 1])
        for place in range(len(parts))
        if parts[place].isdecimal() and _is_list(model.get_submodule(".".join(parts[:place])))
    ]


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1


def _renumbered(
    model: nn.Module, absent: Collection[str], shortening: Shortening
) -> dict[str, int]:
    """Return what attributes that say which block a module is in have to say afterwards.

    That is the number which its block has then. But a key/value cache tells how long it is by its
    first place, so that some attention has to write there: where the first block has none any more,
    the first one of the same type takes that place.

    Raises:
        ValueError: if no attention of that type is left.
    """
    lists = {path for path, module in model.named_modules() if _is_list(module)}
    found: dict[tuple[str, str, str], dict[int, tuple[int, str]]] = defaultdict(dict)
    for path, module in model.named_modules():
        if path in absent or _below(path, absent):
            continue
        parts = path.split(".")
        for attribute in ZERO_BASED:
            value = vars(module).get(attribute)
            for place, part in enumerate(parts):
                container = ".".join(parts[:place])
                if type(value) is int and part == str(value) and container in lists:
                    after = shortening.renamed(path)
                    if after is not None:
                        number = int(after.split(".")[place])
                        key = (container, ".".join(parts[place + 1 :]), attribute)
                        found[key][number] = (value, after)
                    break
    numbers = {}
    for (container, rest, attribute), held in found.items():
        order = {number: number for number in held}
        if 0 not in held and held and _writes(model, container, rest):
            types = _types(model, container)
            order[_first_like(types, shortening.dropped.get(container), held)] = 0
        for number, (before, path) in held.items():
            if order[number] != before:
                numbers[f"{path}.{attribute}"] = order[number]
    return numbers


def _writes(model: nn.Module, container: str, rest: str) -> bool:
    """Tell whether modules in a place of each block of a list write into a key/value cache."""
    blocks = model.get_submodule(container)
    for block in blocks.children():
        found = dict(block.named_modules()).get(rest)
        if found is not None:
            parameters = inspect.signature(found.forward).parameters
            return bool(rest) and any("past_key_value" in name for name in parameters)
    return False


def _first_like(
    types: Sequence[Any] | None, gone: Dropped | None, held: Mapping[int, tuple[int, str]]
) -> int:
    """Return the first block, by its later number, whose attention is of the first block's type."""
    if types is None:
        return min(held)
    left = [t for n, t in enumerate(types) if gone is None or n not in gone.numbers]
    for number in sorted(held):
        if left[number] == left[0]:
            return number
    refuse("survivors", f"no attention of type {left[0]!r}", "one at least: a cache needs it")


def _types(model: nn.Module, container: str) -> list[Any] | None:
    """Return the type of the attention of each block, where a configuration has several."""
    size = _size(model, container)
    for module in model.modules():
        found = vars(vars(module).get("config") or nn.Module()).get("layer_types")
        if isinstance(found, list) and len(found) == size and len(set(found)) > 1:
            return found
    return None


def _state_counts(model: nn.Module, path: str, gone: Dropped) -> None:
    """Let the configurations of a model count the blocks that are left.

    Only where a whole number, or a list of that length, says how many blocks there were, under a
    name that means blocks; or where a list says how many there are in each of several lists.
    """
    owners = [m for n, m in model.named_modules() if path == n or path.startswith(f"{n}.") or not n]
    configs = {id(c): c for m in owners if (c := getattr(m, "config", None)) is not None}
    left = gone.size - len(gone.numbers)
    like = [n for n, m in model.named_modules() if _pattern(n) == _pattern(path)]
    for config in configs.values():
        names = getattr(config, "attribute_map", {}) or {}
        for name in (names.get(plain, plain) for plain in COUNTS):
            if (
                "stage" not in name
                and type(vars(config).get(name)) is int
                and vars(config)[name] == gone.size
            ):
                setattr(config, name, left)
        for name in PER_BLOCK:
            value = vars(config).get(name)
            if isinstance(value, list) and len(value) == gone.size:
                setattr(config, name, [v for i, v in enumerate(value) if i not in gone.numbers])
        depths = vars(config).get("depths")
        if isinstance(depths, list) and len(depths) == len(like):
            depths = [left if n == path else depth for n, depth in zip(like, depths, strict=True)]
            config.depths = depths


def _pattern(path: str) -> str:
    return re.sub(r"\d+", "#", path)


COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
PER_BLOCK = ("layer_types", "mlp_layer_types", "attention_layers", "layers_block_type")
"""Lists in configurations that have a place for each block."""
