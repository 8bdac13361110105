"""What large models that are compared and compensated hold of each other, and for how long."""

from __future__ import annotations

import sys
import weakref
from functools import partial

import pytest
import torch
from torch import nn

import natsel
from natsel.common.memory import give_back, peak_memory
from natsel.extraction.decide import Later
from natsel.extraction.extract import extracted
from natsel.extraction.verify import compare_removal


@pytest.fixture
def pruned():
    torch.manual_seed(0)
    layers = (nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 3))
    model = nn.Sequential(*layers).eval()
    communities = natsel.discover(model, (torch.randn(2, 4),)).without(["2"])
    survivors = natsel.select(natsel.score(communities, "magnitude"), natsel.Sparsity(0.5))
    return model, communities, survivors


def test_only_modules_that_lose_nothing_are_shared(pruned):
    model, communities, survivors = pruned
    before = {name: t.clone() for name, t in model.state_dict().items()}
    data = [(torch.randn(40, 4),) for _ in range(3)]
    shared = extracted(model, survivors, communities, batches=data, share=True)
    apart = natsel.extract(model, survivors, compensate=data)
    assert shared[4].weight is model[4].weight
    assert shared[2].bias is not model[2].bias  # which takes over a constant
    assert not torch.equal(shared[2].bias, model[2].bias)
    for name, tensor in apart.state_dict().items():
        assert torch.equal(shared.state_dict()[name], tensor), name
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_one_of_two_copies_is_there_at_a_time_and_the_verdict_is_the_same(pruned, monkeypatch):
    model, communities, survivors = pruned
    inputs = communities.example_inputs
    alive: list[weakref.ref[nn.Module]] = []

    def noted(made):
        def noting():
            assert not any(ref() is not None for ref in alive)
            alive.append(weakref.ref(found := made()))
            return found

        return Later(noting)

    monkeypatch.setattr(sys.modules["natsel.extraction.verify"], "Later", noted)
    cut = partial(extracted, model, survivors, communities)
    later = compare_removal(model, noted(cut), survivors, communities, inputs)
    assert len(alive) == 4  # masked and small, in float64 and in the model's own precision
    small = natsel.extract(model, survivors, verify=False)
    assert later == natsel.verify(model, small, survivors, inputs)
    assert later.passed


def test_a_wrong_small_model_that_is_made_later_fails(pruned):
    model, communities, survivors = pruned

    def wrong():
        small = natsel.extract(model, survivors, verify=False)
        with torch.no_grad():
            small[2].bias[0] += 1e-3
        return small

    given = (survivors, communities, communities.example_inputs)
    assert not compare_removal(model, Later(wrong), *given).passed


def test_the_peak_never_falls():
    before = peak_memory()
    del_me = torch.ones(1 << 20)
    del del_me
    give_back()
    assert peak_memory() >= before
