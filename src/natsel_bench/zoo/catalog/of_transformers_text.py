"""Text models of the transformers library, from small configurations."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from natsel.common.calls import Inputs
from natsel_bench.zoo.catalog.entry import Entry, tokens
from natsel_bench.zoo.catalog.libraries import transformers

VOCABULARY = 96
Options = dict[str, Any]
Family = tuple[tuple[str, str, Options], ...]


def build(model: str, config: str, options: Options) -> nn.Module:
    """Build a model of the library from a configuration.

    Args:
        model: name of its class.
        config: name of the class of its configuration.
        options: of the configuration; a mapping in it is a configuration of its own there.
    """
    library = transformers()
    made: nn.Module = getattr(library, model)(getattr(library, config)(**options))
    return made


TEXT: Options = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 12}
_GPT: Options = {
    "vocab_size": VOCABULARY,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SEQ2SEQ: Options = {
    "vocab_size": VOCABULARY,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_T5: Options = {
    "vocab_size": VOCABULARY,
    "d_model": 48,
    "d_kv": 12,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_DISTIL: Options = {
    "vocab_size": VOCABULARY,
    "dim": 48,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 96,
    "max_position_embeddings": 64,
}
_MOE: Options = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_DEEPSEEK: Options = {
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}

_ENCODERS: Family = (
    ("BertForSequenceClassification", "BertConfig", TEXT),
    ("BertForMaskedLM", "BertConfig", TEXT),
    ("RobertaForSequenceClassification", "RobertaConfig", TEXT),
    ("XLMRobertaModel", "XLMRobertaConfig", TEXT),
    ("DistilBertForSequenceClassification", "DistilBertConfig", _DISTIL),
    ("AlbertForSequenceClassification", "AlbertConfig", TEXT | {"embedding_size": 24}),
    ("ElectraForSequenceClassification", "ElectraConfig", TEXT | {"embedding_size": 24}),
    ("MPNetModel", "MPNetConfig", TEXT),
    ("DebertaV2ForSequenceClassification", "DebertaV2Config", TEXT),
    (
        "DebertaForSequenceClassification",
        "DebertaConfig",
        TEXT | {"relative_attention": True, "pos_att_type": "c2p|p2c"},
    ),
    (
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        TEXT | {"num_hidden_layers": 3, "cls_token_id": 1, "sep_token_id": 2},
    ),
    ("MobileBertForSequenceClassification", "MobileBertConfig",
     TEXT | {"embedding_size": 24, "intra_bottleneck_size": 24, "true_hidden_size": 24}),
    ("SqueezeBertForSequenceClassification", "SqueezeBertConfig", TEXT | {"embedding_size": 48}),
    ("XLNetForSequenceClassification", "XLNetConfig",
     {"vocab_size": VOCABULARY, "d_model": 48, "n_layer": 2, "n_head": 4, "d_inner": 96}),
    ("ErnieModel", "ErnieConfig", TEXT),
    ("EsmForMaskedLM", "EsmConfig",
     TEXT | {"mask_token_id": 3, "position_embedding_type": "rotary"}),
    ("FNetForSequenceClassification", "FNetConfig", TEXT),
    ("NystromformerForSequenceClassification", "NystromformerConfig",
     TEXT | {"segment_means_seq_len": 8, "num_landmarks": 8}),
    ("RoFormerForSequenceClassification", "RoFormerConfig", TEXT),
    ("ConvBertForSequenceClassification", "ConvBertConfig", TEXT | {"embedding_size": 48}),
    ("LongformerForSequenceClassification", "LongformerConfig", TEXT | {"attention_window": 8}),
    ("BigBirdForSequenceClassification", "BigBirdConfig",
     TEXT | {"attention_type": "original_full"}),
    ("FunnelModel", "FunnelConfig",
     {"vocab_size": VOCABULARY, "d_model": 48, "block_sizes": [1, 1], "n_head": 4, "d_head": 12,
      "d_inner": 96, "num_decoder_layers": 1}),
)  # fmt: skip
_DECODERS: Family = (
    ("GPT2LMHeadModel", "GPT2Config", _GPT),
    ("GPTNeoForCausalLM", "GPTNeoConfig",
     {"vocab_size": VOCABULARY, "hidden_size": 48, "num_layers": 2, "num_heads": 4,
      "attention_types": [[["global", "local"], 1]], "window_size": 8,
      "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}),
    ("GPTJForCausalLM", "GPTJConfig", _GPT | {"rotary_dim": 4}),
    ("GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT),
    ("GPTBigCodeForCausalLM", "GPTBigCodeConfig", _GPT),
    ("CodeGenForCausalLM", "CodeGenConfig", _GPT | {"rotary_dim": 4}),
    ("OPTForCausalLM", "OPTConfig",
     TEXT | {"ffn_dim": 96, "word_embed_proj_dim": 48}),
    ("BloomForCausalLM", "BloomConfig",
     {"vocab_size": VOCABULARY, "hidden_size": 48, "n_layer": 2, "n_head": 4, "bos_token_id": 1,
      "eos_token_id": 2}),
    ("FalconForCausalLM", "FalconConfig", TEXT | {"new_decoder_architecture": True,
     "num_kv_heads": 2}),
    ("MptForCausalLM", "MptConfig",
     {"vocab_size": VOCABULARY, "d_model": 48, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
    ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    ("MistralForCausalLM", "MistralConfig", GROUPED),
    ("MixtralForCausalLM", "MixtralConfig", GROUPED | {"num_local_experts": 4}),
    ("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    ("Qwen3ForCausalLM", "Qwen3Config", GROUPED),
    ("Qwen2MoeForCausalLM", "Qwen2MoeConfig",
     GROUPED | _MOE | {"num_experts": 4, "shared_expert_intermediate_size": 32}),
    ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", GROUPED | _MOE | {"num_experts": 4}),
    ("PhiForCausalLM", "PhiConfig", GROUPED),
    ("Phi3ForCausalLM", "Phi3Config", GROUPED),
    ("GemmaForCausalLM", "GemmaConfig", GROUPED),
    ("Gemma2ForCausalLM", "Gemma2Config", GROUPED | {"query_pre_attn_scalar": 12}),
    ("Gemma3ForCausalLM", "Gemma3TextConfig", GROUPED | {"query_pre_attn_scalar": 12}),
    ("OlmoForCausalLM", "OlmoConfig", GROUPED),
    ("Olmo2ForCausalLM", "Olmo2Config", GROUPED),
    ("OlmoeForCausalLM", "OlmoeConfig", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    ("StableLmForCausalLM", "StableLmConfig", GROUPED | {"hidden_size": 64, "head_dim": 16}),
    ("Starcoder2ForCausalLM", "Starcoder2Config", GROUPED),
    ("CohereForCausalLM", "CohereConfig", GROUPED),
    ("GraniteForCausalLM", "GraniteConfig", GROUPED),
    ("GraniteMoeForCausalLM", "GraniteMoeConfig",
     GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ("SmolLM3ForCausalLM", "SmolLM3Config", GROUPED),
    ("Glm4ForCausalLM", "Glm4Config", GROUPED),
    ("NemotronForCausalLM", "NemotronConfig", GROUPED),
    ("DeepseekV3ForCausalLM", "DeepseekV3Config", TEXT | _MOE | _DEEPSEEK),
    ("GptOssForCausalLM", "GptOssConfig",
     GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}),
    ("MambaForCausalLM", "MambaConfig",
     {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    ("Mamba2ForCausalLM", "Mamba2Config",
     {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8,
      "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4}),
    ("RwkvForCausalLM", "RwkvConfig",
     {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2,
      "attention_hidden_size": 32, "context_length": 64}),
)  # fmt: skip
_ENCODER_DECODERS: Family = (
    ("T5ForConditionalGeneration", "T5Config", _T5),
    ("MT5ForConditionalGeneration", "MT5Config", _T5),
    ("BartForConditionalGeneration", "BartConfig", _SEQ2SEQ),
    ("MBartForConditionalGeneration", "MBartConfig", _SEQ2SEQ),
    ("PegasusForConditionalGeneration", "PegasusConfig", _SEQ2SEQ),
    ("MarianMTModel", "MarianConfig", _SEQ2SEQ),
    ("M2M100ForConditionalGeneration", "M2M100Config", _SEQ2SEQ),
    ("LongT5ForConditionalGeneration", "LongT5Config", _T5 | {"local_radius": 8}),
)


def _two(batch: int, step: int) -> Inputs:
    length = 11 if step else 8
    return {
        "input_ids": torch.randint(4, VOCABULARY, (batch, length)),
        "decoder_input_ids": torch.randint(4, VOCABULARY, (batch, length - 2)),
    }


def entries(family: Family, inputs: Any, *, generates: bool = False) -> list[Entry]:
    """Return entries that are named after their classes."""
    return [
        Entry(f"transformers/{model}", partial(build, model, config, options), inputs, generates)
        for model, config, options in family
    ]


ENTRIES = (
    *entries(_ENCODERS, tokens(VOCABULARY)),
    *entries(_DECODERS, tokens(VOCABULARY), generates=True),
    *entries(_ENCODER_DECODERS, _two),
)
