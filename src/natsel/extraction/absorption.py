"""From moments to a consumer's new weight and bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.communities.surgery.surgery import cut
from natsel.communities.tensors import tensors_of
from natsel.extraction.absorbed import Absorbed
from natsel.extraction.consumers import Consumer
from natsel.extraction.moments import Moments, Regression, regress


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was seen to enter a consumer.

    Attributes:
        moments: of the columns z.
        given: which of them the small consumer reads.
        missing: which of them it lacks.
        reads: how the dense consumer reads what is missing, float64 ``[..., missing]``.
        output: how the dense output, without its bias, follows from z, ``[..., z]``.
    """

    moments: Moments
    given: Tensor
    missing: Tensor
    reads: Tensor
    output: Tensor

    @classmethod
    def alone(cls, model: nn.Module, consumer: Consumer, moments: Moments) -> Evidence:
        """Of the dense model alone: z = h; what is missing are the removed inputs."""
        weight = _reading_last(model, consumer)
        kept, removed = consumer.kept.to(weight.device), consumer.removed.to(weight.device)
        return cls(moments, kept, removed, weight[..., removed], weight)

    @classmethod
    def paired(cls, model: nn.Module, consumer: Consumer, moments: Moments) -> Evidence:
        """Of both models: z = (k, h - k); what is missing is the difference."""
        weight = _reading_last(model, consumer)
        kept = consumer.kept.to(weight.device)
        columns = torch.arange(len(kept) + weight.shape[-1])
        output = torch.cat([weight[..., kept], weight], -1)
        return cls(moments, columns[: len(kept)], columns[len(kept) :], weight, output)


def absorb(
    small: nn.Module, consumer: Consumer, seen: Evidence, ridge: float
) -> tuple[Absorbed, list[str]]:
    """Let a small consumer take over what it lacks, in place.

    Args:
        small: holds the consumer.
        consumer: which one.
        seen: what entered it.
        ridge: the penalty of the regression.

    Returns:
        What became of it, and the names of the tensors that changed.

    Raises:
        ValueError: if NaN or infinity entered it.
    """
    moments = seen.moments
    if not bool(torch.isfinite(moments.scatter).all()):
        refuse("data", "NaN or infinity", f"what gives finite activations at {consumer.module}")
    found = regress(moments, seen.given, seen.missing, constant=consumer.constant, ridge=ridge)
    tensors = tensors_of(small)
    changed = fold(tensors, consumer, seen.reads, found)
    with torch.no_grad():
        for name, value in changed.items():
            tensors[name].copy_(value)
    output = _energy(seen.output, moments.second(about_mean=False))
    line = Absorbed(
        consumer.tensor,
        consumer.communities,
        len(consumer.kept),
        len(consumer.removed),
        effective_rank=found.effective_rank,
        rows=moments.count,
        unexplained=_share(found.after.trace(), found.before.trace()),
        error_before=_share(_energy(seen.reads, found.before), output),
        error_after=_share(_energy(seen.reads, found.after), output),
    )
    return line, list(changed)


def fold(
    tensors: Mapping[str, Tensor], consumer: Consumer, reads: Tensor, found: Regression
) -> dict[str, Tensor]:
    """Return a small consumer's weight and bias with W A and W c added.

    Args:
        tensors: of the small model.
        consumer: which one.
        reads: W, how the dense weight reads what is missing, float64 ``[..., missing]``.
        found: A and c.
    """
    weight = tensors[consumer.tensor]
    more = (reads @ found.weights.to(reads.device)).movedim(-1, consumer.axis)
    changed = {consumer.tensor: weight.detach().to(more) + more}
    if found.constant is not None:
        name = f"{consumer.module}.bias".lstrip(".")
        rest = reads @ found.constant.to(reads.device)
        changed[name] = tensors[name].detach().to(rest) + rest.reshape(len(rest), -1).sum(1)
    return changed


def _reading_last(model: nn.Module, consumer: Consumer) -> Tensor:
    """Return what remains of a dense weight but for the axis that reads, which comes last."""
    rows = cut(tensors_of(model)[consumer.tensor], consumer.others)
    home = "cpu" if rows.device.type == "mps" else rows.device
    return rows.to(home).double().movedim(consumer.axis, -1)


def _energy(weight: Tensor, second: Tensor) -> Tensor:
    """Return E|W x|^2 from the second moments of x: tr W S W^T."""
    rows = weight.reshape(-1, weight.shape[-1]).to(second.device)
    return ((rows @ second) * rows).sum()


def _share(part: Tensor, whole: Tensor) -> float:
    return max(float(part), 0.0) / float(whole) if float(whole) > 0 else 0.0
