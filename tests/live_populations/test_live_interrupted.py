"""A call that fails or is stopped leaves the model as it was, and a copy of a cache goes on."""

from __future__ import annotations

import copy
from threading import Event, Thread

import pytest
import torch
from decoders import decoder, padded, prompts
from torch.overrides import _get_current_function_mode_stack
from vits import images, vit

import natsel
from natsel.live_populations import needs_of_heads

HALF = natsel.Sparsity(0.5)


def stopping(module, call, error=KeyboardInterrupt):
    """Let a call of a model be stopped in a module, as from the keyboard."""

    def stop(*_):
        raise error

    hook = module.register_forward_pre_hook(stop)
    with pytest.raises(error):
        call()
    hook.remove()


@pytest.mark.parametrize("method", ["kvzip", "key-diff"])
def test_a_decoder_that_is_stopped_is_as_it_was(method):
    model, ids = decoder("llama"), prompts()
    with torch.no_grad():
        before = model(ids).logits
        with natsel.live(model, method, HALF) as handle:
            stopping(model.model.layers[1].self_attn.o_proj, lambda: model(ids))
        assert model.config._attn_implementation == "sdpa"
        assert torch.equal(model(ids).logits, before)
        handle = natsel.live(model, method, HALF)
        stopping(model.model.layers[1].self_attn.o_proj, lambda: model(ids))
        after = model(ids).logits  # it goes on, without a close() between
        handle.close()
        with natsel.live(model, method, HALF):
            assert torch.equal(model(ids).logits, after)
    assert model.config._attn_implementation == "sdpa"


def test_nothing_looks_on_after_a_vision_transformer_was_stopped():
    model, x, stack = vit(), images(), _get_current_function_mode_stack
    inside = next(iter(model.blocks[1].children()))
    with torch.no_grad():
        with natsel.live(model, "merge", natsel.Sparsity(0.4)):
            within = model(x)
        with natsel.live(model, "merge", natsel.Sparsity(0.4)):
            stopping(inside, lambda: model(x))
            assert stack()
        assert not stack()
        with natsel.live(model, "merge", natsel.Sparsity(0.4)):
            stopping(inside, lambda: model(x))
            assert torch.equal(model(x), within)  # it goes on, without a close() between
            assert not stack()


def test_a_call_that_failed_is_not_told_where_nobody_leaves():
    model = decoder("llama")
    with torch.no_grad(), natsel.live(model, "newest", natsel.Sparsity(0)) as handle:
        stopping(model.model.layers[0].mlp, lambda: model(prompts()), RuntimeError)
        model(prompts(1, 5))
    assert handle.num_seen == 5 * 2 * 2


@pytest.mark.parametrize("method", ["snapkv", "h2o", "evolution", "kvzip"])
def test_a_copy_of_a_cache_goes_on_as_the_cache_does(method):
    """A prompt that was read once is copied for each of its questions."""
    model, new = decoder("llama"), torch.tensor([[5], [6]])
    found = []
    with torch.no_grad(), natsel.live(model, method, HALF) as handle:
        cache = model(prompts()).past_key_values
        for each in (copy.deepcopy(cache), cache):
            for _ in range(3):
                logits = model(new, past_key_values=each).logits
            found.append((logits, *(handle.positions(layer) for layer in handle.layers)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_copy_of_uneven_heads_is_refused_after_the_end_as_the_cache_is():
    model, ids = decoder("llama"), prompts()
    needs = needs_of_heads(model, [ids], HALF)
    with torch.no_grad(), natsel.live(model, "key-diff", HALF, heads=needs):
        cache = model(ids).past_key_values
        other = copy.deepcopy(cache)
    for each in (cache, other):
        with pytest.raises(ValueError, match=r"LiveLayer after close\(\)"):
            model(ids[:, :1], past_key_values=each)


@pytest.mark.parametrize("how", [{"method": "kvzip"}, {"method": "snapkv", "merge": True}])
def test_another_method_goes_on_with_what_uneven_heads_hold(how):
    model, (ids, mask) = decoder("llama").double(), padded()
    new = {"input_ids": ids[:, :3], "attention_mask": torch.cat([mask, mask[:, -3:]], 1)}
    with torch.no_grad():
        with natsel.live(model, budget=HALF, **how) as handle:
            cache = model(ids, attention_mask=mask).past_key_values
            with handle.paused():
                expected = model(**new, past_key_values=copy.deepcopy(cache)).logits
        with natsel.live(model, "newest", natsel.Sparsity(0.6)) as handle:
            found = model(**new, past_key_values=cache).logits
    torch.testing.assert_close(found, expected)
    seen = (23, 16)
    assert [row.tolist() for row in handle.held(1)] == [
        [n - natsel.Sparsity(0.6).count(n)] * 2 for n in seen
    ]


def test_two_decoders_run_side_by_side():
    """The second begins while the attention of the first is running, and is there at its end."""
    models, ids = [decoder("llama"), decoder("llama")], prompts()
    begun, done = Event(), Event()
    with torch.no_grad(), natsel.live(models[0], "snapkv", HALF) as alone:
        expected = models[0](ids[:1], logits_to_keep=1).logits

    def waits(*_):
        begun.set()
        assert done.wait(10)

    def run():
        with torch.no_grad(), natsel.live(models[1], "newest", HALF):
            models[1](ids)

    other = Thread(target=run)

    def starts(*_):
        if not begun.is_set():
            other.start()
            assert begun.wait(10)

    models[1].model.layers[0].self_attn.q_proj.register_forward_pre_hook(waits)
    models[0].model.layers[0].self_attn.q_proj.register_forward_pre_hook(starts)
    with torch.no_grad(), natsel.live(models[0], "snapkv", HALF) as handle:
        found = models[0](ids[:1], logits_to_keep=1).logits
    done.set()
    other.join()
    assert torch.equal(found, expected)
    assert torch.equal(handle.positions(0), alone.positions(0))
    assert models[1].config._attn_implementation == "sdpa"
