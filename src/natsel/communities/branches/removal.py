"""Take branches out of a model: modules go, empty blocks go, and what counts blocks follows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from torch import nn

from natsel.common.errors import refuse
from natsel.communities.branches.absent import Absent
from natsel.communities.branches.branch import Branch, Shortening

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
    stands = [s for b in gone for s in b.stands if not _below(f"{s.path}.", outer)]
    dropped: dict[str, list[int]] = defaultdict(list)
    for block in outer:
        container, _, number = block.rpartition(".")
        dropped[container].append(int(number))
    numbers = _renumbered(model, {s.path for s in stands}, dropped)
    return Shortening(tuple(stands), {p: tuple(sorted(n)) for p, n in dropped.items()}, numbers)


def shorten(model: nn.Module, shortening: Shortening) -> None:
    """Carry a shortening out, in place.

    Args:
        model: changed.
        shortening: of it.

    Raises:
        ValueError: if the model has no such module or list.
    """
    modules = dict(model.named_modules())
    for stand in shortening.stands:
        if stand.path not in modules or not stand.path:
            refuse("model", type(model).__name__, f"one with a module at {stand.path}")
        parent, _, name = stand.path.rpartition(".")
        setattr(model.get_submodule(parent), name, Absent(stand.zero, stand.arity))
    for path, numbers in (shortening.dropped or {}).items():
        blocks = modules.get(path)
        if not isinstance(blocks, nn.ModuleList | nn.Sequential) or not numbers:
            refuse("model", type(model).__name__, f"one with a list of blocks at {path}")
        if not 0 <= min(numbers) <= max(numbers) < len(blocks):
            refuse(f"blocks of {path}", list(numbers), f"numbers below {len(blocks)}")
        kept = [block for number, block in enumerate(blocks) if number not in set(numbers)]
        for name in list(blocks._modules):
            del blocks._modules[name]
        for number, block in enumerate(kept):
            blocks._modules[str(number)] = block
        _state_counts(model, path, numbers, len(kept) + len(numbers))
    modules = dict(model.named_modules())
    for name, value in (shortening.numbers or {}).items():
        path, _, attribute = name.rpartition(".")
        if type(vars(modules.get(path, model)).get(attribute)) is not int:
            refuse("model", type(model).__name__, f"one with a whole number at {name}")
        setattr(modules[path], attribute, value)


def renamed(name: str, dropped: Mapping[str, Collection[int]]) -> str | None:
    """Return the name that something has once blocks are gone; None where it went with one.

    Example:
        >>> renamed("layers.3.mlp", {"layers": (0, 2)}), renamed("layers.2.mlp", {"layers": (2,)})
        ('layers.1.mlp', None)
    """
    for container, numbers in dropped.items():
        head = f"{container}." if container else ""
        if not name.startswith(head):
            continue
        number, _, rest = name[len(head) :].partition(".")
        if not number.isdecimal():
            continue
        if int(number) in numbers:
            return None
        before = sum(n < int(number) for n in numbers)
        name = f"{head}{int(number) - before}" + (f".{rest}" if rest else "")
    return name


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
    model: nn.Module, absent: Collection[str], dropped: Mapping[str, Collection[int]]
) -> dict[str, int]:
    """Return what attributes that say which block a module is in have to say afterwards.

    A key/value cache has a place for each attention that is left, counted from 0: so modules of
    one kind are counted where they are still there.
    """
    lists = {path for path, module in model.named_modules() if _is_list(module)}
    found: dict[tuple[str, str, str], list[tuple[int, str]]] = defaultdict(list)
    for path, module in model.named_modules():
        if path in absent or _below(path, absent):
            continue
        parts = path.split(".")
        for attribute in ZERO_BASED:
            value = vars(module).get(attribute)
            if type(value) is not int:
                continue
            for place, part in enumerate(parts):
                container = ".".join(parts[:place])
                if container in lists and part.isdecimal() and int(part) == value:
                    after = renamed(path, dropped)
                    if after is not None:
                        rest = ".".join(parts[place + 1 :])
                        found[container, rest, attribute].append((value, after))
                    break
    numbers = {}
    for (_, _, attribute), held in found.items():
        for number, (before, path) in enumerate(sorted(held)):
            if number != before:
                numbers[f"{path}.{attribute}"] = number
    return numbers


def _state_counts(model: nn.Module, path: str, numbers: Collection[int], count: int) -> None:
    """Let the configurations of a model count the blocks that are left.

    Only where a whole number, or a list of that length, says how many blocks there were, under a
    name that means blocks.
    """
    gone = set(numbers)
    owners = [m for n, m in model.named_modules() if path == n or path.startswith(f"{n}.") or not n]
    configs = {id(c): c for m in owners if (c := getattr(m, "config", None)) is not None}
    for config in configs.values():
        names = getattr(config, "attribute_map", {}) or {}
        for plain in ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth"):
            name = names.get(plain, plain)
            if type(vars(config).get(name)) is int and vars(config)[name] == count:
                setattr(config, name, count - len(gone))
        for name, value in list(vars(config).items()):
            if isinstance(value, list) and len(value) == count and name in PER_BLOCK:
                setattr(config, name, [v for i, v in enumerate(value) if i not in gone])


PER_BLOCK = ("layer_types", "mlp_layer_types", "attention_layers", "layers_block_type")
"""Lists in configurations that have a place for each block."""
