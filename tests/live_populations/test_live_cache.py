"""A thinned cache computes what the whole one does with the same entries hidden from attention."""

from __future__ import annotations

import pytest
import torch
from decoders import FAMILIES, decoder, padded, prompts

import natsel
from natsel.common.modes import evaluating
from natsel.communities.proof.doubled import in_float64
from natsel.live_populations import METHODS, get, prove
from natsel.live_populations.allowances import Bytes, Held
from natsel.live_populations.cache.attach import attach
from natsel.live_populations.proof import DEFAULTS

HALF = natsel.Sparsity(0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_evicted_equals_hidden_in_every_family(family):
    ids, mask = padded()
    model = decoder(family)
    verdict = prove(model, "snapkv", HALF, ids, attention_mask=mask, scope="layer", num_new=3)
    assert verdict.passed, verdict
    assert verdict.error < 1e-10
    assert verdict.effect > 1e-4  # who has left is missed


@pytest.mark.parametrize("scope", ["head", "layer", "model"])
@pytest.mark.parametrize("method", METHODS)
def test_evicted_equals_hidden_under_every_method(method, scope):
    ids, mask = padded()
    verdict = prove(decoder("llama"), method, HALF, ids, attention_mask=mask, scope=scope)
    assert verdict.passed, verdict
    assert verdict.error < 1e-10
    assert verdict.effect > 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_it_is_the_decoder_with_a_mask_of_its_own(family):
    """An engine of nothing but the decoder itself: one layer, the whole cache, a mask a head."""
    model, ids = decoder(family, num_layers=1), prompts(tokens=12)
    after = prompts(tokens=2, seed=2)
    with evaluating(model), in_float64():
        whole = model(ids)
        keys = whole.past_key_values.layers[0].keys
        names = {(r, h): -keys[r, h].norm(dim=-1) for r in range(2) for h in range(keys.shape[1])}
        survivors = natsel.select({f"{r}.{h}": s for (r, h), s in names.items()}, HALF)
        stays = torch.stack([survivors[f"{r}.{h}"] for r, h in names]).reshape(*keys.shape[:2], -1)
        per_head = stays.repeat_interleave(4 // keys.shape[1], 1)[:, :, None]
        causal = torch.ones(2, 2, dtype=torch.bool).tril()
        seen = torch.cat([per_head.expand(-1, -1, 2, -1), causal.expand(2, 4, 2, 2)], -1)
        expected = model(after, past_key_values=whole.past_key_values, attention_mask=seen)
        with natsel.live(model, "key-norm", HALF, decoding=False) as handle:
            cache = model(ids).past_key_values
            assert torch.equal(~handle.evicted(0), stays)
            found = model(after, past_key_values=cache)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_eviction_nothing_changes_bit_for_bit(family):
    model, (ids, mask) = decoder(family), padded()
    options = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
    options |= {"output_logits": True, "return_dict_in_generate": True, "pad_token_id": 0}
    before = model.generate(ids, **options)
    for method in ("h2o", "snapkv"):
        with natsel.live(model, method, natsel.Sparsity(0.0)) as handle:
            during = model.generate(ids, **options)
        assert handle.num_held == handle.num_seen
        for one, other in zip(before.logits, during.logits, strict=True):
            assert torch.equal(one, other)
    after = model.generate(ids, **options)
    assert torch.equal(before.sequences, after.sequences)


def test_nothing_stays_on_the_model():
    model = decoder("llama")

    def parts():
        modules = {name: (type(m), m.forward.__func__) for name, m in model.named_modules()}
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        return modules, hooks, model.config._attn_implementation, set(vars(model.config))

    before = parts()
    with natsel.live(model, "newest", HALF) as handle:
        model(prompts())
        assert model.config._attn_implementation == "sdpa"  # also between calls
        with pytest.raises(RuntimeError, match="size of tensor"):
            model(prompts(), attention_mask=torch.ones(2, 1, 3, 3, dtype=torch.bool))
        assert model.config._attn_implementation == "sdpa"
        handle.close()
        assert handle.is_closed
    assert parts() == before
    assert handle.layers == (0, 1)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "random"])
