"""What the blocks of two models return, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from natsel.blockwise import chains_of
from natsel.common.calls import Inputs, call, without_cache
from natsel.common.modes import evaluating


class Pairs(NamedTuple):
    """Blocks that can be compared.

    Attributes:
        student: their paths in the student.
        teacher: their paths in the teacher, in the same order.
        left_out: why others, or all, cannot be compared; empty where nothing was left out.
    """

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    left_out: str = ""


def pairs_of(student: nn.Module, teacher: nn.Module, inputs: Inputs, others: Inputs) -> Pairs:
    """Return which blocks of two models return hidden states of one shape.

    Args:
        student: is run twice, in evaluation mode and without gradients.
        teacher: the same.
        inputs: of the student.
        others: of the teacher: the same on its device.
    """
    models = ((student, inputs), (teacher, others))
    mine, theirs = (chains_of(model, given) for model, given in models)
    if not mine or not theirs:
        which = "the small model" if not mine else "the teacher"
        return Pairs(left_out=f"block outputs are not compared: no chain of blocks in {which}")
    if [len(c) for c in mine] != [len(c) for c in theirs]:
        counts = " and ".join(str(sum(len(c) for c in found)) for found in (mine, theirs))
        return Pairs(left_out=f"block outputs are not compared: the models have {counts} blocks")
    paths = [tuple(p for chain in found for p in chain.paths) for found in (mine, theirs)]
    shapes = []
    for (model, given), names in zip(models, paths, strict=True):
        with (
            evaluating(model),
            without_cache(model),
            torch.no_grad(),
            outputs_kept(model, names) as held,
        ):
            call(model, given)
        shapes.append([tuple(x.shape) for x in held])
    fit = [a == b for a, b in zip(*shapes, strict=True)]
    kept = [tuple(p for p, ok in zip(names, fit, strict=True) if ok) for names in paths]
    said = ""
    if not all(fit):
        at = fit.index(False)
        said = (
            f"block outputs are compared at {sum(fit)} of {len(fit)} blocks: elsewhere widths "
            f"differ ({shapes[0][at][-1]} and {shapes[1][at][-1]} at {paths[0][at]})"
        )
    return Pairs(kept[0], kept[1], said)


@contextmanager
def outputs_kept(model: nn.Module, paths: Sequence[str]) -> Iterator[list[Tensor]]:
    """Keep what some modules return while a model runs, in the order of the paths."""
    held: list[Any] = [None] * len(paths)

    def keep(place: int) -> Any:
        def hook(_: nn.Module, __: Any, left: Any) -> None:
            held[place] = left if isinstance(left, Tensor) else left[0]

        return hook

    with ExitStack() as stack:
        for place, path in enumerate(paths):
            handle = model.get_submodule(path).register_forward_hook(keep(place))
            stack.callback(handle.remove)
        yield held
