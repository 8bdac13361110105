"""Batch normalisations that hold what passes through them, so that a signal reaches the outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

LEAST = 1e-12
"""Variance below which a channel is taken as the same everywhere, and is left as it is."""

DEEP = 8


def settle(model: nn.Module, run: Callable[[], object]) -> None:
    """Run a model once and let each batch normalisation hold the statistics of what enters it.

    A chain of layers with statistics of other signals loses what entered it behind its biases: of
    the first of fifteen layers the outputs show less than float64 can tell.

    Args:
        model: whose running means and variances are written, those of a copy for trials.
        run: runs it.

    Example:
        >>> norm, x = nn.BatchNorm1d(2).eval(), torch.tensor([[1.0, 10.0], [3.0, 10.0]])
        >>> settle(norm, lambda: norm(x))
        >>> norm.running_mean.tolist(), norm.running_var.tolist()
        ([2.0, 10.0], [1.0, 1.0])
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    handles = [norm.register_forward_pre_hook(_hold) for norm in norms]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()


def is_deep(model: nn.Module) -> bool:
    """Tell whether a model normalises so often that a signal gets lost on the way."""
    return len(_norms(model)) >= DEEP


def _norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def _hold(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
    x = args[0].detach()
    mean, var = norm.running_mean, norm.running_var
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor) or x.dim() < 2:
        return
    over = [axis for axis in range(x.dim()) if axis != 1]
    found = x.var(over, unbiased=False)
    with torch.no_grad():
        mean.copy_(x.mean(over))
        var.copy_(torch.where(found > LEAST, found, torch.ones_like(found)))
