"""Low-rank adapters of the peft library: put in to be trained, and merged into the weights."""

from __future__ import annotations

import torch
from torch import nn

from natsel.common.errors import refuse
from natsel.common.extras import require

_NAME = "natsel"


def adapted(model: nn.Module, rank: int, *, skip: str | None, seed: int) -> nn.Module:
    """Put adapters beside all linear layers of a model; nothing else of it is trained.

    Args:
        model: changed in place.
        rank: of the adapters; they are scaled as is usual, by twice the rank over the rank.
        skip: path of the last layer, which stays as it is.
        seed: of their first values.

    Returns:
        The model.

    Raises:
        ValueError: if it has no linear layer.
        MissingExtraError: if the peft library is not installed.
    """
    peft = require("peft", "lora")
    names = [n for n, m in model.named_modules() if type(m) is nn.Linear and n and n != skip]
    if not names:
        refuse("lora", rank, "None: this model has no linear layer beside its last one")
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found: nn.Module = peft.inject_adapter_in_model(config, model, adapter_name=_NAME)
    return found


def merged(model: nn.Module) -> nn.Module:
    """Add what adapters learned to the weights, and take them out; all is trained again.

    Args:
        model: what :func:`adapted` returned; changed in place.

    Returns:
        The model, of the classes that it had before.
    """
    layers = require("peft.tuners.tuners_utils", "lora").BaseTunerLayer
    for path, module in list(model.named_modules()):
        if isinstance(module, layers):
            module.merge()
            base = module.get_base_layer()
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, base)
    for left in ("peft_config", "_hf_peft_config_loaded"):
        vars(model).pop(left, None)
    return model
