"""What is not allowed is told in one line, and the model is as it was."""

from __future__ import annotations

import pytest
import torch
import transformers
from decoders import decoder, prompts
from torch import nn

import natsel
from natsel.common.errors import NonFiniteError
from natsel.live_populations import prove
from natsel.live_populations.allowances import Held

HALF = natsel.Sparsity(0.5)
SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "snapvk"}, r"method='snapvk' .*did you mean 'snapkv'"),
        ({"method": 3}, r"method=3 .*a function of entries"),
        ({"budget": 0.5}, r"budget=0.5 .*natsel.Sparsity\(share\)"),
        ({"budget": natsel.MACs(0.5)}, r"budget=MACs\(0.5\)"),
        ({"budget": None}, r"budget=None .*under 'snapkv' nobody leaves"),
        ({"scope": "heads"}, r"scope='heads' .*did you mean 'head'"),
        ({"window": -1}, "window=-1 .*whole number >= 0"),
        ({"sinks": 1.5}, "sinks=1.5 .*whole number >= 0"),
        ({"floor": 0}, "floor=0 .*whole number >= 1, or a share"),
        ({"normalize": "max"}, "normalize='max'"),
        ({"merge": 1}, "merge=1 .*True or False"),
        ({"seed": -1}, "seed=-1"),
        ({"method": "kvzip", "values": "no"}, "values='no' .*True or False for method 'kvzip'"),
        ({"method": "evolution", "distinct": 1}, "distinct=1 .*True or False"),
        (
            {"kernle": 3},
            r"kernle=3 .*kernel, feature for method 'snapkv' \(did you mean 'kernel'\?\)",
        ),
    ],
)
def test_arguments(given, message):
    model = decoder()
    options = {"method": "snapkv", "budget": HALF, **given}
    with pytest.raises(ValueError, match=message) as told:
        natsel.live(model, options.pop("method"), options.pop("budget"), **options)
    assert "\n" not in str(told.value)
    assert not model.transformer.h[0].attn._forward_hooks


@pytest.mark.parametrize("share", [1, 1.0, -0.1])
def test_a_share_of_everybody(share):
    with pytest.raises(ValueError, match=r"sparsity=.* expected a number in \[0, 1\)"):
        natsel.live(decoder(), "snapkv", natsel.Sparsity(share))


def made(name, **options):
    config = getattr(transformers, f"{name}Config")(**options)
    suffix = "Model" if name == "Bert" else "ForCausalLM"
    return getattr(transformers, name + suffix)(config).eval()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Linear(2, 2), "model='Linear' .*a decoder of the transformers library"),
        (lambda: "llama", "model='llama' .*a decoder of the transformers library"),
        (lambda: made("Bert", **SMALL, intermediate_size=8), "model='BertModel'"),
        (
            lambda: made("Mamba", vocab_size=64, hidden_size=32, num_hidden_layers=1),
            "model='MambaForCausalLM' .*with a key/value cache",
        ),
        (
            lambda: made("Bloom", vocab_size=64, hidden_size=32, n_layer=1, n_head=4),
            "model='BloomForCausalLM' .*asks the library's table",
        ),
        (
            lambda: made("Mistral", **SMALL, intermediate_size=8, sliding_window=4),
            "model='MistralForCausalLM' .*each is sliding_attention",
        ),
    ],
)
def test_models_without_entries_that_can_leave(build, message):
    with pytest.raises(ValueError, match=message):
        natsel.live(build(), "newest", HALF)


def test_attention_that_takes_no_mask_for_each_head():
    model = decoder("llama")
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match=r"'flash_attention_2' .*'sdpa' or 'eager', which take"):
        natsel.live(model, "newest", HALF)
    upcast = decoder("gpt2", attn_implementation="eager", reorder_and_upcast_attn=True)
    with pytest.raises(ValueError, match=r"reorder_and_upcast_attn=True"):
        natsel.live(upcast, "newest", HALF)


def caches(model):
    config = model.config
    return {
        "StaticCache": transformers.StaticCache(config=config, max_cache_len=32),
        "a DynamicSlidingWindowLayer": transformers.DynamicCache(
            config=transformers.MistralConfig(num_hidden_layers=2, sliding_window=4)
        ),
    }


@pytest.mark.parametrize("name", ["StaticCache", "a DynamicSlidingWindowLayer"])
def test_caches_that_cannot_lose_entries(name):
    model = decoder("llama")
    with natsel.live(model, "newest", HALF), pytest.raises(ValueError, match=name):
        model(prompts(), past_key_values=caches(model)[name])
    assert model.config._attn_implementation == "sdpa"


