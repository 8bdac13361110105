"""A Conv1D of the transformers library is the Linear whose weight it holds transposed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import natsel

WIDTH, HIDDEN = 8, 12
X = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(3)) * torch.linspace(
    0.2, 3, WIDTH
)
DATA = [(X, torch.arange(40) % 3)]


def pair():
    """Return a network of Conv1D, and the same one of Linear."""
    pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    sizes = ((WIDTH, HIDDEN), (HIDDEN, WIDTH), (WIDTH, 3))
    theirs = [nn.Linear(n, m) for n, m in sizes]
    mine = [Conv1D(m, n) for n, m in sizes]
    with torch.no_grad():
        for linear, turned in zip(theirs, mine, strict=True):
            turned.weight.copy_(linear.weight.T)
            turned.bias.copy_(linear.bias)
    return [nn.Sequential(a, nn.GELU(), b, nn.GELU(), c) for a, b, c in (mine, theirs)]


WAYS = {
    "row": (natsel.Sparsity(0.4), {"scope": "row"}),
    "community": (natsel.Sparsity(0.4), {}),
    "global": (natsel.Sparsity(0.4), {"scope": "global", "normalize": None}),
    "2:4": (natsel.NM(2, 4), {}),
    "blocks": (natsel.Blocks(0.5, (1, 4)), {}),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scorer", ["magnitude", "wanda", "taylor"])
def test_the_same_weights_survive(scorer, way, packed):
    budget, options = WAYS[way]
    data = None if scorer == "magnitude" else DATA
    turned, plain = (
        natsel.select(
            natsel.weights(model, scorer=scorer, data=data), budget, packed=packed, **options
        )
        for model in pair()
    )
    assert list(turned) == list(plain) == ["0.weight", "2.weight", "4.weight"]
    for name, mask in plain.items():
        assert 0 < int(mask.sum()) < mask.numel()
        assert torch.equal(turned[name], mask.T)


def test_they_are_zeroed_and_held_where_they_are():
    model, plain = pair()
    masks = natsel.select(natsel.weights(model), natsel.NM(2, 4))
    natsel.zero_(model, masks)
    weights = natsel.weights(plain)
    natsel.zero_(weights, natsel.select(weights, natsel.NM(2, 4)))
    torch.testing.assert_close(model(X), plain(X))
    groups = model[0].weight.T.reshape(HIDDEN, -1, 4)
    assert bool(((groups != 0).sum(-1) == 2).all())


@pytest.mark.parametrize("scorer", ["obs", "admm", "wanda", "magnitude"])
@pytest.mark.parametrize("budget", [natsel.Sparsity(0.5), natsel.NM(2, 4)])
def test_sparsify_gives_the_same_function(scorer, budget):
    turned, plain = (natsel.sparsify(model, budget, data=DATA, scorer=scorer) for model in pair())
    for name, mask in plain.masks.items():
        assert torch.equal(turned.masks[name], mask.T)
    torch.testing.assert_close(turned.model(X), plain.model(X), rtol=1e-4, atol=1e-5)


def test_gpt2_gives_its_blocks():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    found = natsel.weights(transformers.GPT2LMHeadModel(config), include="transformer.h.*")
    assert [name.rsplit(".", 2)[1] for name in found] == ["c_attn", "c_proj", "c_fc", "c_proj"]
    assert found.turned == set(found)
