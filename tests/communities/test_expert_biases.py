"""Experts that have biases: they are taken by the number of the expert, and go with it."""

import pytest
import torch
import transformers

import natsel
from natsel_bench.peers.reference import distinct_
from natsel_bench.zoo.masked import difference, gone_from, in_float64, is_exact, masked, outputs

SIZES = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 32,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


@pytest.fixture(scope="module")
def communities():
    torch.manual_seed(0)
    model = transformers.GptOssForCausalLM(transformers.GptOssConfig(**SIZES)).eval()
    distinct_(model, seed=0)
    return natsel.discover(model, torch.randint(24, (2, 6)))


@pytest.mark.parametrize("dead", [[0], [3], [1, 2]])
def test_experts_of_gpt_oss(communities, dead):
    name = "model.layers.0.mlp"
    assert (communities[name].kind, communities[name].size) == ("expert", 4)
    alive = torch.ones(4, dtype=torch.bool)
    alive[dead] = False
    neurons = {
        n: torch.arange(c.size) % 3 > 0 for n, c in communities.items() if c.kind == "neuron"
    }
    survivors = natsel.Survivors({name: alive, **neurons}, communities)
    small = natsel.extract(communities.model, survivors)
    experts = small.get_submodule(name).experts
    left = 4 - len(dead)
    for tensor in experts.parameters():
        assert tensor.shape[0] == left
    assert small.get_submodule(name).router.bias.shape == (left,)
    tokens = (torch.randint(24, (3, 7), generator=torch.Generator().manual_seed(1)),)
    twin, closed = masked(communities.model, gone_from(communities.model, small))
    theirs = outputs(twin, tokens, closed=closed)
    before = outputs(in_float64(communities.model), tokens)
    assert is_exact(difference(outputs(in_float64(small), tokens), theirs, before))
