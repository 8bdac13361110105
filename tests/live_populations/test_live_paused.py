"""Time that stands still, and engines that only look on."""

from __future__ import annotations

import pytest
import torch
from decoders import decoder, padded, prompts
from transformers.cache_utils import DynamicLayer

import natsel
from natsel.live_populations import METHODS, Held

HALF = natsel.Sparsity(0.5)


@pytest.mark.parametrize("method", METHODS)
def test_nobody_leaves_while_time_stands_still(method):
    model, ids, more = decoder("llama"), prompts(tokens=20), prompts(tokens=6, seed=2)
    with torch.no_grad(), natsel.live(model, method, HALF, scope="head") as handle:
        cache = model(ids).past_key_values
        before = [handle.positions(layer).clone() for layer in handle.layers]
        with handle.paused() as same:
            assert same is handle
            model(more[:, :4], past_key_values=cache)
            model(more[:, 4:5], past_key_values=cache)
        for layer, kept in zip(handle.layers, before, strict=True):
            now = handle.positions(layer)
            assert torch.equal(now[..., : kept.shape[-1]], kept)
            assert now[..., kept.shape[-1] :].tolist() == [[[20, 21, 22, 23, 24]] * 2] * 2
        model(more[:, 5:], past_key_values=cache)  # time goes on, and the budget holds again
        assert handle.held(0).tolist() == [[13, 13]] * 2


def test_a_question_is_read_as_by_a_cache_that_loses_nobody():
    """Against a mask of one's own over the whole cache, for all heads the same."""
    model, ids, more = decoder("llama"), prompts(tokens=20), prompts(tokens=4, seed=2)
    with torch.no_grad():
        with natsel.live(model, "newest", HALF) as handle:
            cache = model(ids).past_key_values
            with handle.paused():
                found = model(more, past_key_values=cache).logits
            gone = handle.evicted(0)[0, 0, :20]
        assert int(gone.sum()) == 10
        seen = torch.cat([(~gone).expand(4, -1), torch.ones(4, 4, dtype=torch.bool).tril()], -1)
        whole = model(ids).past_key_values
        mask = seen.expand(2, 1, -1, -1)
        expected = model(more, past_key_values=whole, attention_mask=mask).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_pause_ends_with_an_error_and_pauses_nest():
    model, ids = decoder("llama"), prompts()
    with torch.no_grad(), natsel.live(model, "newest", Held(8)) as handle:
        with pytest.raises(KeyError), handle.paused():
            raise KeyError
        with handle.paused():
            with handle.paused():
                pass
            model(ids)
            assert handle.held(0).unique().tolist() == [20]
        model(ids)
        assert handle.held(0).unique().tolist() == [8]


def test_where_nobody_leaves_the_cache_stays_a_dynamic_one():
    model, (ids, mask) = decoder("llama"), padded()
    with torch.no_grad(), natsel.live(model, "h2o", natsel.Sparsity(0.0)) as handle:
        cache = model(ids, attention_mask=mask).past_key_values
        assert {type(layer) for layer in cache.layers} == {DynamicLayer}
        assert model.model.layers[0].self_attn.config._attn_implementation == "sdpa"
        assert handle.held(1).tolist() == [[20, 20], [13, 13]]
        assert handle.num_bytes == handle.num_bytes_whole > 0
        with pytest.raises(ValueError, match="use_cache"):
            model(ids, use_cache=False)


def test_a_cache_that_was_thinned_before_is_read_right_where_nobody_leaves():
    model, ids, more = decoder("llama"), prompts(tokens=20), prompts(tokens=3, seed=2)
    found = []
    for budget in (natsel.Sparsity(0.0), natsel.live_populations.Held(1000)):
        with torch.no_grad():
            with natsel.live(model, "key-norm", HALF):
                cache = model(ids).past_key_values
            with natsel.live(model, "newest", budget) as handle:
                found.append(model(more, past_key_values=cache).logits)
                found.append(model(more, past_key_values=cache).logits)
                assert handle.num_held == 2 * 2 * 2 * 16  # 10 and twice 3
        assert not model.model.layers[0].self_attn._forward_pre_hooks
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
