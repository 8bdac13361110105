"""A model of the same shape with the weights that its classes begin with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.communities.copies import copied


def fresh(small: nn.Module, masks: Mapping[str, Tensor], *, seed: int) -> nn.Module:
    """Return a copy of a model that has learned nothing.

    A model of the transformers library is initialised as its class does it, any other module by
    module through ``reset_parameters``.

    Args:
        small: the model; not changed.
        masks: what is zero stays zero, see :mod:`natsel.recovery.zeros`.
        seed: of the weights.

    Returns:
        The copy.

    Raises:
        ValueError: if nothing initialises one of its parameters.
    """
    model = copied(small, {}).requires_grad_(True)
    initial = getattr(model, "_init_weights", None)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            # What no class sets is seen afterwards.
            parameter.fill_(torch.nan)
        for module in model.modules():
            # transformers leaves alone what it has marked.
            for thing in (module, *module.parameters(False), *module.buffers(False)):
                vars(thing).pop("_is_hf_initialized", None)
        for module in reversed(list(model.modules())):
            if callable(initial):
                initial(module)
            if any(bool(p.isnan().any()) for p in module.parameters(False)):
                for name in ("reset_parameters", "_reset_parameters"):
                    if callable(reset := getattr(module, name, None)):
                        reset()
        if callable(tie := getattr(model, "tie_weights", None)):
            tie()
        for name, parameter in model.named_parameters():
            if bool(parameter.isnan().any()):
                what = "a model whose modules have reset_parameters()"
                refuse("control", True, f"{what}: nothing says how {name} begins")
            if name in masks:
                parameter.mul_(masks[name])
    return model
