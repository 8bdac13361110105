"""What each method thinks of entries, on arrays that are spelled out."""

from __future__ import annotations

import pytest
import torch
from decoders import decoder, prompts
from torch import nn

import natsel
from natsel.live_populations import METHODS, Entries, Method, get, register
from natsel.live_populations.kvpress import from_kvpress, to_kvpress
from natsel.live_populations.weights import attention

LOG = torch.tensor([1.0, 2.0, 5.0]).log()


def entries(**given):
    """Three entries that one query of the last place gives 1/8, 2/8 and 5/8."""
    keys = torch.stack([LOG, torch.zeros(3)], -1).reshape(1, 1, 3, 2)
    values = torch.tensor([[[[3.0, -4.0], [0.0, 1.0], [0.0, 0.5]]]])
    options = {
        "keys": keys,
        "values": values,
        "positions": torch.tensor([[[0, 1, 2]]]),
        "queries": torch.tensor([[[[1.0, 0.0]]]]),
        "query_positions": torch.tensor([[2]]),
        "num_new": 1,
        "scaling": 1.0,
        "window": 1,
    }
    return Entries(**{**options, **given})


def scores(name, given, **options):
    return METHODS[name].score(given, **options).flatten().tolist()


def test_attention_is_what_queries_and_keys_give():
    assert entries().received().flatten().tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])


def test_a_mass_counts_as_that_many_entries():
    heavy = entries(mass=torch.tensor([[[4.0, 2.0, 1.0]]]))
    assert heavy.received().flatten().tolist() == pytest.approx([4 / 13, 4 / 13, 5 / 13])


def test_nobody_gives_to_who_is_younger_or_empty():
    early = entries(query_positions=torch.tensor([[1]]))
    assert early.received().flatten().tolist() == pytest.approx([1 / 3, 2 / 3, 0])
    gap = entries(positions=torch.tensor([[[0, -1, 2]]]))
    assert gap.received().flatten().tolist() == pytest.approx([1 / 6, 0, 5 / 6])
    nobody = entries(query_positions=torch.tensor([[-1]]))
    assert nobody.received().flatten().tolist() == [0, 0, 0]


def test_attention_is_that_of_the_decoder():
    model = decoder("llama", attn_implementation="eager")
    seen = []

    def look(given):
        seen.append((given.call.attentions, given.received()))
        return given.positions.double()

    with natsel.live(model, look, natsel.Sparsity(0.5)):
        model(prompts())
    for weights, received in seen:
        expected = weights.sum(2).reshape(2, 2, 2, -1).mean(2)
        torch.testing.assert_close(received, expected)


def test_what_the_methods_say():
    assert scores("newest", entries()) == [0, 1, 2]
    norm = scores("key-norm", entries())
    assert norm == pytest.approx((-LOG).tolist())
    assert scores("h2o", entries()) == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert scores("value-weighted", entries()) == pytest.approx([7 / 8, 2 / 8, 2.5 / 8])
    # The newest one votes and does not smooth; a third of the neighbours' attention each.
    assert scores("snapkv", entries(), kernel=3) == pytest.approx([1 / 8, 1 / 8, 1 / 12])
    assert scores("snapkv", entries(), kernel=1) == pytest.approx([1 / 8, 2 / 8, 0])


def test_heavy_hitters_are_remembered_from_call_to_call():
    first = entries()
    METHODS["h2o"].score(first)
    later = entries(memory=first.memory)
    assert scores("h2o", later) == pytest.approx([2 / 8, 4 / 8, 10 / 8])


def test_expected_attention_is_that_of_gaussian_queries():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(1, 1, 6, 2, generator=generator).double()
    at = torch.arange(3, 9)[None]
    given = entries(
        queries=queries, query_positions=at, keys=entries().keys.double(), num_new=6, window=6
    )
    mean, covariance = queries[0, 0].mean(0), torch.cov(queries[0, 0].T, correction=0)
    keys = given.keys[0, 0]
    logits = keys @ mean + 0.5 * (keys @ covariance * keys).sum(-1)
    expected = logits.softmax(-1) * given.values[0, 0].norm(dim=-1)
    found = METHODS["expected"].score(given, epsilon=0.0).flatten()
    torch.testing.assert_close(found, expected)


