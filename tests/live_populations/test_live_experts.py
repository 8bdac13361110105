"""Fewer experts a token: exact counts, equal to masks, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.mixtures import MIXTURES, MORE_MIXTURES, token_ids

import natsel
from natsel.live_populations import Choices, ExpertMethod, prove
from natsel.live_populations.experts.choosing import survivors_of_call
from natsel.live_populations.experts.routers import ROUTINGS, blocks_of

HALF = natsel.Sparsity(0.5)
YES = torch.ones(3, 4, dtype=torch.bool)


def check_fewer(model):
    mask = torch.ones(2, 9)
    mask[1, :3] = 0
    told = prove(model, "router", natsel.Sparsity(0.4), token_ids(), attention_mask=mask)
    assert told.passed, told
    assert told.effect > 1e-4


@pytest.mark.parametrize("family", MIXTURES)
def test_fewer_experts_equal_the_routers_own_arithmetic_on_those_alone(family):
    check_fewer(MIXTURES[family]())


@pytest.mark.slow
@pytest.mark.parametrize("family", MORE_MIXTURES)
def test_so_do_those_of_every_other_router_that_is_known(family):
    check_fewer(MORE_MIXTURES[family]())


def test_no_router_is_known_that_is_not_proven_here():
    """Each class of the table is in a mixture of the two lists."""
    kinds = {type(b.router) for make in MIXTURES.values() for b in blocks_of(make()).values()}
    names = {f"{k.__module__}.{k.__qualname__}".partition("models.")[2] for k in kinds}
    rest = {path.rpartition(".")[2].removesuffix("Router") for path in set(ROUTINGS) - names}
    assert {name.removesuffix("TopK").removesuffix("Topk") for name in rest} == set(MORE_MIXTURES)


@pytest.mark.parametrize(
    ("method", "budget", "options"),
    [
        ("router-random", HALF, {"scope": "token", "seed": 3}),
        ("router-threshold", None, {"level": 0.9}),
        ("router-threshold", natsel.live_populations.Held(2), {"level": 0.5, "floor": 2}),
    ],
)
def test_every_method_equals_its_mask(mixtral, method, budget, options):
    told = prove(mixtral, method, budget, token_ids(), **options)
    assert told.passed, told
    assert told.effect > 1e-4


def test_a_proof_fails_where_the_weights_are_wrong(mixtral, monkeypatch):
    path = "mixtral.modeling_mixtral.MixtralTopKRouter"
    wrong = ROUTINGS[path]._replace(renormalizes=lambda _: False)
    monkeypatch.setitem(ROUTINGS, path, wrong)
    told = prove(mixtral, "router", HALF, token_ids())
    assert not told.passed


@pytest.fixture(scope="module")
def mixtral():
    return MIXTURES["mixtral"]()


def test_by_hand_the_fittest_two_share_what_all_four_had(mixtral):
    block = mixtral.model.layers[0].mlp
    x = torch.randn(1, 3, 16)
    seen = {}
    handle = block.experts.register_forward_hook(lambda *a: seen.update(out=a[2]), prepend=False)
    with natsel.live(mixtral, "router", HALF, scope="token"), torch.no_grad():
        found = block(x)
    handle.remove()
    logits = F.linear(x[0], block.gate.weight)
    shares, numbers = logits.softmax(-1).topk(2)
    shares = shares / shares.sum(-1, keepdim=True)
    want = torch.zeros(3, 16)
    for token in range(3):
        for share, number in zip(shares[token], numbers[token], strict=True):
            gate, up = F.linear(x[0, token], block.experts.gate_up_proj[number]).chunk(2)
            want[token] += share * F.linear(F.silu(gate) * up, block.experts.down_proj[number])
    torch.testing.assert_close(found[0], want)


def test_counts_are_exact_over_the_tokens_of_a_call_without_padding(mixtral):
    ids, mask = token_ids(), torch.ones(2, 9)
    mask[1, :4] = 0
    real = mask.bool().flatten()
    with natsel.live(mixtral, "router", natsel.Sparsity(0.3)) as handle:
        mixtral(ids, attention_mask=mask)
    assert handle.num_seen == 2 * 14 * 4
    assert handle.num_held == 2 * (14 * 4 - natsel.Sparsity(0.3).count(14 * 4))
    for layer in handle.layers:
        held = handle.held(layer)
        assert held.min() == 1
        assert len(held[real].unique()) > 1  # adaptive
        assert (held[~real] == 1).all()
        assert (handle.experts(layer) >= 0).sum(-1).equal(held)
    assert repr(handle) == "LiveExperts(router: 78 of 112 choices, 69.6%)"


def test_a_row_beside_padding_holds_what_it_would_hold_alone(mixtral):
    ids, mask = token_ids(), torch.ones(2, 9)
    mask[1] = 0
    mask[1, 8] = 1
    with natsel.live(mixtral, "router-threshold", level=0.8) as handle:
        mixtral(ids, attention_mask=mask)
        both = handle.held(1)[:9]
        mixtral(ids[:1])
        assert handle.held(1).equal(both)


def test_each_token_keeps_the_same_count_as_tokens_come_one_by_one(mixtral):
    with natsel.live(mixtral, "router", natsel.live_populations.Held(3), scope="token") as handle:
        mixtral.generate(token_ids(1, 5), max_new_tokens=3, do_sample=False)
        assert handle.held(0).tolist() == [3]


def test_a_threshold_is_relative_to_the_fittest(mixtral):
    weights = torch.tensor([[0.5, 0.26, 0.24], [0.4, 0.35, 0.25]])
    none, tokens = torch.zeros(2, 0), torch.ones(2, dtype=torch.bool)
    choices = Choices(weights, torch.tensor([[0, 1, 2], [5, 4, 3]]), none, tokens)
    below = natsel.live_populations.EXPERT_METHODS["router-threshold"].extinct
    assert below(choices, level=0.5).tolist() == [[False, False, True], [False, False, False]]


def test_a_token_keeps_its_floor_before_another_keeps_more():
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0], [4.0, 1.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]])
    kept = survivors_of_call(scores, YES, torch.tensor([True, True, False]), 5, 2)
    assert kept.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 1], [1, 1, 0, 0]]


def test_nothing_changes_at_share_0_and_nothing_stays_behind(mixtral):
    ids = token_ids()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in mixtral.modules()]
    with torch.no_grad():
        whole = mixtral(ids).logits
        with natsel.live(mixtral, "router", natsel.Sparsity(0.0)):
            assert torch.equal(mixtral(ids).logits, whole)
        handle = natsel.live(mixtral, "router", HALF)
        assert not torch.equal(mixtral(ids).logits, whole)
        handle.close()
        handle.close()
        assert handle.is_closed
        assert torch.equal(mixtral(ids).logits, whole)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in mixtral.modules()]


def test_every_implementation_of_experts_computes_fewer(mixtral):
    ids, found, rows = token_ids(), {}, {}
    experts = mixtral.model.layers[0].mlp.experts
    handle = experts.register_forward_pre_hook(lambda _, args: rows.update(now=args[0]))
    with natsel.live(mixtral, "router", HALF), torch.no_grad():
        for name in ("eager", "batched_mm", "grouped_mm"):
            mixtral.set_experts_implementation(name)
            found[name] = mixtral(ids).logits
        seen = experts.register_forward_pre_hook(lambda _, args: rows.update(now=args[0]))
        mixtral(ids)
        seen.remove()
    handle.remove()
    assert len(rows["now"]) == 2 * 9 * 4 // 2  # tokens times what each keeps on average
    for logits in found.values():
        torch.testing.assert_close(logits, found["eager"])


def test_gradients_flow_to_those_who_stay(mixtral):
    with natsel.live(mixtral, "router", HALF, scope="token"):
        mixtral(token_ids()).logits.sum().backward()
    assert mixtral.model.layers[0].mlp.gate.weight.grad.abs().sum() > 0
    mixtral.zero_grad()


def test_a_method_of_ones_own_sees_the_choices(mixtral):
    def last(choices):
        assert choices.hidden_states.shape == (18, 16)
        torch.testing.assert_close(choices.shares.sum(-1), torch.ones(18))
        return choices.experts.float()

    method = ExpertMethod("last", last)
    with natsel.live(mixtral, method, HALF, scope="token") as handle:
        mixtral(token_ids())
    kept = handle.experts(0)
    assert ((kept >= 0).sum(-1) == 2).all()
    assert (kept.amax(-1) == handle._session.records[0].experts.amax(-1)).all()


def test_caches_and_experts_thin_together(mixtral):
    with (
        natsel.live(mixtral, "newest", natsel.live_populations.Held(6), sinks=0) as cache,
        natsel.live(mixtral, "router", HALF) as experts,
    ):
        mixtral(token_ids())
    assert cache.held(0).tolist() == [[6, 6], [6, 6]]
    assert experts.num_held == 2 * 36


@pytest.mark.parametrize(
    ("method", "budget", "options", "told"),
    [
        ("router", natsel.Sparsity(0.8), {}, "leaves each token its floor of 1: layer 0 chooses 4"),
        ("router", HALF, {"floor": 3}, "leaves each token its floor of 3"),
        ("router", HALF, {"floor": 5}, "floor=5 is not allowed: expected at most 4"),
        ("router", HALF, {"scope": "head"}, "scope='head'"),
        ("router", HALF, {"sinks": 2}, "sinks=2.*an argument for a cache"),
        ("router", HALF, {"merge": True}, "merge=True.*an argument for a cache"),
        ("router", None, {}, "a budget"),
        ("router", natsel.live_populations.Bytes(99), {}, "natsel.Sparsity.*natsel.Held"),
        ("router", HALF, {"level": 1}, "no option"),
        ("newest", HALF, {"scope": "token"}, "scope='token'"),
        (ExpertMethod("x", lambda c: c.weights[:1]), HALF, {}, "scores of shape"),
    ],
)
def test_what_is_not_allowed_is_named(mixtral, method, budget, options, told):
    with pytest.raises(ValueError, match=told), natsel.live(mixtral, method, budget, **options):
        mixtral(token_ids())
    assert not mixtral.model.layers[0].mlp.experts._forward_hooks


def test_two_methods_and_unknown_models_are_refused(mixtral):
    with natsel.live(mixtral, "router", HALF), pytest.raises(ValueError, match=r"close.*'router'"):
        natsel.live(mixtral, "router-random", HALF)
    with pytest.raises(ValueError, match=r"a router that is known: .*DeepSeek"):
        natsel.live(torch.nn.Linear(2, 2), "router", HALF)


def test_a_router_that_is_not_known_is_refused_by_its_place(mixtral):
    block = mixtral.model.layers[1].mlp
    router = block.gate
    block.gate = torch.nn.Linear(16, 8)
    with pytest.raises(ValueError, match=r"model.layers.1.mlp has Linear, MixtralExperts"):
        natsel.live(mixtral, "router", HALF)
    block.gate = router
    assert len(blocks_of(mixtral)) == 2


def test_experts_that_are_not_called_are_refused(mixtral, monkeypatch):
    """A kernel may take the place of a whole block: then nothing would have left."""
    monkeypatch.setattr(mixtral.model.layers[1].mlp, "forward", lambda x: x)
    with (
        natsel.live(mixtral, "router", HALF),
        pytest.raises(ValueError, match="those of layer 1 were not"),
    ):
        mixtral(token_ids())
