"""The blocks of a vision transformer, by its structure, and the tokens that are no places."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn

from natsel.common.errors import refuse
from natsel.common.numbers import check_whole

MODEL = (
    "a vision transformer: one chain of alike blocks with attention among all tokens (ViT, DeiT "
    "and DINOv2 of transformers, those of timm, natsel's own)"
)

IMPLEMENTATIONS = ("sdpa", "eager")
"""Attention of the transformers library that can be seen."""

ORDERED = (nn.modules.conv._ConvNd, nn.RNNBase)
"""What sees neighbours: who they are would change silently when somebody leaves."""

_CLASS = re.compile(r"(^|_)(cls|class)(_|$)")
_PREFIX = re.compile(r"(^|_)(cls|class|dist|distillation|reg|register)(_|$)")


@dataclass(frozen=True)
class Found:
    """Where tokens live in a model.

    Attributes:
        name: of the chain of blocks.
        blocks: in their order.
        num_prefix: how many of the first tokens stand for no place.
        has_class: whether the very first one is a class token.
    """

    name: str
    blocks: tuple[nn.Module, ...]
    num_prefix: int
    has_class: bool


def is_decoder(model: nn.Module) -> bool:
    """Tell whether a model has layers that count themselves for a key/value cache."""
    return any(isinstance(getattr(m, "layer_idx", None), int) for m in model.modules())


def chains(model: nn.Module) -> dict[str, tuple[nn.Module, ...]]:
    """Return the outermost chains of alike blocks, by name.

    A block has linear maps and parts of its own; all blocks of a chain are of one class.

    Example:
        >>> from natsel.models import ViT
        >>> [(n, len(b)) for n, b in chains(ViT((3, 8, 8), 2, dim=8, heads=2, depth=3)).items()]
        [('blocks', 3)]
    """
    found: dict[str, tuple[nn.Module, ...]] = {}
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer in found) or "" in found:
            continue
        if isinstance(module, nn.ModuleList | nn.Sequential) and _are_blocks(module):
            found[name] = tuple(module)
    return found


def find(model: nn.Module, prefix: int | None = None) -> Found:
    """Return where tokens live in a model.

    Args:
        model: a vision transformer.
        prefix: how many of the first tokens stand for no place, the first of them a class token;
            None for what the names of the model's own parameters say.

    Raises:
        ValueError: if it is none, or tokens live in several places.
    """
    if not isinstance(model, nn.Module):
        refuse("model", model, MODEL)
    told = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        refuse("model", told, f"{MODEL}; compile it afterwards, or not at all")
    if getattr(model, "_compiled_call_impl", None) is not None:
        refuse("model", f"{told}, compiled", f"{MODEL}, not compiled")
    if is_decoder(model):
        refuse("model", told, f"{MODEL}; in a decoder, the entries of its cache compete")
    found = chains(model)
    if not found:
        refuse("model", told, MODEL)
    if len(found) > 1:
        refuse("model", f"{told} with {', '.join(found)}", "the part with one chain of blocks")
    name, blocks = next(iter(found.items()))
    for inner, module in model.get_submodule(name).named_modules():
        if isinstance(module, ORDERED):
            seen = f"{told} with {type(module).__name__} at {name}.{inner}"
            refuse("model", seen, "blocks in which only attention tells one token of the others")
    implementation = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        allowed = f"{' or '.join(map(repr, IMPLEMENTATIONS))}, which show their attention"
        refuse("attn_implementation", implementation, allowed)
    if prefix is not None:
        check_whole("prefix", prefix, 0)
        return Found(name, blocks, prefix, prefix > 0)
    num_prefix, has_class = _prefix_of(model, name)
    return Found(name, blocks, num_prefix, has_class)


def _are_blocks(module: nn.ModuleList | nn.Sequential) -> bool:
    children = list(module)
    if not children or len({type(child) for child in children}) > 1:
        return False
    if isinstance(children[0], nn.ModuleList | nn.Sequential):
        return False
    return all(sum(isinstance(m, nn.Linear) for m in child.modules()) > 1 for child in children)


def _prefix_of(model: nn.Module, chain: str) -> tuple[int, bool]:
    num_prefix, has_class = 0, False
    for name, parameter in model.named_parameters():
        last = name.rpartition(".")[2]
        if name.startswith(f"{chain}.") or not _PREFIX.search(last):
            continue
        if parameter.numel() == 0 or any(size != 1 for size in parameter.shape[:-2]):
            continue
        num_prefix += parameter.shape[-2] if parameter.dim() > 1 else 1
        has_class = has_class or bool(_CLASS.search(last))
    told = getattr(model, "num_prefix_tokens", num_prefix)  # timm counts for itself
    return told if isinstance(told, int) else num_prefix, has_class
