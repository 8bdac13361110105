"""A prompt that is read a second time before anybody leaves, and heads that hold what they need."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from decoders import FAMILIES, decoder, padded, prompts

import natsel
from natsel.live_populations import METHODS, Bytes, Entries, Held, Method, prove
from natsel.live_populations.cache import rereading
from natsel.live_populations.kvpress import to_kvpress

HALF = natsel.Sparsity(0.5)
NOBODY = Held(1000)


def reread(model, ids, **given):
    """Return what the second reading says, layer by layer."""
    seen = {}

    def look(entries):
        seen[entries.layer] = entries.reread
        return entries.positions.double()

    method = Method("look", look, rereads=True, every_call=True)
    with torch.no_grad(), natsel.live(model, method, NOBODY):
        model(ids, **given)
    return seen


def test_it_is_the_most_attention_from_the_same_tokens_behind():
    """Against the decoder's own weights of the prompt written twice."""
    model, ids = decoder("llama", attn_implementation="eager"), prompts()
    with torch.no_grad():
        twice = model(torch.cat([ids, ids], 1), output_attentions=True).attentions
    for layer, found in reread(model, ids).items():
        expected = twice[layer][:, :, 20:, :20].reshape(2, 2, 2, 20, 20).amax((2, 3))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_who_is_evicted_after_a_second_reading_equals_who_is_hidden(family):
    ids, mask = padded()
    floor = {"sinks": 1, "window": 2}
    verdict = prove(decoder(family), "kvzip", HALF, ids, attention_mask=mask, num_new=3, **floor)
    assert verdict.passed, verdict
    assert verdict.error < 1e-10
    assert verdict.effect > 1e-4


def test_padding_is_read_again_as_padding():
    model, (ids, mask) = decoder("llama").double(), padded(padding=7)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    both = reread(model, ids, attention_mask=mask, position_ids=positions)
    alone = reread(model, ids[1:, 7:])
    for layer, found in both.items():
        torch.testing.assert_close(found[1:, :, 7:], alone[layer], rtol=1e-9, atol=1e-12)
        assert found[1, :, :7].abs().max() == 0


def test_a_long_prompt_is_read_again_in_parts(monkeypatch):
    """Each part follows the whole prompt at the same place, and begins with its last tokens."""
    model, ids = decoder("llama", attn_implementation="eager"), prompts(tokens=40)
    monkeypatch.setattr(rereading, "CHUNK", 24)
    parts = list(rereading.parts(40, 24))
    assert [(part.start, part.stop) for part in parts] == [(0, 24), (16, 40)]
    expected = []
    with torch.no_grad():
        for part in parts:
            twice = model(torch.cat([ids, ids[:, part]], 1), output_attentions=True).attentions[0]
            expected.append(twice[:, :, 40:, :40].reshape(2, 2, 2, 24, 40).amax((2, 3)))
    torch.testing.assert_close(reread(model, ids)[0], torch.maximum(*expected))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_where_nobody_leaves_a_second_reading_changes_nothing_bit_for_bit(family):
    model, ids = decoder(family), prompts()
    with torch.no_grad():
        plain = model(ids)
        after = model(ids[:, :3], past_key_values=plain.past_key_values)
        with natsel.live(model, "kvzip", NOBODY):
            read = model(ids)
            assert torch.equal(read.logits, plain.logits)
            assert read.past_key_values.get_seq_length() == 20
            again = model(ids[:, :3], past_key_values=read.past_key_values)
    assert torch.equal(after.logits, again.logits)
    for ours, theirs in zip(
        again.past_key_values.layers, after.past_key_values.layers, strict=True
    ):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)


@pytest.mark.parametrize("chunks", [(20,), (9, 6, 1, 4)])
def test_counts_are_exact_and_equal_hidden_ones_in_chunks(chunks, monkeypatch):
    monkeypatch.setattr(rereading, "CHUNK", 12)
    model, ids, cache, seen = decoder("llama"), prompts(), None, 0
    with torch.no_grad(), natsel.live(model, "kvzip", HALF) as handle:
        for new in ids.split(list(chunks), 1):
            cache = model(new, past_key_values=cache).past_key_values
            seen += new.shape[1]
            assert handle.num_held == 2 * 2 * 2 * (seen - HALF.count(seen))
    with monkeypatch.context() as told:
        told.setattr("natsel.live_populations.proof._continued", continued_in(chunks))
        verdict = prove(model, "kvzip", HALF, ids)
    assert verdict.passed
    assert verdict.effect > 1e-4


