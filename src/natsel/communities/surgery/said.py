"""Numbers of a block that say what its layers are: read by other methods than ``forward``.

A block keeps ``in_chs`` or ``groups`` to build one layer of several later (RepVGG, MobileOne), or
for a head that is put on it. Where all layers inside that had such a number now have another one,
the block says that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from natsel.communities.numbers import number, set_number

LIBRARIES = ("torch.nn.", "transformers.")
"""Whose modules have adapters of their own."""

SIZES = ("chs", "channels", "features", "planes", "dim")
ENTERING = tuple(f"{way}_{size}" for way in ("in", "input") for size in SIZES)
MADE = tuple(f"{way}_{size}" for way in ("out", "output") for size in SIZES)
BOTH = ("dim", "channels", "num_channels", "num_features")


class Numbers(NamedTuple):
    """What a layer says of itself, None where it has no such number.

    Attributes:
        entering: how many channels it reads.
        made: how many it makes.
        groups: in how many groups.
    """

    entering: int | None
    made: int | None
    groups: int | None


def numbers_said(model: nn.Module) -> dict[nn.Module, Numbers]:
    """Return what the layers of a model say of themselves.

    Example:
        >>> list(numbers_said(nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU())).values())
        [Numbers(entering=4, made=8, groups=1)]
    """
    found: dict[nn.Module, Numbers] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            found[module] = Numbers(module.in_features, module.out_features, None)
        elif isinstance(module, nn.modules.conv._ConvNd):
            found[module] = Numbers(module.in_channels, module.out_channels, module.groups)
        elif isinstance(module, _NormBase):
            found[module] = Numbers(module.num_features, module.num_features, None)
    return found


def repeat_numbers(model: nn.Module, before: Mapping[nn.Module, Numbers]) -> None:
    """Let blocks that said what their layers were say what they are, in place.

    Args:
        model: whose layers say their own sizes by now.
        before: what they said when the blocks were built.
    """
    after = numbers_said(model)
    changed = {layer for layer, said in before.items() if after[layer] != said}
    if not changed:
        return
    for module in model.modules():
        if module in after or type(module).__module__.startswith(LIBRARIES):
            continue
        held = {n: v for n in (*ENTERING, *MADE, *BOTH, "groups") if (v := number(module, n))}
        if not held:
            continue
        layers = [layer for layer in module.modules() if layer in after]
        if changed.isdisjoint(layers):
            continue
        for name, value in held.items():
            places = _places(name)
            now = {
                is_now
                for layer in layers
                for was, is_now in _pairs(before[layer], after[layer], places)
                if was == value
            }
            if name == "groups" and not now:
                # One for each channel, by its own word, though no layer with groups is in it yet.
                now = {number(module, n) for n in ENTERING if held.get(n) == value}
            if len(now) == 1 and None not in now:
                (only,) = now
                set_number(module, name, only or value)


def _places(name: str) -> tuple[str, ...]:
    if name == "groups":
        return ("groups",)
    if name in ENTERING:
        return ("entering",)
    return ("made",) if name in MADE else ("entering", "made")


def _pairs(
    before: Numbers, after: Numbers, places: Iterable[str]
) -> Iterable[tuple[int | None, int | None]]:
    return [(getattr(before, place), getattr(after, place)) for place in places]