@pytest.mark.parametrize("scope", ["head", "layer"])
def test_a_row_with_padding_is_the_row_alone(method, scope):
    model, (ids, mask) = decoder("gpt2").double(), padded(padding=7)
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    with natsel.live(model, method, HALF, scope=scope) as together:
        both = model.generate(ids, attention_mask=mask, **options)
    with natsel.live(model, method, HALF, scope=scope) as alone:
        one = model.generate(ids[1:, 7:], **options)
    for ours, theirs in zip(both.logits, one.logits, strict=True):
        torch.testing.assert_close(ours[1], theirs[0], rtol=1e-9, atol=1e-9)
    assert bool(together.evicted(1)[1, :, :7].all())  # padding has left
    assert torch.equal(together.evicted(1)[1, :, 7:], alone.evicted(1)[0])


@pytest.mark.parametrize(("chunks"), [(20,), (7, 6, 7), (5, *[1] * 15)])
@pytest.mark.parametrize("budget", [natsel.Sparsity(0.3), natsel.Sparsity(0.75), Held(6)])
def test_counts_are_exact_after_every_call(chunks, budget):
    model, ids, cache, seen = decoder(), prompts(), None, 0
    with natsel.live(model, "snapkv", budget) as handle:
        for new in ids.split(list(chunks), 1):
            cache = model(new, past_key_values=cache).past_key_values
            seen += new.shape[1]
            kept = min(seen, 6) if budget == Held(6) else seen - budget.count(seen)
            assert handle.held(1).tolist() == [[kept] * 4] * 2
            assert cache.layers[1].keys.shape == (2, 4, kept, 8)  # they have really left
            assert cache.get_seq_length() == seen


def test_positions_go_on_from_the_true_length():
    model, seen = decoder("llama"), []
    hook = model.model.rotary_emb.register_forward_pre_hook(
        lambda module, args, named: seen.append(named["position_ids"].tolist()), with_kwargs=True
    )
    with natsel.live(model, "newest", Held(5)):
        model.generate(prompts(1, 9), max_new_tokens=3, do_sample=False)
    hook.remove()
    assert seen == [[list(range(9))], [[9]], [[10]]]


def test_generate_in_chunks_of_the_prompt():
    model, ids = decoder("llama"), prompts(1, 20)
    with natsel.live(model, "h2o", HALF) as handle:
        model.generate(ids, max_new_tokens=2, do_sample=False, prefill_chunk_size=6)
    assert handle.held(0).tolist() == [[21 - HALF.count(21)] * 2]


def hidden(model, method, budget):
    return attach(model, get(method), budget, **DEFAULTS, for_proof=True)


@pytest.mark.parametrize("method", ["snapkv", "h2o", "evolution"])
def test_beams_carry_their_own_entries(method):
    model, (ids, mask) = decoder("gpt2").double(), padded()
    options = {"attention_mask": mask, "num_beams": 3, "max_new_tokens": 5, "do_sample": False}
    options |= {"output_scores": True, "return_dict_in_generate": True, "pad_token_id": 0}
    with natsel.live(model, method, HALF):
        evicted = model.generate(ids, **options)
    with hidden(model, method, HALF):
        masked = model.generate(ids, **options)
    assert torch.equal(evicted.sequences, masked.sequences)
    torch.testing.assert_close(evicted.sequences_scores, masked.sequences_scores)
    assert not torch.equal(
        evicted.sequences_scores, model.generate(ids, **options).sequences_scores
    )


def test_bytes_are_measured_and_never_passed():
    model, ids = decoder("llama"), prompts(2, 20)
    each = 2 * 2 * 2 * 2 * 8 * 4  # layers, rows, heads, keys and values, width, float32
    with natsel.live(model, "snapkv", Bytes(7 * each + each - 1)) as handle:
        cache = model(ids).past_key_values
        sizes = [layer.keys.nbytes + layer.values.nbytes for layer in cache.layers]
        assert handle.num_bytes == sum(sizes) == 7 * each
        assert handle.num_bytes_whole == 20 * each
        model.generate(ids, max_new_tokens=5, do_sample=False)
        assert handle.num_bytes == 7 * each
    assert handle.num_held == 7 * 8
    assert handle.num_bytes_beside > 0


