"""Budgets of time: how the search goes, on readings that are spelled out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import natsel
import natsel.selection.latency as room
from natsel import Latency, select
from natsel.levels.tabled import tabled
from natsel.selection.decoding import Decoding, prompt_of


@pytest.fixture(scope="module")
def communities():
    return natsel.discover(
        nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4)
    )


@pytest.fixture
def clock(monkeypatch):
    """A device on which a pass takes 10 ms and 1 ms for each hidden neuron."""
    log = []

    def time_in_turn(models, inputs, *, repeats):
        widths = {name: model[0].out_features for name, model in models.items()}
        log.append((widths["small"], tuple(inputs[0].shape), repeats))
        return {name: [10.0 + width] * repeats for name, width in widths.items()}

    monkeypatch.setattr(room, "time_in_turn", time_in_turn)
    return log


def num_kept(survivors):
    return int(survivors["0"].sum())


@pytest.mark.parametrize("scope", ["community", "global"])
def test_the_largest_model_that_is_fast_enough_is_found(communities, clock, scope):
    scores = {"0": torch.rand(64)}
    options = {"communities": communities, "scope": scope}
    # 74 ms dense: half of it are 37 ms, and 27 neurons.
    assert num_kept(select(scores, Latency(0.5), **options)) == 27
    assert num_kept(select(scores, Latency(ms=20.5), **options)) == 10
    assert num_kept(select(scores, Latency(ms=1000), **options)) == 64


def test_what_is_measured(communities, clock):
    budget = Latency(0.5, batch_size=5, repeats=7)
    select({"0": torch.rand(64)}, budget, communities=communities)
    widths, shapes, repeats = zip(*clock, strict=True)
    assert widths[:2] == (64, 1)
    assert len(widths) <= 2 + 8
    assert set(shapes) == {(5, 4)}
    assert set(repeats) == {7}


def test_a_search_stops_after_eight_steps_at_something_measured(monkeypatch):
    model = nn.Sequential(nn.Linear(2, 2000), nn.ReLU(), nn.Linear(2000, 2))
    large = natsel.discover(model, torch.zeros(1, 2), proof=False)
    seen = []

    def time_in_turn(models, inputs, *, repeats):
        seen.append(models["small"][0].out_features)
        return {name: [float(m[0].out_features)] for name, m in models.items()}

    monkeypatch.setattr(room, "time_in_turn", time_in_turn)
    kept = num_kept(select({"0": torch.rand(2000)}, Latency(0.4), communities=large))
    assert len(seen) == 10
    assert kept in seen
    assert 800 - 1999 / 256 - 1 <= kept <= 800


def test_a_time_out_of_reach_names_the_nearest(communities, clock):
    scores = {"0": torch.rand(64)}
    with pytest.raises(ValueError, match=r"latency=0\.1 .*at least 0\.1486 of the dense .*batch 1"):
        select(scores, Latency(0.1), communities=communities)
    with pytest.raises(ValueError, match=r"ms=3 .*at least 11 ms at batch 8.*floor of 1"):
        select(scores, Latency(ms=3, batch_size=8), communities=communities)


def test_real_passes_are_measured_on_a_gated_model(communities):
    """The slowest allowed time is met by the dense model or by less: only that it runs."""
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
    evolution = natsel.Evolution(natsel.discover(model, torch.zeros(2, 4)))
    before = {name: p.clone() for name, p in model.named_parameters()}
    survivors = select(
        {"0": torch.rand(64)},
        Latency(ms=1e6, repeats=1),
        communities=evolution.communities,
    )
    assert num_kept(survivors) == 64
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either a share or ms="),
        ({"share": 0.5, "ms": 3.0}, "either a share or ms="),
        *(({"share": v}, "latency=") for v in (0.0, -0.5, 1.5, 1, math.nan, True, "0.5")),
        *(({"ms": v}, "ms=") for v in (0, -1.0, math.nan, math.inf, True, "3")),
        *(({"share": 0.5, "batch_size": v}, "batch_size=") for v in (0, -1, 1.0, True)),
        ({"share": 0.5, "repeats": 0}, "repeats=0"),
    ],
)
def test_times_outside_what_is_allowed_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Latency(**arguments)


def test_a_time_needs_a_model():
    with pytest.raises(ValueError, match=r"communities=None.*natsel\.Latency"):
        select({"a": torch.rand(4)}, Latency(0.5))


@pytest.fixture(scope="module")
def decoder():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=3,
        vocab_size=50,
        max_position_embeddings=40,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    ids = {"input_ids": torch.arange(3, 9)[None]}
    return natsel.discover(model, ids, branches=True).only("branch", "neuron")


def test_a_decoded_token_is_what_the_whole_text_gives_at_its_place(decoder):
    model = decoder.model
    tokens = torch.arange(3, 13)[None]
    with torch.inference_mode():
        whole = model(input_ids=tokens).logits[0]
        one = Decoding(model, tokens[:, :7])
        for place in (7, 8, 9):
            torch.testing.assert_close(one(tokens[:, place : place + 1]).logits[0, 0], whole[place])


def test_decode_is_timed_token_by_token_by_a_table_and_for_what_it_finds(decoder, monkeypatch):
    """A token takes 1 ms for each linear layer here: 7 a block, one at the end."""
    seen = []

    def time_in_turn(models, inputs, *, repeats):
        found = {}
        for name, model in models.items():
            assert isinstance(model, Decoding)
            before = model(inputs[0]).past_key_values.get_seq_length()
            layers = sum(isinstance(m, nn.Linear) for m in model.modules())
            found[name] = [float(layers)] * repeats
            seen.append((name, tuple(inputs[0].shape), before, repeats))
        return found

    monkeypatch.setattr(room, "time_in_turn", time_in_turn)
    gauge = Latency(0.8, batch_size=2, repeats=5, of="decode", context=20).gauge(decoder)
    (stream,) = (n for n, c in decoder.items() if c.branches)
    full = {n: torch.ones(c.size, dtype=torch.bool) for n, c in decoder.items()}
    first = {**full, stream: torch.arange(6) > 1}  # the first block
    assert gauge.read(full) == 1.0
    assert gauge.read(first) == pytest.approx(15 / 22)
    assert set(seen) == {(name, (2, 1), 21, 5) for name in ("dense", "small")}
    assert "decoded token" in gauge.describe(0.75)
    table = tabled(gauge, decoder)
    measured = len(seen)
    assert table.read(full) == 1.0
    assert table.read(first) == pytest.approx(15 / 22)
    assert len(seen) == measured


def test_a_cache_holds_no_more_than_the_model_has_positions_for(decoder):
    for context, fits in ((10, 10), (500, 30)):
        made = prompt_of(decoder.model, decoder.example_inputs, context=context, room=10)
        assert made.shape == (1, fits)
        assert made[0, :7].tolist() == [3, 4, 5, 6, 7, 8, 3]
    with pytest.raises(ValueError, match="40 positions"):
        Latency(0.5, of="decode", repeats=60).gauge(decoder).read(
            {n: torch.ones(c.size, dtype=torch.bool) for n, c in decoder.items()}
        )


def test_what_cannot_decode_is_refused(communities):
    with pytest.raises(ValueError, match=r"of='decode'.*causal language model"):
        select({"0": torch.rand(64)}, Latency(0.5, of="decode"), communities=communities)
    with pytest.raises(ValueError, match="of='prefil'"):
        Latency(0.5, of="prefil")
