"""Small models that are chains of blocks, pruned and compensated."""

from __future__ import annotations

import warnings

import pytest
import torch

import natsel

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
ENDS = {"bos_token_id": 0, "eos_token_id": 0}


def llama():
    config = transformers.LlamaConfig(
        **SIZES, intermediate_size=24, num_key_value_heads=2, vocab_size=50
    )
    return transformers.LlamaForCausalLM(config)


def gpt2():
    config = transformers.GPT2Config(n_embd=16, n_layer=3, n_head=4, vocab_size=50, **ENDS)
    return transformers.GPT2LMHeadModel(config)


def mixtral():
    config = transformers.MixtralConfig(
        **SIZES,
        intermediate_size=24,
        num_key_value_heads=2,
        vocab_size=50,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    return transformers.MixtralForCausalLM(config)


def vit():
    config = transformers.ViTConfig(
        **SIZES, intermediate_size=24, image_size=16, patch_size=4, num_labels=5
    )
    return transformers.ViTForImageClassification(config)


def batches(model):
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, transformers.ViTForImageClassification):
        return [{"pixel_values": torch.randn(3, 3, 16, 16, generator=generator)} for _ in range(3)]
    found = []
    for padding in (0, 3, 0):
        tokens = torch.randint(50, (2, 12), generator=generator)
        mask = torch.ones_like(tokens)
        mask[0, 12 - padding :] = 0
        found.append({"input_ids": tokens, "attention_mask": mask})
    return found


def pruned(make, kinds=("neuron", "head")):
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    data = batches(model)
    communities = natsel.discover(model, data[0])
    masks = {
        name: torch.arange(c.size) % 2 == 0
        for name, c in communities.items()
        if c.kind in kinds and c.size > 1
    }
    return model, natsel.Survivors(masks, communities), data


def compensated(model, survivors, data, **options):
    small = natsel.extract(model, survivors, verify=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return small, natsel.compensate(model, small, survivors, data, **options)
