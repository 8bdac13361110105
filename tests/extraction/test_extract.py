"""Extracted = masked, on every reference network and for any survivors."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import natsel
from natsel.extraction import VerificationError

NAMES = ["cnn", "mlp", "resnet20", "vit"]


@pytest.mark.parametrize("name", NAMES)
@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.sampled_from([0.1, 0.5, 0.9]), seed=st.integers(0, 10_000))
def test_the_small_model_equals_the_masked_one(net, draw, name, share, seed):
    model, communities, _ = net(name)
    survivors = draw(communities, share, seed)
    small = natsel.extract(model, survivors, verify=False)
    found = natsel.verify(model, small, survivors, (torch.randn(4, 1, 8, 8),))
    assert found.passed
    assert found.max_abs_difference < 1e-5
    assert found.max_abs_difference_float64 < 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_the_given_model_is_untouched(net, draw, name):
    model, communities, _ = net(name)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    sizes = {n: dict(vars(m)) for n, m in model.named_modules()}
    frozen = next(iter(model.parameters()))
    frozen.requires_grad_(False)
    try:
        small = natsel.extract(model, draw(communities, 0.5, 0))
    finally:
        frozen.requires_grad_(True)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert sizes == {n: dict(vars(m)) for n, m in model.named_modules()}
    assert not next(iter(small.parameters())).requires_grad
    assert sum(p.requires_grad for p in small.parameters()) == len(list(model.parameters())) - 1
    assert small.training == model.training
    mine = {t.data_ptr() for t in model.state_dict().values()}
    assert mine.isdisjoint(t.data_ptr() for t in small.state_dict().values())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_removing_nothing_gives_an_equal_model(net, name):
    model, communities, _ = net(name)
    small = natsel.extract(model, natsel.Survivors(communities.full(), communities))
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(small.eval()(x), copy.deepcopy(model).eval()(x))


@pytest.mark.parametrize("name", NAMES)
def test_removing_all_but_one(net, name):
    model, communities, inputs = net(name)
    masks = {n: torch.arange(c.size) == c.size - 1 for n, c in communities.items()}
    survivors = natsel.Survivors(masks, communities)
    small = natsel.extract(model, survivors)
    assert natsel.verify(model, small, survivors, inputs).max_abs_difference_float64 < 1e-10
    small(torch.randn(2, 1, 8, 8)).sum().backward()


@pytest.mark.parametrize("name", NAMES)
def test_verify_is_able_to_fail(net, draw, name):
    model, communities, inputs = net(name)
    survivors = draw(communities, 0.5, 1)
    small = natsel.extract(model, survivors)
    assert natsel.verify(model, small, survivors, inputs).passed
    with torch.no_grad():
        next(p for p in small.parameters() if p.dim() > 1).mul_(1.01)
    found = natsel.verify(model, small, survivors, inputs)
    assert not found.passed
    assert found.max_rel_difference > found.tolerance
    other = natsel.extract(model, draw(communities, 0.5, 2))
    assert not natsel.verify(model, other, survivors, inputs).passed
    with torch.no_grad():
        next(iter(small.parameters())).fill_(float("nan"))
    assert not natsel.verify(model, small, survivors, inputs).passed


def test_extract_raises_where_removing_is_not_masking(net, draw, monkeypatch):
    model, communities, _ = net("mlp")
    module = sys.modules["natsel.extraction.extract"]
    real = module.remove

    def wrong(*args, **options):
        small = real(*args, **options)
        with torch.no_grad():
            small.layers[0].bias.add_(1.0)
        return small

    monkeypatch.setattr(module, "remove", wrong)
    with pytest.raises(VerificationError, match="differs from the masked one"):
        natsel.extract(model, draw(communities, 0.5, 0))
    natsel.extract(model, draw(communities, 0.5, 0), verify=False)


def test_survivors_that_do_not_fit_are_refused(net, draw):
    model, communities, _ = net("mlp")
    good = {n: m for n, m in draw(communities, 0.5, 0).items()}
    name = next(iter(good))
    for masks, message in (
        ({**good, "elsewhere": torch.ones(3, dtype=torch.bool)}, "elsewhere"),
        ({**good, name: torch.ones(4, dtype=torch.bool)}, r"shape \(9,\)"),
        ({**good, name: torch.zeros(9, dtype=torch.bool)}, "at least one survivor"),
        ({**good, name: torch.ones(9)}, "booleans"),
    ):
        with pytest.raises(ValueError, match=message):
            natsel.extract(model, masks, communities=communities)
    with pytest.raises(ValueError, match="without communities"):
        natsel.extract(model, good)
    natsel.extract(model, good, communities=communities)


@pytest.mark.parametrize("hidden", [(12, 6), (5, 6)])
def test_survivors_of_another_model_are_refused(net, draw, hidden):
    _, communities, inputs = net("mlp")
    survivors = draw(communities, 0.5, 0)
    other = natsel.models.build("mlp", in_shape=(1, 8, 8), num_classes=10, hidden=hidden)
    with pytest.raises(ValueError, match=r"layers\.0\.weight of shape"):
        natsel.extract(other, survivors)
    with pytest.raises(ValueError, match="model="):
        natsel.verify(net("cnn")[0], net("cnn")[0], survivors, inputs)
    natsel.extract(copy.deepcopy(net("mlp")[0]), survivors)


@pytest.mark.parametrize("name", ["mlp", "vit"])
def test_masses_fold_into_the_weights_for_good(net, draw, name):
    model = copy.deepcopy(net(name)[0])
    communities = natsel.discover(model, net(name)[2])
    evolution = natsel.Evolution(communities, initial=0.5)
    gated = copy.deepcopy(model).eval()
    small = natsel.extract(model, evolution.survivors())
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(small.eval()(x), gated(x), rtol=0, atol=1e-6)
    assert natsel.extract(model, draw(communities, 0.5, 3)) is not model
    assert isinstance(
        model.get_submodule("layers.2" if name == "mlp" else "blocks.0.mlp.2"), nn.Linear
    )
    natsel.discover(small, net(name)[2])