def test_a_call_without_a_cache():
    model = decoder("llama")
    with natsel.live(model, "newest", HALF), pytest.raises(ValueError, match=r"use_cache=False"):
        model(prompts(), use_cache=False)
    model(prompts(), use_cache=False)


def test_a_window_longer_than_what_may_stay():
    model = decoder()
    with (
        natsel.live(model, "snapkv", HALF, window=32),
        pytest.raises(ValueError, match=r"window=32 .*at most 10, .* stay of 20 entries"),
    ):
        model(prompts())
    with natsel.live(model, "snapkv", Held(50), window=32) as handle:
        model(prompts())  # nobody has to leave
    assert handle.num_held == handle.num_seen
    with (
        natsel.live(model, "newest", HALF, sinks=8, window=4),
        pytest.raises(ValueError, match=r"sinks=8 .*at most 6 beside a window of 4"),
    ):
        model(prompts())


def test_two_methods_on_one_cache():
    model = decoder()
    with natsel.live(model, "newest", HALF) as first:
        with pytest.raises(ValueError, match=r"no other method thins: close\(\) that of 'newest'"):
            natsel.live(model, "snapkv", HALF)
        with pytest.raises(ValueError, match=r"no other method thins"):
            natsel.live(model.transformer, "snapkv", HALF)  # a part of it
        model(prompts())
    assert first.num_held < first.num_seen
    with natsel.live(model, "snapkv", HALF) as second:
        model(prompts())
    assert second.num_held == first.num_held


def test_a_method_that_gives_something_else():
    model = decoder()
    with (
        natsel.live(model, lambda entries: entries.keys, HALF),
        pytest.raises(ValueError, match=r"scores of shape \(2, 4, 20\), .* \(2, 4, 20, 8\)"),
    ):
        model(prompts())
    nan = float("nan")
    with (
        natsel.live(model, lambda entries: entries.keys.sum(-1) * nan, HALF),
        pytest.raises(NonFiniteError, match=r"gave NaN or infinity at layer 0"),
    ):
        model(prompts())


def test_entries_that_have_left_do_not_return():
    model = decoder()
    with natsel.live(model, "newest", HALF):
        cache = model(prompts()).past_key_values
        assert not cache.is_croppable
        cache.crop(0)
        with pytest.raises(ValueError, match=r"tokens_to_remove=-3 .*do not return"):
            cache.crop(-3)


def test_an_uneven_cache_does_not_go_on_outside():
    model = decoder()
    with natsel.live(model, "key-norm", HALF, scope="layer"):
        cache = model(prompts()).past_key_values
    with pytest.raises(ValueError, match=r"past_key_values='LiveLayer after close"):
        model(prompts(2, 1), past_key_values=cache)


def test_a_handle_tells_what_it_does_not_know():
    handle = natsel.live(decoder("gemma3"), "newest", HALF)
    with pytest.raises(ValueError, match=r"expected a call of the decoder before"):
        handle.held(1)
    with pytest.raises(ValueError, match=r"layer=0 .*sliding_attention"):
        handle.held(0)
    with pytest.raises(ValueError, match=r"layer='7'"):
        handle.held(7)
    handle.close()
    handle.close()


def test_a_proof_of_a_merge_or_of_no_tokens():
    with pytest.raises(ValueError, match=r"merge=True .*False for a proof"):
        prove(decoder(), "newest", HALF, prompts(), merge=True)
    with pytest.raises(ValueError, match=r"inputs=.*token ids of shape"):
        prove(decoder(), "newest", HALF, torch.zeros(3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": prompts().float()}, r"inputs='<float32 tensor .*token ids of shape"),
        ({"inputs": prompts()[:, :0]}, r"inputs='<int64 tensor of shape \(2, 0\)>"),
        ({"inputs": prompts() + 60}, r"inputs='tokens 61 to \d+' .*which are 0 to 63"),
        ({"attention_mask": torch.ones(2, 19)}, r"attention_mask=<float32 .*of shape \(2, 20\)"),
        ({"attention_mask": [[1] * 20] * 2}, r"attention_mask=\[.*of shape \(2, 20\)"),
    ],
)
def test_what_cannot_be_proven_with(given, message):
    with pytest.raises(ValueError, match=message) as told:
        prove(decoder(), "newest", HALF, **{"inputs": prompts(), **given})
    assert "\n" not in str(told.value)