def test_uneven_heads_are_stored_as_long_as_the_longest():
    model, ids = decoder("llama"), prompts()
    with natsel.live(model, "key-norm", HALF, scope="model") as handle:
        cache = model(ids).past_key_values
    held = torch.stack([handle.held(layer) for layer in handle.layers], 1)  # rows, layers, heads
    assert held.sum((1, 2)).tolist() == [40, 40]
    assert held.unique().numel() > 1
    for index, layer in enumerate(cache.layers):
        longest = int(held[:, index].max())
        assert layer.keys.shape[2] == longest
        empty = layer.positions < 0
        assert torch.equal((~empty).sum(-1), held[:, index])
        assert not bool(layer.keys[empty].any())  # nobody's keys are left there
        assert not bool(layer.values[empty].any())


def test_a_floor_protects_each_head_that_shares():
    model, ids = decoder("llama"), prompts()
    with natsel.live(model, "key-norm", HALF, scope="layer", floor=0.9) as handle:
        model(ids)
    assert int(handle.held(0).min()) >= 9
    assert handle.held(0).sum(-1).tolist() == [20, 20]


def test_sinks_and_window_stay():
    model, ids = decoder(), prompts(1, 20)
    with natsel.live(model, "random", Held(8), sinks=2, window=3) as handle:
        model(ids)
    assert not bool(handle.evicted(0)[..., [0, 1, 17, 18, 19]].any())
    with natsel.live(model, "newest", Held(8), sinks=2) as handle:
        model(ids)
    assert handle.positions(0)[0, 0].tolist() == [0, 1, 14, 15, 16, 17, 18, 19]


def test_the_prompt_alone_is_thinned_where_decoding_is_not():
    model, ids = decoder(), prompts(1, 20)
    with natsel.live(model, "h2o", HALF, decoding=False) as handle:
        model.generate(ids, max_new_tokens=4, do_sample=False)
    assert handle.held(0).tolist() == [[10 + 3] * 4]


def test_a_plain_cache_goes_on_outside():
    model, ids, after = decoder("llama"), prompts(2, 20), prompts(2, 3, seed=5)
    with natsel.live(model, "snapkv", HALF, decoding=False):
        inside = model(ids).past_key_values
        inside = model(after, past_key_values=inside).past_key_values
        expected = inside.layers[1].keys
    with natsel.live(model, "snapkv", HALF, decoding=False):
        outside = model(ids).past_key_values
    outside = model(after, past_key_values=outside).past_key_values
    assert outside.layers[1].keys.shape[2] == 13
    torch.testing.assert_close(outside.layers[1].keys[:, :, 10:], expected[:, :, -3:])


def test_a_cache_that_was_filled_outside_is_taken_over():
    model, (ids, mask) = decoder(), padded()
    cache = model(ids[:, :19], attention_mask=mask[:, :19]).past_key_values
    with natsel.live(model, "key-norm", HALF) as handle:
        model(ids[:, 19:], attention_mask=mask, past_key_values=cache)
    assert handle.held(0).tolist() == [[10] * 4, [6] * 4]


def test_sliding_layers_stay_whole_and_are_named():
    model, ids = decoder("gemma3"), prompts()
    with natsel.live(model, "newest", HALF) as handle:
        cache = model(ids).past_key_values
    assert handle.layers == (1,)
    assert handle.refused == {0: "sliding_attention: its cache is bounded or shared already"}
    assert type(cache.layers[0]).__name__ == "DynamicSlidingWindowLayer"
    assert handle.held(1).tolist() == [[10, 10]] * 2


def test_it_composes_with_what_else_hooks_a_model():
    model, ids, seen = decoder("llama"), prompts(), []
    hook = model.model.layers[0].self_attn.register_forward_hook(lambda *_: seen.append(1))
    with natsel.live(model, "h2o", HALF), natsel.live(decoder("gpt2"), "h2o", HALF) as other:
        model(ids)
    hook.remove()
    assert seen == [1]
    assert repr(other) == "LiveCache(h2o: no input yet)"


def test_half_precision_and_right_padding():
    model, ids = decoder("llama").bfloat16(), prompts()
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    with natsel.live(model, "snapkv", HALF, window=3) as handle:
        model(ids, attention_mask=mask)
    assert handle.held(0).tolist() == [[10, 10], [6, 6]]
    assert bool(handle.evicted(0)[1, :, 12:].all())
    assert not bool(handle.evicted(0)[1, :, 9:12].any())  # the newest three that are real
