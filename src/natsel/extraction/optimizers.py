"""An optimizer goes on with the small model: its state is cut like the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.communities import Communities
from natsel.communities.surgery.surgery import kept_indices, shortened_by
from natsel.extraction.state_cutting import StateCut
from natsel.extraction.state_history import cut_history
from natsel.extraction.state_layouts import known_keys, qualified
from natsel.extraction.state_leaves import Move, leaves_of
from natsel.selection import Survivors

Change = Callable[[], None]
SPREAD = ("ZeroRedundancyOptimizer",)


def follow(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    small: nn.Module,
    communities: Communities,
    survivors: Survivors,
) -> None:
    """Point an optimizer at the small model, in place, with its state cut to the survivors.

    Parameters of branches that are gone leave the groups, with their state; those of blocks that
    have another number now keep theirs. State of the parameter's shape (momentum, first and second
    moments) loses what the parameter lost. Means over rows or columns lose their entries and become
    means over what remains, so that the second moment they give a kept weight is what it was. The
    history of L-BFGS is cut as the one vector that it is. Step counts stay. A wrapped optimizer is
    followed with what wraps it.
    Gradients are not carried over. Where masses were folded into a weight, state is kept as it was
    for the gated weight.

    Args:
        optimizer: holds parameters of ``model``.
        model: what was extracted from, gated or not.
        small: what was extracted.
        communities: of the model.
        survivors: what ``small`` holds.

    Raises:
        ValueError: if the optimizer holds a parameter that is not in the model, or state of which
            it is not certain how to cut it; nothing of the optimizer has changed then.
    """
    old = dict(model.named_parameters())
    new = dict(small.named_parameters())
    kept = kept_indices(communities.values(), survivors, {**dict(model.named_buffers()), **old})
    shortening = shortened_by(model, communities.values(), survivors)
    moves = {}
    for name, parameter in old.items():
        # Blocks that follow one that is gone have other names now.
        after = shortening.renamed(name)
        mine = None if after is None else new.get(after)
        moves[id(parameter)] = Move(name, parameter, mine, kept.get(name, {}))
    layers = list(layers_of(optimizer))
    for layer in layers:
        _check(layer, moves)
    changes: list[Change] = []
    seen: set[int] = set()
    for layer in layers:
        changes += _state_changes(layer, moves, seen)
        for group in layer.param_groups:
            if id(group) not in seen:
                seen.add(id(group))
                changes += _group_changes(layer, group, moves)
        changes += _attribute_changes(layer, moves)
    for change in changes:
        change()


def layers_of(optimizer: Any) -> Iterator[Any]:
    """Yield an optimizer and every optimizer that it wraps.

    Example:
        >>> inner = torch.optim.SGD([nn.Parameter(torch.ones(1))])
        >>> wrapper = torch.optim.SGD([nn.Parameter(torch.ones(1))])
        >>> wrapper.optimizer = inner
        >>> [layer is inner for layer in layers_of(wrapper)]
        [False, True]
    """
    waiting, seen = [optimizer], {id(optimizer)}
    while waiting:
        layer = waiting.pop(0)
        yield layer
        for value in vars(layer).values():
            several = value if isinstance(value, list | tuple) else [value]
            for inner in several:
                if isinstance(inner, torch.optim.Optimizer) and id(inner) not in seen:
                    seen.add(id(inner))
                    waiting.append(inner)


def _check(layer: Any, moves: Mapping[int, Move]) -> None:
    if type(layer).__name__ in SPREAD:
        refuse("optimizer", type(layer).__name__, "one that holds all of its state in this process")
    for group in layer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in moves:
                refuse("optimizer", tuple(parameter.shape), "parameters of the given model only")
    for move in moves.values():
        if move.new is None:
            continue
        expected = [
            len(move.kept[axis]) if axis in move.kept else size
            for axis, size in enumerate(move.old.shape)
        ]
        assert list(move.new.shape) == expected, f"{move.name}: {move.new.shape}, not {expected}"


def _state_changes(layer: Any, moves: Mapping[int, Move], seen: set[int]) -> list[Change]:
    state = layer.state
    if id(state) in seen:
        return []
    seen.add(id(state))
    for key, value in state.items():
        if not isinstance(key, Tensor) and _holds_large(value) and _any_shrinks(layer, moves):
            refuse("optimizer", type(layer).__name__, f"state by parameter only, not {key!r}")
    held = [(moves[id(p)], value) for p, value in state.items() if id(p) in moves]
    if _is_lbfgs(layer):
        ordered = [moves[id(p)] for p in layer.param_groups[0]["params"]]
        cut = [(move, cut_history(ordered, value) if value else {}) for move, value in held]
    else:
        # Where nothing shrinks, what is kept over all parameters together stays right.
        total = sum(m.old.numel() for m in _of(layer, moves)) if _any_shrinks(layer, moves) else 0
        whole = StateCut(type(layer).__name__, known_keys(layer), held, total=total)
        cut = [(move, whole.of(move, value)) for move, value in held]

    def change() -> None:
        for move, _ in held:
            del state[move.old]
        for move, value in cut:
            if move.new is not None:
                state[move.new] = value
        if _is_lbfgs(layer):
            layer._numel_cache = None

    return [change]


def _of(layer: Any, moves: Mapping[int, Move]) -> list[Move]:
    return [moves[id(p)] for group in layer.param_groups for p in group["params"]]


def _any_shrinks(layer: Any, moves: Mapping[int, Move]) -> bool:
    return any(move.kept or move.new is None for move in _of(layer, moves))


def _is_lbfgs(layer: Any) -> bool:
    return any(qualified(base) == "torch.LBFGS" for base in type(layer).__mro__)


def _group_changes(layer: Any, group: dict[str, Any], moves: Mapping[int, Move]) -> list[Change]:
    parameters = group["params"]
    mine = [moves[id(p)] for p in parameters]
    label, known = type(layer).__name__, known_keys(layer)
    instead: dict[str, Any] = {"params": [m.new for m in mine if m.new is not None]}
    shrinks = any(move.kept or move.new is None for move in mine)
    for key, value in group.items():
        if key == "params" or not shrinks:
            continue
        each = isinstance(value, list) and len(value) == len(mine)
        if each and (key == "param_names" or any(_is_large(item) for item in value)):
            cut = StateCut(label, known, [(m, {key: v}) for m, v in zip(mine, value, strict=True)])
            rest = [cut.of(m, {key: v})[key] for m, v in zip(mine, value, strict=True)]
            instead[key] = [v for m, v in zip(mine, rest, strict=True) if m.new is not None]
        elif _is_large(value) or (isinstance(value, list | tuple) and any(map(_is_large, value))):
            refuse("optimizer", label, f"groups without tensors of several numbers in {key!r}")

    def change() -> None:
        for key, value in instead.items():
            if isinstance(group[key], list):
                # The same list: L-BFGS and others look at it too.
                group[key][:] = value
            else:
                group[key] = value

    return [change]


def _is_large(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() > 1


def _holds_large(value: object) -> bool:
    return any(_is_large(item) for _, item in leaves_of(value))


def _attribute_changes(layer: Any, moves: Mapping[int, Move]) -> list[Change]:
    """Let an optimizer's own lists of parameters follow; refuse what else it keeps by parameter."""
    groups = {id(group["params"]) for group in layer.param_groups}
    changes: list[Change] = []
    for name, value in vars(layer).items():
        if value is layer.__dict__.get("state") or id(value) in groups:
            continue
        if isinstance(value, list) and any(id(item) in moves for item in value):
            changes.append(_in_place(value, moves))
        elif _any_shrinks(layer, moves) and name not in ("param_groups", "defaults"):
            keys = list(value) if isinstance(value, dict) else []
            if _holds_large(value) or any(isinstance(key, nn.Module | Tensor) for key in keys):
                what = f"an optimizer whose tensors are in its state only, not in {name!r} too"
                refuse("optimizer", type(layer).__name__, what)
    return changes


def _in_place(held: list[Any], moves: Mapping[int, Move]) -> Change:
    rest = [moves[id(item)].new if id(item) in moves else item for item in held]

    def change() -> None:
        held[:] = [item for item in rest if item is not None]

    return change
