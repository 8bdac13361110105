"""Heads that share a budget by what each needs, whatever the scores are."""

from __future__ import annotations

import pytest
import torch
from decoders import decoder, padded, prompts

import natsel
from natsel.live_populations import Held, needs_of_heads, prove

HALF = natsel.Sparsity(0.5)
NEEDS = {0: torch.tensor([3.0, 1.0]), 1: torch.tensor([0.5, 1.5])}


@pytest.fixture(scope="module")
def model():
    return decoder("llama")


def test_heads_hold_in_proportion_to_their_needs_and_inside_the_order_stays(model):
    with torch.no_grad(), natsel.live(model, "newest", Held(6), heads=NEEDS, sinks=0) as handle:
        model(prompts())
    assert [handle.held(layer).tolist() for layer in (0, 1)] == [[[12, 4]] * 2, [[2, 6]] * 2]
    assert handle.positions(0)[0, 0].tolist() == list(range(8, 20))
    assert handle.positions(1)[0, 1].tolist() == list(range(14, 20))


def test_who_needs_more_than_there_is_leaves_the_rest_to_the_others(model):
    needs = {0: torch.tensor([9.0, 1.0]), 1: torch.tensor([1.0, 1.0])}
    with torch.no_grad(), natsel.live(model, "newest", Held(8), heads=needs, sinks=0) as handle:
        model(prompts(1))
    assert [handle.held(layer).tolist() for layer in (0, 1)] == [[[20, 4]], [[4, 4]]]
    verdict = prove(model, "newest", Held(8), prompts(1), heads=needs, sinks=0)
    assert verdict.passed  # one head holds all of the input, and the other hides what it does not


@pytest.mark.parametrize("method", ["key-diff", "evolution"])
def test_counts_are_exact_after_every_call_and_equal_hidden_ones(model, method):
    ids, mask = padded()
    verdict = prove(model, method, HALF, ids, attention_mask=mask, heads=NEEDS)
    assert verdict.passed, verdict
    assert verdict.effect > 1e-4
    cache, seen = None, 0
    with torch.no_grad(), natsel.live(model, "key-diff", HALF, heads=NEEDS) as handle:
        for new in prompts().split([7, 6, 1, 1, 5], 1):
            cache = model(new, past_key_values=cache).past_key_values
            seen += new.shape[1]
            assert handle.num_held == 2 * 4 * (seen - HALF.count(seen))


def test_needs_are_what_heads_hold_when_they_share(model):
    texts = [prompts(1), prompts(2, seed=5)]
    found = needs_of_heads(model, texts, HALF, method="key-norm", scope="model")
    held = {0: [], 1: []}
    for text in texts:
        with torch.no_grad(), natsel.live(model, "key-norm", HALF, scope="model") as handle:
            model(text)
        for layer, rows in held.items():
            rows.append(handle.held(layer))
    for layer, rows in held.items():
        torch.testing.assert_close(found[layer], torch.cat(rows).double().mean(0) / 20)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"heads": [1.0]}, r"heads=\[1.0\] .*\{layer: \[heads\]\}"),
        ({"heads": {0: torch.ones(2)}}, r"heads='None for layer 1'"),
        ({"heads": {0: torch.tensor([1.0, -1.0]), 1: torch.ones(2)}}, r"-1.0\] for layer 0"),
        ({"heads": {**NEEDS, 2: torch.ones(2)}}, r"numbers for layer 2' .*layers \[0, 1\] alone"),
        ({"heads": {0: torch.zeros(2), 1: torch.zeros(2)}}, "0 for every head"),
        ({"heads": {0: torch.ones(2, 2), 1: torch.ones(2)}}, r"float32 tensor of shape \(2, 2\)"),
        ({"heads": {0: torch.ones(2) * 1j, 1: torch.ones(2)}}, r"complex64 tensor"),
        ({"heads": NEEDS, "budget": None, "method": "evolution"}, "budget=None .*heads can share"),
        ({"heads": NEEDS, "scope": "layer"}, "scope='layer', .*heads alone"),
        ({"heads": NEEDS, "normalize": "rank"}, "normalize='rank' are not allowed"),
    ],
)
def test_what_does_not_say_what_heads_need_is_refused(model, given, message):
    with pytest.raises(ValueError, match=message) as told:
        natsel.live(model, **{"method": "newest", "budget": HALF, **given})
    assert "\n" not in str(told.value)


def test_numbers_for_other_heads_are_refused_before_anything_leaves(model):
    needs = {0: torch.ones(3), 1: torch.ones(2)}
    told = r"heads='3 numbers at layer 0' .*2, one for each"
    with natsel.live(model, "newest", HALF, heads=needs), pytest.raises(ValueError, match=told):
        model(prompts())
    with pytest.raises(ValueError, match=r"texts=.*at least one"):
        needs_of_heads(model, [], HALF)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (prompts(), {}, r"texts=<int64 tensor of shape \(2, 20\)> .*a list of token ids"),
        ([prompts()[0]], {}, r"texts='<int64 tensor of shape \(20,\)>'"),
        ([prompts()[:, :0]], {}, r"shape \(2, 0\)"),
        ([prompts().float()], {}, "float32"),
        ([[1, 2, 3]], {}, r"texts='\[1, 2, 3\]'"),
        ([prompts() + 60], {}, r"texts='tokens 61 to \d+' .*which are 0 to 63"),
        ("a text", {}, "texts='a text'"),
        (None, {}, "texts=None"),
        ([prompts()], {"method": "router"}, "method='router' .*of a cache"),
        ([prompts()], {"method": "merge"}, "method='merge' .*of a cache"),
    ],
)
def test_what_is_no_text_and_no_method_of_a_cache_is_refused(model, texts, options, message):
    with pytest.raises(ValueError, match=message):
        needs_of_heads(model, texts, HALF, **options)
