"""multiple_of="auto": what is chosen, from times that are made up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import natsel
import natsel.selection.multiples as room
from natsel import MACs, Sparsity, select
from natsel.selection.multiples import MULTIPLES, Rounding, at_count, choose_multiple, resized


@pytest.mark.parametrize(
    ("ms", "chosen"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 4: 1.0, 8: 1.0}, 1),
        ({1: 1.03, 4: 1.0}, 1),  # within 3 % of the best: closer to what was asked
        ({1: 1.04, 4: 1.0}, 4),
        ({1: 2.0, 4: 1.51, 8: 1.5, 16: 1.6}, 4),
        ({1: 2.0, 4: 1.9, 8: 1.5, 16: 1.2, 32: 1.3}, 16),
    ],
)
def test_the_smallest_near_the_best_is_chosen(ms, chosen):
    assert choose_multiple(ms) == chosen


@given(st.dictionaries(st.sampled_from(MULTIPLES), st.floats(0.01, 100), min_size=1))
def test_what_is_chosen_is_near_the_best_and_nothing_smaller_is(ms):
    chosen = choose_multiple(ms)
    limit = min(ms.values()) * 1.03
    assert ms[chosen] <= limit
    assert all(value > limit for m, value in ms.items() if m < chosen)


@pytest.mark.parametrize(
    ("points", "count", "ms"),
    [
        ([(8, 1.0), (16, 2.0)], 12, 1.5),
        ([(8, 1.0), (16, 2.0)], 8, 1.0),
        ([(8, 1.0), (16, 2.0)], 16, 2.0),
        ([(8, 1.0)], 8, 1.0),
        ([(16, 2.0)], 12, 1.5),  # as long for each survivor
        ([(8, 1.0)], 12, 1.5),
    ],
)
def test_times_for_one_count(points, count, ms):
    assert at_count(points, count) == ms


def test_a_mask_grows_and_shrinks_within_itself():
    mask = torch.tensor([False, True, False, True])
    assert resized(mask, 1).tolist() == [False, True, False, False]
    assert resized(mask, 2).tolist() == [False, True, False, True]
    assert resized(mask, 3).tolist() == [True, True, False, True]


@pytest.fixture(scope="module")
def communities():
    model = nn.Sequential(
        nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 3)
    )
    return natsel.discover(model, torch.zeros(5, 4))


@pytest.fixture
def clock(monkeypatch):
    """A device that computes in blocks of so many neurons, 1 ms each."""
    log = []

    def on(block):
        def time_in_turn(models, inputs, *, repeats):
            log.append(sorted((m[0].out_features, m[2].out_features) for m in models.values()))
            assert tuple(inputs[0].shape) == (5, 4)
            return {
                name: [float(-(-m[0].out_features // block) - (-m[2].out_features // block))]
                for name, m in models.items()
            }

        monkeypatch.setattr(room, "time_in_turn", time_in_turn)
        return log

    return on


SCORES = {"0": torch.arange(64.0), "2": torch.arange(40.0)}


@pytest.mark.parametrize(("block", "chosen"), [(1, 1), (4, 4), (8, 8), (16, 16)])
def test_the_block_of_the_device_is_found(communities, clock, block, chosen):
    log = clock(block)
    found = select(SCORES, Sparsity(0.41), communities=communities, multiple_of="auto")
    # 38 of 64 and 24 of 40 are left: 24 already is a multiple of 4 and 8.
    assert log[0] == sorted([(38, 24), (36, 24), (40, 24), (32, 24), (32, 16), (48, 32)])
    assert found.rounding.multiple == chosen
    assert list(found.rounding.ms) == [1, 4, 8, 16]  # 32 is more than 24
    assert found.rounding.batch_size == 5
    exact = select(SCORES, Sparsity(0.41), communities=communities, multiple_of=chosen)
    assert all(torch.equal(found[name], exact[name]) for name in exact)
    assert exact.rounding is None


def test_a_budget_of_costs_is_met_with_the_multiple(communities, clock):
    clock(8)
    found = select(SCORES, MACs(0.5), communities=communities, multiple_of="auto", scope="global")
    assert found.rounding.multiple == 8
    assert all(int(mask.sum()) % 8 == 0 for mask in found.values())
    assert communities.price(found).macs <= communities.price().macs / 2


def test_nothing_is_measured_where_no_width_shrinks(communities, clock):
    log = clock(8)
    found = select(SCORES, Sparsity(0.0), communities=communities, multiple_of="auto")
    assert (found.rounding.multiple, log) == (1, [])
    assert found.rounding.summary() == "multiples of 1: no width shrinks"


def test_heads_are_left_alone(clock):
    model = natsel.models.build(
        "vit", in_shape=(1, 8, 8), num_classes=3, dim=16, depth=1, heads=4, patch=4
    )
    found = natsel.discover(model, (torch.randn(2, 1, 8, 8),))
    scores = natsel.score(found, "magnitude")
    kept = select(scores, Sparsity(0.5), multiple_of="auto")  # timed on this device, whatever comes
    assert kept.rounding.multiple in MULTIPLES
    heads = next(name for name, c in found.items() if c.kind == "head")
    assert int(kept[heads].sum()) == 2


def test_it_says_what_was_chosen_and_why():
    assert Rounding(8, {1: 2.0, 8: 1.25}, 64).summary() == (
        "multiples of 8: for as many survivors a pass takes 2 ms with multiples of 1, 1.25 ms "
        "with 8 (at batch 64); the smallest within 3% of the best"
    )


@pytest.mark.parametrize("value", ["Auto", "8", ""])
def test_other_words_are_refused(communities, value):
    with pytest.raises(ValueError, match=rf"multiple_of='{value}'.*>= 1, or 'auto'"):
        select(SCORES, Sparsity(0.5), communities=communities, multiple_of=value)


def test_it_needs_a_model_to_measure():
    with pytest.raises(ValueError, match=r"multiple_of='auto'.*communities= is not given"):
        select(SCORES, Sparsity(0.5), multiple_of="auto")
