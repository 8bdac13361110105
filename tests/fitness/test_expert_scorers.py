"""REAP and its rivals against a loop over tokens, with what routers gave."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.mixtures import MIXTURES, token_ids

import natsel
from natsel.fitness import EXPERT_SCORERS
from natsel.fitness.experts.routed import sent_by


def answers(experts, number, x):
    """What one expert of one token answers, by hand."""
    gate, up = F.linear(x, experts.gate_up_proj[number]).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, experts.down_proj[number])


def by_hand(model, batches):
    """Counts, norms and weighted norms of each expert of the last layer, token by token."""
    block = model.model.layers[-1].mlp
    size = len(block.experts.gate_up_proj)
    counts, norms, weighted = (torch.zeros(size, dtype=torch.float64) for _ in range(3))
    seen = {}
    handles = [
        block.gate.register_forward_hook(lambda _, args, out: seen.update(chosen=out[1:])),
        block.experts.register_forward_pre_hook(lambda _, args: seen.update(x=args[0])),
    ]
    with torch.no_grad():
        for batch in batches:
            model(**batch)
            real = batch["attention_mask"].flatten().bool()
            weights, numbers = seen["chosen"]
            for token in real.nonzero().flatten().tolist():
                for weight, number in zip(weights[token], numbers[token], strict=True):
                    norm = float(answers(block.experts, int(number), seen["x"][token]).norm())
                    counts[number] += 1
                    norms[number] += norm
                    weighted[number] += float(weight) * norm
    for handle in handles:
        handle.remove()
    return counts, norms, weighted


def padded_batches():
    batches = [{"input_ids": token_ids(seed=seed)} for seed in range(2)]
    for batch in batches:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        batch["attention_mask"][1, 5:] = 0
    return batches


@pytest.mark.parametrize(
    "family",
    ["mixtral", "qwen2-moe", "qwen2-moe-normed", "qwen3-moe", "olmoe", "deepseek-v3"],
)
def test_what_routers_send_equals_a_loop_over_tokens(family):
    model, batches = MIXTURES[family](), padded_batches()
    sent = sent_by(model, {"last": model.model.layers[-1].mlp.experts}, batches)["last"]
    counts, norms, weighted = by_hand(model, batches)
    assert sent.num_tokens == 2 * (9 + 5)
    assert counts.sum() == 4 * sent.num_tokens
    assert torch.equal(sent.counts, counts)
    torch.testing.assert_close(sent.norms, norms, rtol=1e-5, atol=0)
    torch.testing.assert_close(sent.weighted, weighted, rtol=1e-5, atol=0)


@pytest.fixture(scope="module")
def mixtral():
    model = MIXTURES["mixtral"]()
    return natsel.discover(model, (token_ids(1, 5),))


def test_scores_are_means_over_those_who_were_sent(mixtral):
    batches = padded_batches()
    counts, norms, weighted = by_hand(mixtral.model, batches)
    experts = mixtral.only("expert")
    found = natsel.score_all(experts, list(EXPERT_SCORERS), data=batches)
    name = "model.layers.1.mlp"
    times = counts.clamp(min=1)
    want = {"reap": weighted / times, "frequency": counts / 28, "output-norm": norms / times}
    for scorer, values in want.items():
        torch.testing.assert_close(found[scorer][name], values.float(), rtol=1e-5, atol=0)
    assert set(found["reap"]) == set(experts)


def test_an_expert_that_gets_no_token_is_worth_nothing(mixtral):
    batch = {"input_ids": token_ids(1, 1), "attention_mask": torch.ones(1, 1)}
    scores = natsel.score(mixtral.only("expert"), "reap", data=[batch])["model.layers.1.mlp"]
    assert (scores > 0).sum() == 4
    assert (scores == 0).sum() == 4


def test_others_stay_whole_and_are_told(mixtral):
    with pytest.warns(UserWarning, match=r"says nothing of head.* communities.*'expert': 'reap'"):
        scores = natsel.score(mixtral, "reap", data=padded_batches())
    assert set(scores) == set(mixtral.only("expert"))


@pytest.mark.parametrize("scorer", list(EXPERT_SCORERS))
def test_experts_need_data(mixtral, scorer):
    with pytest.raises(ValueError, match=f"scorer '{scorer}' reads them"):
        natsel.score(mixtral.only("expert"), scorer)
    with pytest.raises(ValueError, match="at least one batch"):
        natsel.score(mixtral.only("expert"), scorer, data=[])


def test_what_has_no_experts_is_refused_by_name():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    communities = natsel.discover(model, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="scores experts alone, and none were found"):
        natsel.score(communities, "reap", data=[(torch.zeros(1, 3),)])


def check_half_goes(model):
    pruned = natsel.prune(
        model,
        (token_ids(1, 5),),
        natsel.Sparsity(0.5),
        scorer={"expert": "reap"},
        data=padded_batches(),
        include="*.mlp",
    )
    assert pruned.verification.passed
    for layer in pruned.small.model.layers:
        assert layer.mlp.gate.weight.shape[0] == layer.mlp.experts.down_proj.shape[0] == 4
    assert pruned.small(token_ids()).logits.shape == (2, 9, 64)


def test_half_of_the_experts_go_and_the_rest_is_proven(mixtral):
    check_half_goes(mixtral.model)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2-moe", "qwen2-moe-normed", "qwen3-moe", "olmoe"])
def test_half_of_the_experts_of_every_router_go(family):
    check_half_goes(MIXTURES[family]())
