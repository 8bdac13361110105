"""Weights and inputs on which a wrong removal shows."""

import torch
from torch import nn

from natsel.communities.proof.loud import loud, loud_input, with_noise


def size(x):
    return float(x.detach().double().square().mean().sqrt())


def test_weights_are_brought_to_the_size_that_keeps_a_signal():
    layer = nn.Linear(100, 50, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.weight.mul_(1e-4)
        layer.bias.mul_(1e-4)
    copy = loud(layer, ())
    assert copy.weight.dtype == torch.float64
    torch.testing.assert_close(size(copy.weight), 0.1, rtol=1e-6, atol=0)
    torch.testing.assert_close(size(copy.bias), 1.0, rtol=1e-6, atol=0)
    # The values are the same but for their size.
    ratio = copy.weight / layer.weight.double()
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-12, atol=0)


def test_weights_that_have_the_size_stay():
    layer = nn.Linear(64, 8)
    assert torch.equal(loud(layer, ()).weight, layer.weight.double())


def test_what_is_constant_gets_noise():
    layer = nn.Linear(8, 8)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    copy = loud(layer, ())
    assert copy.weight.unique().numel() == 64
    assert bool((copy.bias >= 0.5).all())  # it may be a variance
    assert not bool(layer.weight.any())


def test_a_gate_that_starts_at_zero_is_opened():
    model = nn.Module()
    model.gate = nn.Parameter(torch.zeros(()))
    assert float(loud(model, ()).gate.detach()) > 0.5


def test_buffers_stay_unless_they_are_owned():
    norm = nn.BatchNorm1d(4)
    assert torch.equal(loud(norm, ()).running_var, torch.ones(4).double())
    owned = loud(norm, ("running_var",)).running_var
    assert owned.unique().numel() == 4
    assert loud(norm, ()).num_batches_tracked.dtype == torch.int64


def test_other_trials_have_other_values():
    layer = nn.Linear(8, 8)
    copies = [loud(layer, (), trial=n).weight for n in (1, 2, 2)]
    assert not torch.equal(copies[0], copies[1])
    assert torch.equal(copies[1], copies[2])


def test_a_large_model_shares_what_is_not_constant():
    model = nn.Sequential(nn.Linear(4, 4, dtype=torch.bfloat16), nn.LayerNorm(4))
    copy = with_noise(model, ())
    assert copy[0].weight is model[0].weight
    assert copy[1].weight is not model[1].weight
    assert copy[1].weight.unique().numel() == 4


def generator():
    return torch.Generator().manual_seed(0)


def test_inputs_differ_from_place_to_place():
    x = 0.001 * torch.randn(3, 7)
    assert 0.8 < size(loud_input(x, generator())) < 1.2
    assert loud_input(torch.zeros(3, 7), generator()).unique().numel() == 21


def test_masks_flags_and_whole_numbers_stay():
    for x in (
        torch.zeros(4, 4).masked_fill_(torch.eye(4).bool(), float("-inf")),
        torch.arange(20) % 7,
        torch.tensor([[1.0, 0.0]] * 9),
        torch.tensor(0.3),
        torch.full((3,), float("-inf")),
    ):
        assert loud_input(x, generator()) is x