def continued_in(chunks):
    """Return what reads a prompt in chunks, in the place of what reads it at once."""

    def continued(model, tokens, prompt, attention_mask, num_new):
        cache, found = None, []
        for new in tokens[:, :prompt].split(list(chunks), 1):
            output = model(new, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
        for _ in range(num_new):
            new = torch.full_like(tokens[:, :1], 7)
            output = model(new, past_key_values=cache, use_cache=True)
            found.append(output.logits[:, -1])
        return torch.stack(found, 1), tokens

    return continued


def test_tokens_that_come_one_by_one_count_by_what_later_ones_give():
    at, keys = torch.tensor([[[0, 1, 2]]]), torch.zeros(1, 1, 3, 2)
    asked = torch.zeros(1, 1, 1, 2), torch.tensor([[2]])
    told = torch.tensor([[[0.9, 0.1, 0.0]]])
    given = Entries(keys, keys + 3.0, at, *asked, 1, 1.0, reread=told)
    third = 1 / 3
    score = METHODS["kvzip"].score
    size = 18.0**0.5
    assert score(given, values=False).flatten().tolist() == pytest.approx([0.9, third, 0])
    assert score(given, values=True).flatten().tolist() == pytest.approx(
        [0.9 * size, third * size, 0]
    )


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_heads_that_hold_different_counts_take_no_more_bytes(scope):
    model, (ids, mask) = decoder("llama"), padded()
    each = 2 * 8 * 4  # key and value, width, bytes
    with torch.no_grad(), natsel.live(model, "key-norm", HALF, scope=scope) as handle:
        cache = model(ids, attention_mask=mask).past_key_values
        held = [handle.held(layer) for layer in (0, 1)]
        assert any(len(set(row.tolist())) > 1 for layer in held for row in layer)
        assert handle.num_bytes == handle.num_held * each
        for number, layer in enumerate(cache.layers):  # who looks at keys sees a rectangle
            longest = int(held[number].max())
            assert layer.keys.shape == layer.values.shape == (2, 2, longest, 8)
            empty = handle.positions(number) < 0
            assert layer.keys[empty].abs().sum() == 0
            assert bool((layer.keys[~empty].abs().sum(-1) > 0).all())
            layer.pack()
        assert handle.num_bytes == handle.num_held * each
    with torch.no_grad(), natsel.live(model, "kvzip", Bytes(60 * each + 3), scope=scope) as bounded:
        model.generate(ids[:1], max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert bounded.num_bytes == 60 * each


def test_beams_carry_entries_of_heads_that_hold_different_counts():
    model, ids = decoder("llama"), prompts(1)
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 3, "pad_token_id": 0}
    with natsel.live(model, "kvzip", HALF) as handle:
        model.generate(ids, **options)
    assert handle.num_held == 3 * 2 * 2 * (23 - HALF.count(23))


def test_a_cache_that_was_thinned_before_is_told_of_where_nobody_leaves():
    model, ids = decoder("llama"), prompts()
    with torch.no_grad():
        with natsel.live(model, "newest", HALF):
            cache = model(ids).past_key_values
        with natsel.live(model, "kvzip", natsel.Sparsity(0.0)) as handle:
            cache = model(ids[:, :4], past_key_values=cache).past_key_values
            assert handle.num_held == 2 * 2 * 2 * 14
            model(ids[:, :4], past_key_values=cache)
            assert handle.num_held == 2 * 2 * 2 * 18


@pytest.mark.parametrize("tokens", [20, 1])
def test_a_cache_dies_with_its_input(tokens):
    model, ids = decoder("llama"), prompts(tokens=tokens)
    with torch.no_grad(), natsel.live(model, "kvzip", HALF):
        cache = weakref.ref(model(ids).past_key_values)
        gc.collect()
        assert cache() is None


def test_what_cannot_be_read_a_second_time_is_refused():
    model, ids = decoder("gpt2", n_positions=24), prompts()
    with torch.no_grad(), natsel.live(model, "kvzip", HALF) as handle:
        with pytest.raises(ValueError, match=r"inputs='20 tokens' .*at most 15"):
            model(ids)
        assert model(ids[:, :12]).past_key_values.get_seq_length() == 12
        assert handle.num_held == 2 * 2 * 4 * 6
        mask = torch.ones(2, 1, 12, 12, dtype=torch.bool).tril()
        with pytest.raises(ValueError, match=r"attention_mask=.* reads twice"):
            model(ids[:, :12], attention_mask=mask)
    with pytest.raises(ValueError, match=r"method='kvzip' .*no second time"):
        to_kvpress("kvzip")
    with pytest.raises(ValueError, match=r"model=.*read a second time"):
        natsel.live(model.transformer.h[0], "kvzip", HALF)


def test_types_of_tokens_are_told_again():
    model, ids = decoder("gpt2"), prompts()
    types = torch.randint(0, 64, ids.shape, generator=torch.Generator().manual_seed(0))
    told = reread(model, ids, token_type_ids=types)
    embeddings = model.transformer.wte
    summed = reread(model, None, inputs_embeds=embeddings(ids) + embeddings(types))
    for layer, found in told.items():
        torch.testing.assert_close(found, summed[layer])


def test_what_cannot_be_told_again_is_refused_by_name():
    model, told = decoder("llama"), r"places=<float32 tensor of shape \(2, 20, 3\)> .*reads twice"
    with natsel.live(model, "kvzip", HALF), pytest.raises(ValueError, match=told):
        model(prompts(), places=torch.zeros(2, 20, 3))
