"""A last layer apart: the loss and its gradient are those of all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from natsel.quality.head import head_of, headless, through_head
from natsel.recovery.losses import divergence, surprise


def measure_of(teacher, labels):
    def measure(logits, rows):
        kl = divergence(logits, teacher[rows]).sum()
        ce = surprise(logits, labels[rows]).sum()
        return kl + 0.5 * ce, torch.stack([kl.detach(), ce.detach()])

    return measure


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [1, 3, 4, 11, 100])
def test_chunks_give_the_loss_and_the_gradient_of_the_whole(size, bias):
    torch.manual_seed(0)
    head = nn.Linear(5, 9, bias=bias).double()
    hidden = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(11, 9, dtype=torch.float64)
    measure = measure_of(teacher, torch.randint(0, 9, (11,)))
    whole, told = measure(head(hidden), slice(0, 11))
    leaves = [hidden, *head.parameters()]
    wanted = torch.autograd.grad(3.0 * whole, leaves)
    loss, seen = through_head(hidden, head, measure, size=size)
    found = torch.autograd.grad(3.0 * loss, leaves)
    assert torch.allclose(loss, whole, rtol=1e-13)
    assert torch.allclose(seen, told, rtol=1e-13)
    for mine, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-14)


def test_a_frozen_head_gets_no_gradient_and_hands_it_on():
    torch.manual_seed(0)
    head = nn.Linear(5, 9).requires_grad_(False)
    hidden = torch.randn(4, 5, requires_grad=True)
    measure = measure_of(torch.randn(4, 9), torch.randint(0, 9, (4,)))
    loss, _ = through_head(hidden, head, measure, size=2)
    loss.backward()
    assert head.weight.grad is None
    (wanted,) = torch.autograd.grad(measure(head(hidden), slice(0, 4))[0], hidden)
    assert torch.allclose(hidden.grad, wanted, rtol=1e-5, atol=1e-7)


def test_no_more_logits_than_a_chunk_are_there_at_once():
    seen = []

    def measure(logits, rows):
        seen.append((len(logits), rows.start))
        return logits.sum(), logits.detach().sum()

    through_head(torch.ones(7, 2), nn.Linear(2, 3), measure, size=3)
    assert seen == [(3, 0), (3, 3), (1, 6)]


class Scaled(nn.Module):
    """Something follows the last layer."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.body(x)) / 2


class Twice(Scaled):
    """The last layer is not only the last."""

    def forward(self, x):
        self.head(self.body(x))
        return self.head(self.body(x))


def test_a_head_is_the_linear_layer_whose_output_is_returned_as_it_is():
    x = torch.zeros(1, 3)
    plain = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    assert head_of(plain, (x,)) == "1"
    assert head_of(Scaled(), (x,)) is None
    assert head_of(Twice(), (x,)) is None
    plain[1].register_forward_hook(lambda *_: None)
    assert head_of(plain, (x,)) is None


def test_without_its_head_a_model_returns_what_enters_it_for_a_while():
    plain = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    x = torch.randn(2, 3)
    before = plain(x)
    with headless(plain, "1"):
        assert torch.equal(plain(x), plain[0](x))
    assert torch.equal(plain(x), before)
    assert "forward" not in vars(plain[1])
