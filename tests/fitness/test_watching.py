"""What is watched where: tied weights at the module that reads, and what cannot be watched."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import natsel
from natsel.fitness import FITNESS
from natsel.fitness.parts import readers_of, watchable, weight_axis

WITH_STATISTIC = sorted(n for n, f in FITNESS.items() if f.statistic)


def tiny_llama(*, tied=True):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def llama():
    model = tiny_llama()
    ids = torch.randint(40, (3, 7), generator=torch.Generator().manual_seed(1))
    return model, natsel.discover(model, {"input_ids": ids}, residual=True), ids


def entering(model, ids):
    """Return what enters every Linear, as rows in float64, by the module's path."""
    found = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: found.update({name: args[0].flatten(0, 1).double()})
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return found


def residual_readers(model):
    return {
        name: module.weight.detach().double()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith(("o_proj", "down_proj"))
    }


def test_a_tied_embedding_is_watched_at_the_head_that_reads_it(llama):
    model, communities, ids = llama
    rows, weights = entering(model, ids), residual_readers(model)
    assert "lm_head" in weights
    data = [{"input_ids": ids}]
    expected = {
        "wanda": sum(w.abs().sum(0) * rows[n].square().mean(0).sqrt() for n, w in weights.items()),
        "variance": sum(rows[n].var(0, correction=0) for n in weights),
        "contribution": sum(
            w.square().sum(0) * rows[n].var(0, correction=0) for n, w in weights.items()
        ).sqrt(),
    }
    for scorer, value in expected.items():
        found = natsel.score(communities, scorer, data=data)["model.embed_tokens"]
        torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=0)


def test_joint_knows_the_head_of_a_tied_embedding(llama):
    model, communities, ids = llama
    rows, weights = entering(model, ids), residual_readers(model)
    g = sum((w.T @ w) * (rows[n].T @ rows[n]) / len(rows[n]) for n, w in weights.items())
    left, order = set(range(16)), []
    while left:
        cost = {i: g[i, i] + 2 * sum(g[i, j] for j in order) for i in left}
        order.append(min(cost, key=lambda i: float(cost[i])))
        left.remove(order[-1])
    found = natsel.score(communities, "joint", data=[{"input_ids": ids}])["model.embed_tokens"]
    assert found.argsort().tolist() == order


def test_tied_or_not_the_same_numbers_are_read(llama):
    model, communities, ids = llama
    untied = tiny_llama(tied=False)
    untied.load_state_dict(model.state_dict())
    others = natsel.discover(untied, {"input_ids": ids}, residual=True)
    for scorer in WITH_STATISTIC:
        ours, theirs = (natsel.score(c, scorer, data=[(ids,)]) for c in (communities, others))
        assert list(ours) == list(communities)
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name])


class Twice(nn.Module):
    """Two modules read different things by one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 2)
        self.c.weight = self.b.weight

    def forward(self, x):
        hidden = self.a(x).relu()
        return self.b(hidden) + self.c(2 * hidden)


def test_a_weight_that_two_modules_read_by_is_watched_at_both():
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(5, 3)
    found = natsel.score(natsel.discover(model, x), "wanda", data=[(x,)])["a"]
    hidden = model.a(x).relu().detach()
    both = torch.cat([hidden, 2 * hidden]).square().mean(0).sqrt()
    torch.testing.assert_close(found, model.b.weight.detach().abs().sum(0) * both)


class Mixed(nn.Module):
    """Heads that are read where nothing is seen to enter, beside neurons that can be watched."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.down(self.up(x + self.attention(x, x, x)[0]).relu())


@pytest.mark.parametrize("scorer", WITH_STATISTIC)
def test_one_community_that_cannot_be_watched_leaves_the_others_their_scores(scorer):
    torch.manual_seed(0)
    model, x = Mixed(), torch.randn(2, 5, 4)
    communities = natsel.discover(model, x)
    assert set(communities) == {"attention", "up"}
    with pytest.warns(UserWarning, match=rf"^scorer='{scorer}' tells nothing of 1 community: att"):
        scores = natsel.score(communities, scorer, data=[(x,)])
    assert list(scores) == ["up"]
    survivors = natsel.select(scores, natsel.Sparsity(0.5))
    small = natsel.extract(model, survivors)
    assert small.up.out_features == 4
    assert small.attention.embed_dim == 4
    assert natsel.verify(model, small, survivors, x).passed


def test_an_audit_compares_what_all_scorers_tell_of():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4)
    communities = natsel.discover(Mixed(), x)
    with pytest.warns(UserWarning, match="tells nothing of 1 community: attention"):
        found = natsel.audit(communities, ["magnitude", "wanda"], [0.5], data=[(x,)])
    assert found.scorers == ("magnitude", "wanda")


class HalfSeen(nn.Module):
    """The same neurons are read by a Linear and by a bare parameter."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)
        self.bare = nn.Parameter(torch.randn(6, 3))

    def forward(self, x):
        hidden = self.up(x).relu()
        return self.down(hidden) + hidden @ self.bare


def test_of_several_consumers_those_that_can_be_watched_tell():
    torch.manual_seed(0)
    model, x = HalfSeen(), torch.randn(5, 4)
    communities = natsel.discover(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = natsel.score(communities, "wanda", data=[(x,)])["up"]
    hidden = model.up(x).relu().detach()
    alone = model.down.weight.detach().abs().sum(0) * hidden.square().mean(0).sqrt()
    torch.testing.assert_close(found, alone)


def test_typos_stay_errors(llama):
    _, communities, ids = llama
    with pytest.raises(ValueError, match=r"did you mean 'wanda'"):
        natsel.score(communities, "wandaa", data=[(ids,)])


def test_where_each_module_reads():
    assert weight_axis(nn.Conv2d(2, 3, 1)) == 1
    assert weight_axis(nn.Conv2d(2, 2, 1, groups=2)) is None
    from transformers.pytorch_utils import Conv1D

    assert weight_axis(Conv1D(3, 2)) == 0


def test_a_copied_model_has_its_own_readers(llama):
    model, communities, _ = llama
    key = ("model.embed_tokens.weight", 1)
    assert readers_of(communities)[key] == [model.lm_head]
    assert watchable(communities, asked="") is communities
    copied = copy.deepcopy(model)
    assert copied.lm_head.weight is copied.model.embed_tokens.weight
