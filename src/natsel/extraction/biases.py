"""Biases where a model has none and its configuration can say it: zeros, so the same function.

Compensation folds the mean of what went into a bias; without one, it is lost.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.common.wrappers import unwrapped
from natsel.communities.copies import copied
from natsel.communities.gates.gates import folded


def with_biases(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy of a model with biases of zero where a flag of its configuration puts them.

    A flag counts if a model of the class that is made with it has biases of Linear layers besides
    what this one has, and nothing else: ``mlp_bias`` and ``attention_bias`` of Llama, others of
    other classes. All layers that a flag covers get theirs.

    Args:
        model: of the transformers library; it is not changed, and the copy shares no tensor.

    Returns:
        The copy, whose configuration says the flags, and the flags.

    Raises:
        ValueError: if no flag of its configuration does.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=20, num_hidden_layers=1, **sizes))
        >>> found, flags = with_biases(model)
        >>> flags, found.model.layers[0].mlp.down_proj.bias.tolist()
        (('attention_bias', 'mlp_bias'), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    """
    base = folded(unwrapped(model))
    flags = _flags_of(base)
    if not flags:
        allowed = "a model without biases whose configuration has a flag for some (mlp_bias)"
        refuse("model", type(base).__name__, allowed)
    result = copied(base, {})
    for flag, names in flags.items():
        setattr(result.config, flag, True)
        for name in names:
            layer = result.get_submodule(name.rpartition(".")[0])
            weight = layer.get_parameter("weight")
            zeros = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
            layer.bias = nn.Parameter(zeros, requires_grad=weight.requires_grad)
    return result, tuple(flags)


def _flags_of(model: nn.Module) -> dict[str, list[str]]:
    """Return the flags that are off and put biases where there are none, with their names."""
    config: Any = getattr(model, "config", None)
    values = config.to_dict() if callable(getattr(config, "to_dict", None)) else {}
    before = _shapes(dict(model.named_parameters(remove_duplicate=False)))
    found: dict[str, list[str]] = {}
    for flag, value in sorted(values.items()):
        if value is not False or not flag.endswith("bias"):
            continue
        asked = copy.deepcopy(config)
        setattr(asked, flag, True)
        made: Any = type(model)
        try:
            with torch.device("meta"):
                other = made(asked)
        except (TypeError, ValueError, AttributeError, RuntimeError):
            continue
        after = _shapes(dict(other.named_parameters(remove_duplicate=False)))
        more = [name for name in after if name not in before]
        same = all(after.get(name) == shape for name, shape in before.items())
        if same and more and all(_is_free(model, name) for name in more):
            found[flag] = more
    return found


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _is_free(model: nn.Module, name: str) -> bool:
    """Tell whether a name is of a bias that a Linear of a model lacks."""
    path, _, attribute = name.rpartition(".")
    layer = model.get_submodule(path)
    return attribute == "bias" and type(layer) is nn.Linear and layer.bias is None
