"""Routers of the transformers library: what each makes of the experts that it chose."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from natsel.common.errors import refuse


class Routing(NamedTuple):
    """What a router does after its top-k.

    Attributes:
        renormalizes: whether the weights of the chosen are made to a sum that does not depend on
            who they are, so that who stays shares what is left by who leaves.
        logits: whether its top-k is of logits, which a softmax over the chosen follows.
    """

    renormalizes: Callable[[nn.Module], bool]
    logits: bool = False


def _always(router: nn.Module) -> bool:
    return True


def _never(router: nn.Module) -> bool:
    return False


def _told(router: nn.Module) -> bool:
    return bool(router.norm_topk_prob)


ROUTINGS: dict[str, Routing] = {
    "deepseek_v2.modeling_deepseek_v2.DeepseekV2TopkRouter": Routing(_never),
    "deepseek_v3.modeling_deepseek_v3.DeepseekV3TopkRouter": Routing(_told),
    "glm4_moe.modeling_glm4_moe.Glm4MoeTopkRouter": Routing(_told),
    "gpt_oss.modeling_gpt_oss.GptOssTopKRouter": Routing(_always, logits=True),
    "granitemoe.modeling_granitemoe.GraniteMoeTopKRouter": Routing(_always, logits=True),
    "mixtral.modeling_mixtral.MixtralTopKRouter": Routing(_always),
    "olmoe.modeling_olmoe.OlmoeTopKRouter": Routing(_told),
    "qwen2_moe.modeling_qwen2_moe.Qwen2MoeTopKRouter": Routing(_told),
    "qwen3_moe.modeling_qwen3_moe.Qwen3MoeTopKRouter": Routing(_told),
}
"""By the path of the class in ``transformers.models``; others are refused."""

FAMILIES = (
    "DeepSeek-V2 and -V3, GLM-4-MoE, GPT-OSS, Granite-MoE, Mixtral, OLMoE, Qwen2- or Qwen3-MoE"
)


def routing_of(module: nn.Module) -> Routing | None:
    """Return what is known of a router; None of any other module.

    Example:
        >>> routing_of(nn.Linear(2, 2)) is None
        True
    """
    kind = type(module)
    return ROUTINGS.get(
        f"{kind.__module__}.{kind.__qualname__}".removeprefix("transformers.models.")
    )


class Block(NamedTuple):
    """A place where a token chooses experts.

    Attributes:
        router: gives weights and indices of the chosen.
        experts: is called with the tokens, the indices and the weights.
        routing: what the router does.
        num_chosen: how many experts it gives a token.
    """

    router: nn.Module
    experts: nn.Module
    routing: Routing
    num_chosen: int


def blocks_of(model: nn.Module) -> dict[int, Block]:
    """Return the places where tokens choose experts, by the index of their layer.

    Raises:
        ValueError: if there is none, or one of a router that is not known.
    """
    allowed = f"a model whose experts are chosen by a router that is known: {FAMILIES}"
    if not isinstance(model, nn.Module):
        refuse("model", model, allowed)
    told = type(model).__name__
    found: dict[int, Block] = {}
    for path, module in model.named_modules():
        experts = module._modules.get("experts")
        if experts is None:
            continue
        routers = [child for child in module.children() if routing_of(child) is not None]
        if len(routers) != 1:
            kinds = ", ".join(type(child).__name__ for child in module.children())
            refuse("model", told, f"{allowed}; {path} has {kinds}")
        router = routers[0]
        routing = routing_of(router)
        assert routing is not None
        if getattr(experts, "_is_expert_parallel", False):
            refuse("model", told, f"experts that are whole in each process; {path} has a part")
        numbers = [int(part) for part in path.split(".") if part.isdigit()]
        index = numbers[-1] if numbers and numbers[-1] not in found else len(found)
        found[index] = Block(router, experts, routing, int(router.top_k))
    if not found:
        refuse("model", told, allowed)
    return dict(sorted(found.items()))