def test_voters_are_the_newest_queries_that_are_no_padding():
    at = torch.tensor([[3, 4, 5, 6], [3, 4, -1, -1]])
    queries = torch.zeros(2, 1, 4, 2)
    given = entries(queries=queries, query_positions=at, window=torch.tensor([2, 1]))
    assert given.voters.int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]


def test_chance_is_the_same_under_the_same_seed():
    model, ids = decoder(), prompts()

    def held(seed):
        with natsel.live(model, "random", natsel.Sparsity(0.5), seed=seed) as handle:
            model(ids)
        return handle.positions(1)

    assert torch.equal(held(0), held(0))
    assert not torch.equal(held(0), held(1))


def test_a_method_is_one_function_and_one_line():
    def loudest_value(given, *, power=1.0):
        return given.values.norm(dim=-1) ** power

    with METHODS.temporarily():
        register(Method("loudest-value", loudest_value, sinks=1))
        model, ids = decoder(), prompts()
        with natsel.live(model, "loudest-value", natsel.Held(5), power=2.0) as by_name:
            model(ids)
        with natsel.live(model, loudest_value, natsel.Held(5), sinks=1) as by_function:
            model(ids)
    assert torch.equal(by_name.positions(0), by_function.positions(0))
    assert get(METHODS["snapkv"].score) is METHODS["snapkv"]


class Press:
    """A scorer in the form of kvpress."""

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        assert hidden_states.shape[:2] == (keys.shape[0], keys.shape[2])
        assert "position_embeddings" in kwargs
        assert module.config.num_attention_heads == 4
        return -keys.norm(dim=-1)


def test_a_scorer_of_kvpress_runs_here():
    model, ids = decoder("llama"), prompts()
    with natsel.live(model, from_kvpress(Press()), natsel.Sparsity(0.5)) as theirs:
        model(ids)
    with natsel.live(model, "key-norm", natsel.Sparsity(0.5)) as ours:
        model(ids)
    assert torch.equal(theirs.positions(1), ours.positions(1))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_ours_run_in_kvpress(family):
    model, ids = decoder(family), prompts()
    score, found = to_kvpress("snapkv", window=4), {}

    def hook(module, args, kwargs, output):  # as kvpress asks a scorer
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        given = (module, kwargs["hidden_states"], layer.keys, layer.values, output[1], kwargs)
        found[module.layer_idx] = score(*given).topk(10, -1).indices.sort(-1).values

    hooks = [
        layer.self_attn.register_forward_hook(hook, with_kwargs=True)
        for layer in model.model.layers
    ]
    model(ids)
    for handle in hooks:
        handle.remove()
    with natsel.live(model, "snapkv", natsel.Held(10), window=4) as ours:
        model(ids)
    assert torch.equal(found[0].int(), ours.positions(0))


def test_queries_that_kvpress_does_not_show_are_asked_for_by_name():
    keys = torch.zeros(1, 1, 4, 2)
    assert to_kvpress("newest")(nn.Identity(), keys, keys, keys, None, {}).shape == (1, 1, 4)
    with pytest.raises(ValueError, match="module='Identity' is not allowed: expected one whose"):
        to_kvpress("snapkv")(nn.Identity(), keys, keys, keys, None, {})


def test_kvpress_itself_agrees():
    presses = pytest.importorskip("kvpress")
    model, ids = decoder("llama"), prompts()
    for press, ours, options in (
        (presses.KnormPress(0.5), "key-norm", {}),
        (presses.SnapKVPress(0.5, window_size=4), "snapkv", {"window": 4}),
        (presses.StreamingLLMPress(0.5, n_sink=2), "newest", {"sinks": 2}),
    ):
        with natsel.live(model, from_kvpress(press), natsel.Sparsity(0.5)) as theirs:
            model(ids)
        with natsel.live(model, ours, natsel.Sparsity(0.5), **options) as handle:
            model(ids)
        assert torch.equal(theirs.positions(1), handle.positions(1)), ours


def test_the_softcap_of_a_decoder_is_in_its_attention():
    queries, keys = torch.tensor([[[[8.0]]]]), torch.tensor([[[[1.0], [0.0]]]])
    at, by = torch.tensor([[[0, 1]]]), torch.tensor([[1]])
    found = attention(queries, keys, at, by, scaling=1.0, softcap=2.0).flatten()
    bounded = 2 * torch.tanh(torch.tensor([4.0, 0.0]))
    torch.testing.assert_close(found, bounded.softmax(-1))
