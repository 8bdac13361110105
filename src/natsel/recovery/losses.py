"""How far a student is from its teacher: pure functions of what both say."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from natsel.common.calls import IGNORED


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Return how much of what the teacher says the student does not, place by place.

    The forward Kullback-Leibler divergence at a temperature :math:`T`,
    :math:`T^2 \sum_k p_k (\log p_k - \log q_k)` with :math:`p = \mathrm{softmax}(t / T)` and
    :math:`q = \mathrm{softmax}(s / T)`. The factor :math:`T^2` keeps the gradient of its size: for
    large :math:`T` the whole tends to the squared distance of the centred logits over :math:`2 K`.

    Args:
        student: logits ``[N, K]``.
        teacher: logits ``[N, K]``.
        temperature: > 0.

    Returns:
        In nats, float32 (float64 of such logits) ``[N]``.

    Example:
        >>> divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([0.])
    """
    p, q = (F.log_softmax(_exact(logits) / temperature, dim=-1) for logits in (teacher, student))
    return temperature**2 * (p.exp() * (p - q)).sum(-1)


def surprise(student: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of labels, place by place; 0 where a label does not count.

    Args:
        student: logits ``[N, K]``.
        labels: int64 ``[N]``.

    Returns:
        In nats ``[N]``.

    Example:
        >>> surprise(torch.zeros(2, 4), torch.tensor([3, -100]))
        tensor([1.3863, 0.0000])
    """
    return F.cross_entropy(_exact(student), labels, ignore_index=IGNORED, reduction="none")


def apart(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Return how far hidden states are apart, relative to the teacher's, place by place.

    :math:`|s - t|^2 / |t|^2` at each place: a mean over the squares themselves would see nothing
    but the few places (the first token, mostly) whose hidden state is a thousand times larger.

    Args:
        student: ``[..., T, D]``, or ``[N, C, H, W]`` and ``[N, D]``, where a place is a sample.
        teacher: the same shape.

    Returns:
        ``[..., T]``, or ``[N]``.

    Example:
        >>> apart(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([1.])
    """
    s, t = (_exact(x) if x.dim() == 3 else _exact(x).flatten(1) for x in (student, teacher))
    return (s - t).square().sum(-1) / t.square().sum(-1).clamp_min(torch.finfo(t.dtype).tiny)


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
