"""A state that a model makes for all layers at once, of layers that have become narrow."""

import copy

import pytest
import torch
import transformers

import natsel
from natsel_bench.peers.reference import distinct_
from natsel_bench.zoo.uses import generate

KEEP = {"rwkv.blocks.0.attention.key": 5, "rwkv.blocks.1.attention.key": 9}


@pytest.fixture(scope="module")
def pruned():
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "context_length": 32}
    model = transformers.RwkvForCausalLM(transformers.RwkvConfig(**sizes)).eval()
    distinct_(model, seed=0)
    dense = copy.deepcopy(model)
    tokens = torch.randint(40, (2, 6))
    model(tokens)  # the first run divides the weights of deep layers, once and for all
    communities = natsel.discover(model, tokens)
    survivors = {n: torch.arange(communities[n].size) >= 16 - k for n, k in KEEP.items()}
    return dense, natsel.extract(model, natsel.Survivors(survivors, communities))


def test_with_a_state_and_without_it_is_the_masked_model(pruned):
    dense, small = (copy.deepcopy(x).double() for x in pruned)
    for i, (name, keep) in enumerate(KEEP.items()):
        dense.get_submodule(name.replace("key", "output")).weight.data[:, : 16 - keep] = 0
        assert small.rwkv.blocks[i].attention.key.weight.shape == (keep, 16)
        assert small.rwkv.blocks[i].attention.attention_hidden_size == keep
    tokens = torch.randint(40, (3, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = copy.deepcopy(pruned[0]).double()(tokens, use_cache=False).logits
        plain = dense(tokens, use_cache=False).logits
        torch.testing.assert_close(small(tokens, use_cache=False).logits, plain)
        first = small(tokens[:, :4], use_cache=True)
        rest = small(tokens[:, 4:], state=first.state, use_cache=True)
    # The model keeps its state in float32.
    found = torch.cat([first.logits, rest.logits], 1)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
    assert float((found - whole).abs().max()) > 1e-2


def test_it_generates(pruned):
    assert generate(*pruned, (torch.arange(8).reshape(2, 4),)) == "ok"
