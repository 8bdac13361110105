"""The last layer of a model apart, so that logits never exist for many places at once.

Logits over fifty thousand words take a hundred times the memory of the hidden states that they are
made of. What a loss needs of them is made chunk by chunk, with its gradient, and thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.calls import Inputs, call, logits_of, without_cache
from natsel.common.modes import evaluating

ROOM = 2**24
"""Bytes that the logits of one chunk may take."""

Measure = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""Of the logits of some rows, and which rows these are: a loss, and what is told of it."""


def head_of(model: nn.Module, inputs: Inputs) -> str | None:
    """Return the path of the linear layer whose output is what the model returns as logits.

    Args:
        model: is run once, in evaluation mode and without gradients.
        inputs: what it runs on.

    Returns:
        None where something follows the last layer, or it is no plain linear one.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
        >>> head_of(model, (torch.zeros(1, 2),))
        '2'
        >>> head_of(nn.Sequential(model, nn.Softmax(1)), (torch.zeros(1, 2),)) is None
        True
    """
    made: list[tuple[str, Any]] = []
    with ExitStack() as stack:
        for path, module in model.named_modules():
            # What has hooks does more than its weight says.
            if type(module) is nn.Linear and not (module._forward_hooks or module._backward_hooks):

                def note(_: nn.Module, __: Any, left: Any, path: str = path) -> None:
                    made.append((path, left))

                stack.callback(module.register_forward_hook(note).remove)
        with evaluating(model), without_cache(model), torch.no_grad():
            logits = logits_of(call(model, inputs))
    paths = [path for path, left in made if left is logits]
    calls = [path for path, _ in made]
    return paths[0] if len(paths) == 1 and calls.count(paths[0]) == 1 else None


@contextmanager
def headless(model: nn.Module, path: str | None) -> Iterator[None]:
    """Let a model return what enters its last layer in place of the logits, for a while."""
    if path is None:
        yield
        return
    own = vars(model.get_submodule(path))
    before = own.get("forward")
    own["forward"] = _as_it_is
    try:
        yield
    finally:
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before


def _as_it_is(x: Tensor) -> Tensor:
    return x


class _Chunked(torch.autograd.Function):
    """Loss and gradient are made together, chunk by chunk: nothing is computed twice."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        measure: Measure,
        size: int,
    ) -> tuple[Tensor, Tensor]:
        """Return the sum over all chunks of the loss, and of what is told."""
        wanted = ctx.needs_input_grad[:3]
        given = [x for x in (hidden, weight, bias) if x is not None]
        grads = [torch.zeros_like(x) if w else None for x, w in zip(given, wanted, strict=False)]
        total: Any = 0.0
        told: Any = 0.0
        for start in range(0, len(hidden), size):
            rows = slice(start, start + size)
            with torch.enable_grad():
                leaves = [
                    x.detach().requires_grad_(grad is not None)
                    for x, grad in zip((hidden[rows], *given[1:]), grads, strict=True)
                ]
                loss, seen = measure(F.linear(*leaves), rows)
                asked = [x for x in leaves if x.requires_grad]
                found = iter(torch.autograd.grad(loss, asked) if asked else ())
            if grads[0] is not None:
                grads[0][rows] = next(found)
            for grad in grads[1:]:
                if grad is not None:
                    grad += next(found)
            total, told = total + loss.detach(), told + seen.detach()
        ctx.grads = grads
        ctx.mark_non_differentiable(told)
        return total, told

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        """Scale what was made."""
        grads, ctx.grads = ctx.grads, None
        scaled = [g if g is None else g.mul_(outer[0]) for g in grads]
        return (*scaled, *([None] * (5 - len(scaled))))


def through_head(
    hidden: Tensor, head: nn.Linear, measure: Measure, *, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return a loss of the logits that a last layer makes, summed over chunks of rows.

    Value and gradient are those of all rows at once, but for rounding.

    Args:
        hidden: what enters the layer ``[N, D]``, N > 0.
        head: the layer.
        measure: of some of the logits; the loss of all must be the sum over chunks.
        size: rows of a chunk; as many as :data:`ROOM` holds by default.

    Returns:
        The loss, and what is told of it, detached.
    """
    rows = size if size is not None else max(1, ROOM // (4 * head.out_features))
    apply: Callable[..., tuple[Tensor, Tensor]] = _Chunked.apply
    found = apply(hidden, head.weight, head.bias, measure, rows)
    return found
