"""The scorer "auto": each kind in the order of its own signal, all in losses per parameter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import natsel
from natsel.features.scorers import default_scorer, find_scorer, reads_data
from natsel.fitness.auto import arranged, default_signal


@pytest.fixture(scope="module")
def language_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    batches = [{"input_ids": x, "labels": x} for x in torch.randint(16, (3, 2, 8))]
    return natsel.discover(model, {"input_ids": batches[0]["input_ids"][:1]}), batches


def test_each_kind_is_ordered_by_its_own_signal_and_sized_by_the_loss(language_model):
    communities, batches = language_model
    found = natsel.score(communities, "auto", data=iter(batches))
    signals = ("joint", "obs", "fisher")
    alone = {name: natsel.score(communities, name, data=batches) for name in signals}
    assert {c.kind for c in communities.values()} == {"head", "neuron"}
    for name, community in communities.items():
        own = {"head": "joint", "neuron": "obs"}[community.kind]
        assert default_signal(community.kind) == own
        assert found[name].argsort().tolist() == alone[own][name].argsort().tolist()
        sizes = alone["fisher"][name].sort().values / community.cost.parameters
        assert torch.allclose(found[name].sort().values, sizes, rtol=2e-3)
    assert found.communities is communities


def test_without_labels_the_activations_order_all(language_model):
    communities, batches = language_model
    unlabelled = [{"input_ids": b["input_ids"]} for b in batches]
    found = natsel.score(communities, "auto", data=unlabelled)
    for name, value in found.items():
        own = natsel.score(
            communities.only(communities[name].kind),
            default_signal(communities[name].kind),
            data=unlabelled,
        )
        assert value.argsort().tolist() == own[name].argsort().tolist()


def test_consumers_that_cannot_be_watched_leave_the_loss():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.Linear(4, 8), layer, nn.Flatten(), nn.Linear(24, 3))
    batches = [(torch.randn(2, 3, 4), torch.tensor([0, 2]))]
    communities = natsel.discover(model, (batches[0][0],))
    found = natsel.score(communities, "auto", data=batches)
    assert list(found) == list(communities)
    assert all(torch.isfinite(v).all() for v in found.values())


def test_data_are_needed_and_may_not_be_empty(language_model):
    communities, _ = language_model
    with pytest.raises(ValueError, match=r"data=None.*'auto' reads them"):
        natsel.score(communities, "auto")
    with pytest.raises(ValueError, match="at least one batch"):
        natsel.score(communities, "auto", data=[])


def test_under_a_cost_of_the_whole_model_what_matters_least_for_its_size_goes(language_model):
    communities, batches = language_model
    model, inputs = communities.model, communities.example_inputs
    budget = natsel.Parameters(0.85)
    options = {"data": batches, "compensate": False}
    pruned = natsel.prune(model, inputs, budget, **options)
    scores = natsel.score(communities, "auto", data=batches)
    expected = natsel.select(scores, budget, scope="global", normalize=None)
    assert all(torch.equal(m, expected[n]) for n, m in pruned.survivors.items())
    shares = natsel.prune(model, inputs, natsel.Sparsity(0.5), **options).survivors
    assert {round(float(m.double().mean()), 2) for m in shares.values()} == {0.5}


def test_the_name_is_known_and_images_keep_their_default():
    assert find_scorer("auto") is None
    assert reads_data("auto")
    assert default_scorer(language=True, has_data=True) == "auto"
    assert default_scorer(language=True, has_data=False) == "magnitude"
    assert default_scorer(language=False, has_data=True) == "magnitude"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_arranged_sizes_have_the_order_and_no_two_are_equal(pairs):
    sizes, order = (torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True))
    found = arranged(sizes, order)
    assert found.argsort(stable=True).tolist() == order.argsort(stable=True).tolist()
    assert torch.allclose(found.sort().values, sizes.sort().values, rtol=2e-3, atol=1e-5)
    if bool(sizes.any()):
        assert found.unique().numel() == len(pairs)
