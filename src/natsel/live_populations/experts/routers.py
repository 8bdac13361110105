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


KINDS: tuple[tuple[Routing, tuple[str, ...]], ...] = (
    (Routing(_never), ("deepseek_v2.DeepseekV2Topk",)),
    (
        Routing(_told),
        (
            *("axk1.AXK1Topk", "deepseek_v3.DeepseekV3Topk", "deepseek_v32.DeepseekV32Topk"),
            *("dots1.Dots1Topk", "exaone_moe.ExaoneMoeTopk", "flex_olmo.FlexOlmoTopK"),
            *("glm4_moe.Glm4MoeTopk", "glm4_moe_lite.Glm4MoeLiteTopk"),
            *("glm_moe_dsa.GlmMoeDsaTopk", "hy_v4.HYV4Topk", "mellum.MellumTopK"),
            *("mistral4.Mistral4Topk", "nemotron_h.NemotronHTopk", "olmoe.OlmoeTopK"),
            *("qwen2_moe.Qwen2MoeTopK", "qwen3_moe.Qwen3MoeTopK", "solar_open.SolarOpenTopk"),
        ),
    ),
    (
        Routing(_always),
        (
            *("ernie4_5_moe.Ernie4_5_MoeTopK", "hy_v3.HYV3TopK", "minimax.MiniMaxTopK"),
            *("minimax_m2.MiniMaxM2TopK", "mixtral.MixtralTopK"),
        ),
    ),
    (
        Routing(_always, logits=True),
        (
            *("gpt_oss.GptOssTopK", "granitemoe.GraniteMoeTopK"),
            *("granitemoe_swa.GraniteMoeSWATopK", "granitemoeshared.GraniteMoeSharedTopK"),
        ),
    ),
)
"""Routers by what they do, as ``folder.Class`` in ``transformers.models``, without "Router".

One is here once ``natsel.live_populations.prove`` has shown it: a sum to which a number that
counts is added (LFM2) is none.
"""


def _path(name: str) -> str:
    folder, _, kind = name.partition(".")
    return f"{folder}.modeling_{folder}.{kind}Router"


ROUTINGS: dict[str, Routing] = {_path(name): routing for routing, names in KINDS for name in names}
"""By the path of the class in ``transformers.models``; others are refused."""

FAMILIES = (
    "A.X-K1, DeepSeek-V2 to -V3.2, dots.llm1, ERNIE-4.5-MoE, EXAONE-MoE, FlexOlmo, GLM-4-MoE and "
    "-DSA, GPT-OSS, Granite-MoE, Hunyuan-V3 and -V4, Mellum, MiniMax, Mistral-4, Mixtral, "
    "Nemotron-H, OLMoE, Qwen2- or Qwen3-MoE, Solar-Open"
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
