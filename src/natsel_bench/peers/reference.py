"""What a smaller network must equal: the dense one with all removed numbers set to 0.

It uses nothing of any tool. Every number of a parameter is made unlike its neighbours, so that
those that are gone can be seen by looking which of them the smaller network still holds.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from natsel.common.calls import Inputs, call, in_double, logits_of

SPARSE = 1 << 20
"""Up to so many evenly spaced numbers stay apart in float32, also once they are scaled."""


def distinct_(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Give a model weights in which no number of a tensor occurs twice, in place.

    Matrices get random signs and the usual scale; vectors (biases, scales, variances) are positive
    and far from 0 and 1, so that whatever is forgotten shows.

    Args:
        model: any module.
        seed: of the numbers.

    Returns:
        The model.

    Example:
        >>> distinct_(nn.Linear(1, 3)).bias.unique().numel()
        3
    """
    generator = torch.Generator().manual_seed(seed)
    statistics = [
        t
        for m in model.modules()
        if isinstance(m, _NormBase)
        for t in (m.running_mean, m.running_var)
        if t is not None
    ]
    with torch.no_grad():
        for tensor in (*model.parameters(), *statistics):
            count = tensor.numel()
            order = torch.randperm(count, generator=generator)
            value = (order + 0.5) / count + 0.1 if count <= SPARSE else _neighbours(order)
            if tensor.dim() > 1:
                drawn = torch.randn(count, generator=generator)
                value *= torch.where(drawn < 0, -1.0, 1.0)  # sign() is 0 where 0 is drawn
                scale = math.sqrt(tensor[0].numel())
                # A power of two rounds nothing: numbers that differ go on to differ.
                value /= scale if count <= SPARSE else 2.0 ** round(math.log2(scale))
            tensor.copy_(value.reshape(tensor.shape))
    return model


def _neighbours(order: Tensor) -> Tensor:
    """Return as many float32 numbers between 1/8 and 1 as there are places, all different.

    Example:
        >>> found = _neighbours(torch.arange(1 << 21))
        >>> found.unique().numel() == 1 << 21, float(found.min()) >= 0.125, float(found.max()) < 1
        (True, True, True)
    """
    low, high = (int(torch.tensor(x).view(torch.int32)) for x in (0.125, 1.0))
    assert len(order) <= high - low, "more places than numbers"
    return (low + order * ((high - low) // len(order))).int().view(torch.float32)


def removed(dense: nn.Module, small: nn.Module) -> dict[str, Tensor]:
    """Return, per parameter of the dense model, which of its numbers the small one lacks.

    Args:
        dense: a model after :func:`distinct_`.
        small: what a tool made of it.

    Returns:
        Boolean tensors by name, of those parameters that lack any.

    Raises:
        KeyError: if the small model has no parameter of a name.
    """
    kept = dict(small.named_parameters(remove_duplicate=False))
    gone = {}
    for name, tensor in dense.named_parameters(remove_duplicate=False):
        lost = ~torch.isin(tensor.detach(), kept[name].detach().flatten())
        if bool(lost.any()):
            gone[name] = lost
    return gone


def without_reference(dense: nn.Module, small: nn.Module) -> str | None:
    """Return which normalisation lost some of what it normalises together, or None.

    Its statistics are of fewer units then: no masked network equals that.
    """
    after = dict(small.named_modules())
    for name, module in dense.named_modules():
        kind = type(module).__name__
        weight, now = getattr(module, "weight", None), getattr(after.get(name), "weight", None)
        if not isinstance(weight, Tensor) or not isinstance(now, Tensor):
            continue
        if isinstance(module, nn.GroupNorm):
            groups = getattr(after[name], "num_groups", module.num_groups)
            together, left = weight.numel() / module.num_groups, now.numel() / groups
        elif kind.endswith(("LayerNorm", "RMSNorm")):
            together, left = weight.numel(), now.numel()
        else:
            continue
        if together != left:
            return f"{name} ({kind}) normalises {left:g} of {together:g} units"
    return None


class _Routing(TorchFunctionMode):
    """Nothing is ever sent to a removed expert: its logit is minus infinity, not 0."""

    def __init__(self, routers: dict[int, Tensor]) -> None:
        super().__init__()
        self.routers = routers

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is F.linear and len(args) > 1 and id(args[1]) in self.routers:
            return out.masked_fill(self.routers[id(args[1])], -math.inf)
        return out


def logits(model: nn.Module, inputs: Inputs, *, double: bool = False) -> Tensor:
    """Return what a model computes, in its own precision or in float64; it is not changed."""
    with torch.no_grad():
        if double:
            return logits_of(call(copy.deepcopy(model).double(), in_double(inputs)))
        return logits_of(call(model, inputs))


def masked_logits(
    dense: nn.Module, gone: dict[str, Tensor], inputs: Inputs, *, double: bool = True
) -> Tensor:
    """Return what the dense model computes with the removed numbers set to 0.

    Args:
        dense: the model, not changed.
        gone: from :func:`removed`.
        inputs: what it runs on.
        double: compute in float64.
    """
    masked = copy.deepcopy(dense)
    parameters = dict(masked.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, lost in gone.items():
            parameters[name].masked_fill_(lost, 0)
    if double:
        masked.double()
    routers = {
        id(module.weight): gone[f"{name}.weight"].flatten(1).all(1)
        for name, module in masked.named_modules()
        if type(module).__name__.endswith("Router") and f"{name}.weight" in gone
    }
    with _Routing(routers):
        return logits(masked, in_double(inputs) if double else inputs)
