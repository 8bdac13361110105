"""Tiny mixtures of experts of the transformers library, one for each way to route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
NARROW = {"moe_intermediate_size": 16, "num_experts_per_tok": 4}
QWEN = {**SIZES, **NARROW, "num_experts": 8}
LATENT = {
    **{"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
    **{"v_head_dim": 8, "n_routed_experts": 8, "first_k_dense_replace": 1},
}
SHARED = {"shared_expert_intermediate_size": 16}
GROUPS = {"n_group": 4, "topk_group": 2}
WIDE = {
    **{**SIZES, **NARROW, **LATENT, **GROUPS},
    **{"n_routed_experts": 16, "num_hidden_layers": 1, "first_k_dense_replace": 0},
}


def _of(name: str, **config: Any) -> Callable[[], Any]:
    def build() -> Any:
        torch.manual_seed(0)
        kind = getattr(transformers, f"{name}ForCausalLM")
        model = kind(getattr(transformers, f"{name}Config")(**config)).eval()
        for parameter in model.parameters():  # routers that begin at 0 choose by index
            torch.nn.init.normal_(parameter, std=0.2)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("correction_bias"):
                torch.nn.init.normal_(buffer, std=0.2)
        return model

    return build


MIXTURES: dict[str, Callable[[], Any]] = {
    "mixtral": _of("Mixtral", **SIZES, num_local_experts=8, num_experts_per_tok=4),
    "qwen2-moe": _of("Qwen2Moe", **QWEN, **SHARED, norm_topk_prob=False),
    "qwen2-moe-normed": _of("Qwen2Moe", **QWEN, **SHARED, norm_topk_prob=True),
    "qwen3-moe": _of("Qwen3Moe", **QWEN, head_dim=8, norm_topk_prob=True),
    "olmoe": _of("Olmoe", **SIZES, num_experts=8, num_experts_per_tok=4, norm_topk_prob=False),
    "deepseek-v3": _of(
        "DeepseekV3", **SIZES, **NARROW, **LATENT, **GROUPS, routed_scaling_factor=2.5
    ),
    "deepseek-v3-plain": _of(
        "DeepseekV3", **SIZES, **NARROW, **LATENT, **GROUPS, norm_topk_prob=False
    ),
    "deepseek-v2": _of(
        "DeepseekV2", **SIZES, **NARROW, **LATENT, **GROUPS, topk_method="group_limited_greedy"
    ),
    "deepseek-v3-wide": _of("DeepseekV3", **WIDE, routed_scaling_factor=2.5),
    "deepseek-v2-wide": _of("DeepseekV2", **WIDE, topk_method="group_limited_greedy"),
    "ernie": _of(
        "Ernie4_5_Moe",
        **{**SIZES, **NARROW},
        moe_num_experts=8,
        moe_k=4,
        moe_layer_start_index=1,
    ),
    "minimax-m2": _of("MiniMaxM2", **SIZES, head_dim=8, num_local_experts=8, num_experts_per_tok=4),
    "glm4-moe": _of(
        "Glm4Moe", **SIZES, **NARROW, head_dim=8, n_routed_experts=8, first_k_dense_replace=1
    ),
    "gpt-oss": _of("GptOss", **SIZES, head_dim=8, num_local_experts=8, num_experts_per_tok=4),
    "granite-moe": _of("GraniteMoe", **SIZES, num_local_experts=8, num_experts_per_tok=4),
}


PLAIN = {"n_routed_experts": 8, "first_k_dense_replace": 1, "head_dim": 8}
LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 4}
INDEX = {"index_head_dim": 8, "index_n_heads": 2, "index_topk": 4}
MORE_MIXTURES: dict[str, Callable[[], Any]] = {
    name: _of(name, **{**SIZES, **config})
    for name, config in {
        "AXK1": {**NARROW, **LATENT, **GROUPS},
        "DeepseekV32": {**NARROW, **LATENT, **GROUPS, **INDEX},
        "Dots1": {**NARROW, **PLAIN, **GROUPS, "n_shared_experts": 1},
        "ExaoneMoe": {**NARROW, **GROUPS, "num_experts": 8, "head_dim": 8},
        "FlexOlmo": {"num_experts": 8, "num_experts_per_tok": 4},
        "Glm4MoeLite": {**NARROW, **LATENT, **GROUPS},
        "GlmMoeDsa": {**NARROW, **LATENT, **GROUPS, **INDEX},
        "GraniteMoeSWA": LOCAL,
        "GraniteMoeShared": {**LOCAL, "shared_intermediate_size": 16},
        "HYV3": {**NARROW, "num_experts": 8, "head_dim": 8},
        "HYV4": {**NARROW, **PLAIN, **GROUPS},
        "Mellum": {**NARROW, "num_experts": 8, "head_dim": 8},
        "MiniMax": {**LOCAL, "head_dim": 8},
        "Mistral4": {**NARROW, **LATENT, **GROUPS},
        "NemotronH": {
            **{**NARROW, **PLAIN, **GROUPS},
            "moe_shared_expert_intermediate_size": 16,
        },
        "SolarOpen": {**NARROW, **PLAIN, **GROUPS},
    }.items()
}
"""The other routers that live populations know: the suite looks at them on request."""


def token_ids(batch: int = 2, length: int = 9, seed: int = 0) -> torch.Tensor:
    """Return random token ids ``[batch, length]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 64, (batch, length), generator=generator)
