"""From what was seen of a consumer to its new weight and bias, if that is for the better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.communities.tensors import tensors_of
from natsel.extraction.absorbed import Absorbed
from natsel.extraction.consumers import Consumer
from natsel.extraction.folds import chosen
from natsel.extraction.pairs import Fit
from natsel.extraction.reading import Reading, Seen

NOTHING = 1e-13
"""A share of the squared output that rounding alone leaves in float32."""


def absorb(
    small: nn.Module, consumer: Consumer, seen: Seen, ridge: float | None
) -> tuple[Absorbed, list[str]]:
    """Let a small consumer take over what it lacks, in place.

    Args:
        small: holds the consumer.
        consumer: which one.
        seen: what entered it.
        ridge: the penalty of the regression; None chooses it by samples that are held out, and
            leaves the consumer alone where these say that it would not gain.

    Returns:
        What became of it, and the names of the tensors that changed.

    Raises:
        ValueError: if NaN or infinity entered it.
    """
    whole = seen.gathered.evidence(constant=consumer.constant)
    if not whole.finite:
        refuse("data", "NaN or infinity", f"what gives finite activations at {consumer.module}")
    output = seen.square / max(whole.count, 1)
    before = whole.lacking()
    if ridge is None and before <= NOTHING * output:
        return Absorbed.left(consumer, "what was removed gave it nothing"), []
    if ridge is None:
        held = chosen(whole.held_out)
        if held is None:
            return Absorbed.left(consumer, "one row of data: nothing to hold out"), []
    else:
        held = whole.held_out(ridge)
    told = Absorbed(
        consumer.tensor,
        consumer.communities,
        len(consumer.kept),
        len(consumer.removed),
        rows=whole.count,
        error_before=_share(before, output),
        error_after=None if held is None else _share(held.after, output),
        ridge=ridge if held is None else held.ridge,
    )
    if ridge is None and held is not None and not held.after < held.before:
        would = f"{_share(before, output):.2%} -> {_share(held.after, output):.2%}"
        reason = f"its held-out error would not fall: {would}"
        return replace(told, reason=reason, error_after=told.error_before, ridge=None), []
    used = held.ridge if held is not None else ridge
    assert used is not None
    found, fitted = whole.fit(used)
    tensors = tensors_of(small)
    changed = fold(tensors, consumer, seen.reading, found)
    with torch.no_grad():
        for name, value in changed.items():
            tensors[name].copy_(value)
    line = replace(
        told,
        effective_rank=found.effective_rank,
        unexplained=_share(fitted, before),
        error_fitted=_share(fitted, output),
    )
    return line, list(changed)


def fold(
    tensors: Mapping[str, Tensor], consumer: Consumer, reading: Reading, found: Fit
) -> dict[str, Tensor]:
    """Return a small consumer's weight and bias with what it takes over added.

    Args:
        tensors: of the small model.
        consumer: which one.
        reading: how the dense one reads.
        found: what its inputs say of what it lacks.
    """
    weight = tensors[consumer.tensor]
    more = reading.whole(found.weights).movedim(-1, consumer.axis)
    changed = {consumer.tensor: weight.detach().to(more) + more}
    if found.constant is not None:
        name = f"{consumer.module}.bias".lstrip(".")
        rest = reading.whole(found.constant)
        changed[name] = tensors[name].detach().to(rest) + rest.reshape(len(rest), -1).sum(1)
    return changed


def _share(part: float, whole: float) -> float:
    return max(part, 0.0) / whole if whole > 0 else 0.0
