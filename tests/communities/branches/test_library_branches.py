"""Branches of models of the transformers library."""

from __future__ import annotations

import pytest
import torch

import natsel

transformers = pytest.importorskip("transformers")

TOKENS = torch.randint(3, 50, (1, 8), generator=torch.Generator().manual_seed(0))
ENDS = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": 1}
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "vocab_size": 50}
PICTURE = {"pixel_values": torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


def made(kind, config, **sizes):
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that every branch shows
    return model


def llama(**more):
    return made(
        "LlamaForCausalLM",
        "LlamaConfig",
        **SIZES,
        **ENDS,
        num_hidden_layers=4,
        num_key_value_heads=2,
        **more,
    )


CAUSAL = {
    "llama": llama,
    "qwen3": lambda: made(
        "Qwen3ForCausalLM",
        "Qwen3Config",
        **SIZES,
        **ENDS,
        num_hidden_layers=4,
        num_key_value_heads=2,
        head_dim=8,
    ),
    "gpt2": lambda: made(
        "GPT2LMHeadModel", "GPT2Config", **ENDS, n_embd=16, n_layer=4, n_head=2, vocab_size=50
    ),
    "mixtral": lambda: made(
        "MixtralForCausalLM",
        "MixtralConfig",
        **SIZES,
        **ENDS,
        num_hidden_layers=4,
        num_key_value_heads=2,
        num_local_experts=4,
    ),
    "phi": lambda: made("PhiForCausalLM", "PhiConfig", **SIZES, **ENDS, num_hidden_layers=4),
}
OTHERS = {
    "bert": (
        lambda: made("BertForMaskedLM", "BertConfig", **SIZES, num_hidden_layers=3),
        {"input_ids": TOKENS},
        {6},
    ),
    "vit": (
        lambda: made(
            "ViTForImageClassification",
            "ViTConfig",
            num_hidden_layers=3,
            image_size=32,
            patch_size=8,
            hidden_size=16,
            intermediate_size=24,
            num_attention_heads=4,
        ),
        PICTURE,
        {6},
    ),
    "t5": (
        lambda: made(
            "T5ForConditionalGeneration",
            "T5Config",
            d_model=16,
            d_ff=24,
            num_layers=3,
            num_heads=2,
            d_kv=8,
            vocab_size=50,
        ),
        {"input_ids": TOKENS, "decoder_input_ids": TOKENS},
        {6, 9},
    ),
    "convnext": (
        lambda: made(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            hidden_sizes=[8, 16],
            depths=[2, 3],
            num_stages=2,
            image_size=32,
        ),
        PICTURE,
        {2, 3},
    ),
}


def some_gone(communities, seed):
    masks = {}
    for name, community in communities.items():
        generator = torch.Generator().manual_seed(seed)
        keep = torch.ones(community.size, dtype=torch.bool)
        keep[torch.randperm(community.size, generator=generator)[: community.size // 2]] = False
        masks[name] = keep
    return natsel.Survivors(masks, communities)


@pytest.mark.parametrize("which", CAUSAL)
def test_a_shortened_model_is_the_masked_one_and_generates_with_a_cache(which, tmp_path):
    model = CAUSAL[which]()
    communities = natsel.discover(model, {"input_ids": TOKENS}, branches=True).only("branch")
    (community,) = communities.values()
    assert community.size == 8
    for seed in range(2):
        survivors = some_gone(communities, seed)
        small = natsel.extract(model, survivors)
        assert communities.price(survivors).parameters == small.num_parameters()
        said = [
            small.generate(TOKENS, max_new_tokens=6, do_sample=False, use_cache=cache)
            for cache in (True, False)
        ]
        assert torch.equal(*said)
        folder = tmp_path / str(seed)
        natsel.save(small, folder)
        logits = small(input_ids=TOKENS).logits
        assert torch.equal(natsel.load(folder)(input_ids=TOKENS).logits, logits)
        assert torch.equal(natsel.load(folder, model=model)(input_ids=TOKENS).logits, logits)


def test_without_whole_blocks_the_configuration_is_plain(tmp_path):
    model = llama()
    communities = natsel.discover(model, {"input_ids": TOKENS}, branches=True).only("branch")
    (name,) = communities
    keep = torch.tensor([1, 1, 0, 0, 1, 1, 1, 1]).bool()
    small = natsel.extract(model, natsel.Survivors({name: keep}, communities))
    assert small.config.num_hidden_layers == 3
    assert model.config.num_hidden_layers == 4
    small.save_pretrained(tmp_path)
    back = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(back(input_ids=TOKENS).logits, small(input_ids=TOKENS).logits)


def test_without_half_a_block_the_class_alone_refuses_and_its_own_code_loads(tmp_path):
    model = llama()
    communities = natsel.discover(model, {"input_ids": TOKENS}, branches=True).only("branch")
    (name,) = communities
    keep = torch.tensor([0, 1, 1, 1, 1, 0, 1, 1]).bool()
    small = natsel.extract(model, natsel.Survivors({name: keep}, communities))
    small.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    auto = transformers.AutoModelForCausalLM
    back = auto.from_pretrained(tmp_path, trust_remote_code=True)
    assert torch.equal(back(input_ids=TOKENS).logits, small(input_ids=TOKENS).logits)


def test_types_of_attention_stay_with_their_places_in_the_cache():
    model = made(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        **SIZES,
        **ENDS,
        num_hidden_layers=6,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"] * 3,
    )
    communities = natsel.discover(model, {"input_ids": TOKENS}, branches=True).only("branch")
    ((name, community),) = communities.items()
    attention = [i for i, b in enumerate(community.branches) if "attn" in b.stands[1].path]
    keep = torch.ones(community.size, dtype=torch.bool)
    keep[attention[0]] = False
    small = natsel.extract(model, natsel.Survivors({name: keep}, communities))
    said = [
        small.generate(TOKENS, max_new_tokens=6, do_sample=False, use_cache=cache)
        for cache in (True, False)
    ]
    assert torch.equal(*said)
    keep[[attention[2], attention[4]]] = False
    with pytest.raises(ValueError, match="sliding_attention"):
        natsel.extract(model, natsel.Survivors({name: keep}, communities))


@pytest.mark.parametrize("which", OTHERS)
def test_other_architectures(which, tmp_path):
    make, inputs, sizes = OTHERS[which]
    model = make()
    communities = natsel.discover(model, inputs, branches=True).only("branch")
    assert {c.size for c in communities.values()} == sizes
    survivors = some_gone(communities, 0)
    small = natsel.extract(model, survivors)
    assert communities.price(survivors).parameters == small.num_parameters()
    natsel.save(small, tmp_path)
    assert torch.equal(natsel.load(tmp_path)(**inputs).logits, small(**inputs).logits)
