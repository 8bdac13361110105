"""Weights that went stay zero while a model trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from natsel.common.errors import choose, refuse


class Hold:
    """Keeps weights zero until it is closed; also a context manager.

    Args:
        model: that trains.
        masks: checked, by parameter.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        tensors = dict(model.named_parameters(remove_duplicate=False))
        self.masks = {n: masks[n].to(tensors[n].device) for n in masks}
        self._held = {id(tensors[n]): (tensors[n], mask) for n, mask in self.masks.items()}
        self._handles: list[Any] = [register_optimizer_step_post_hook(self._after)]
        for parameter, mask in self._held.values():
            if parameter.requires_grad:
                hook = parameter.register_hook(_masked(mask))  # type: ignore[no-untyped-call]
                self._handles.append(hook)
        self.zero()

    def zero(self) -> None:
        """Set what went to zero: after a step that no optimizer of torch made."""
        with torch.no_grad():
            for parameter, mask in self._held.values():
                parameter.masked_fill_(~mask, 0)

    def _after(self, optimizer: Optimizer, *_: object) -> None:
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if id(parameter) in self._held:
                        parameter.masked_fill_(~self._held[id(parameter)][1], 0)

    def close(self) -> None:
        """Let the weights go; closing twice does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hold(model: nn.Module, masks: Mapping[str, Tensor]) -> Hold:
    """Keep the weights that went zero while a model trains, whatever its optimizer does.

    Their gradients become 0, so that they count in no norm and no moment; and after each step of
    any ``torch.optim.Optimizer`` that has them (momentum and weight decay act without a gradient)
    they are set to 0 again, exactly.

    Args:
        model: whose parameters the masks are for; they become zero now.
        masks: of booleans, by parameter: from :func:`natsel.sparsify`, :func:`natsel.select` or
            :func:`natsel.masks_of`.

    Returns:
        A handle; ``close()`` ends it, as does leaving it as a context.

    Raises:
        ValueError: if a name is no parameter, or a mask does not fit.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> with hold(model, {"weight": torch.tensor([[True, False]])}):
        ...     model(torch.ones(1, 2)).sum().backward()
        ...     optimizer.step()
        >>> model.weight[0, 1].item()
        0.0
    """
    if not isinstance(masks, Mapping) or not masks:
        refuse("masks", masks, "a mask for at least one parameter")
    tensors = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        choose("masks", name, tensors)
        fits = isinstance(mask, Tensor) and mask.dtype == torch.bool
        if not fits or mask.shape != tensors[name].shape:
            allowed = f"a tensor of booleans of shape {tuple(tensors[name].shape)}"
            refuse(f"masks[{name!r}]", mask, allowed)
    return Hold(model, masks)


def _masked(mask: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient.masked_fill(~mask.to(gradient.device), 0)
