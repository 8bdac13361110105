"""What a student loses, against sums written out and against torch's own functions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from natsel.recovery import apart, divergence, surprise


def logits(seed, rows=5, words=7, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, words, generator=generator, dtype=torch.float64)


def test_a_divergence_by_hand():
    teacher = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    student = torch.log(torch.tensor([[0.25, 0.25, 0.5]]))
    # 0.5 log 2 + 0.25 log 1 + 0.25 log 1/2
    assert divergence(student, teacher).item() == pytest.approx(0.25 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_the_sum_over_words(temperature):
    student, teacher = logits(0), logits(1)
    wanted = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p = [math.exp(x / temperature) for x in t]
        q = [math.exp(x / temperature) for x in s]
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        terms = (a * math.log(a / b) for a, b in zip(p, q, strict=True))
        wanted.append(temperature**2 * math.fsum(terms))
    assert divergence(student, teacher, temperature).tolist() == pytest.approx(wanted, rel=1e-9)


def test_it_is_what_torch_calls_kl_div():
    student, teacher = logits(0), logits(1)
    wanted = F.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert torch.allclose(divergence(student, teacher), wanted, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_its_gradient_is_the_difference_of_the_distributions_times_the_temperature(temperature):
    student, teacher = logits(0).requires_grad_(), logits(1)
    divergence(student, teacher, temperature).sum().backward()
    q, p = (x.detach().div(temperature).softmax(-1) for x in (student, teacher))
    assert torch.allclose(student.grad, temperature * (q - p), rtol=1e-10, atol=1e-12)


def test_at_a_high_temperature_it_is_the_distance_of_the_centred_logits():
    student, teacher = logits(0), logits(1)
    gap = (student - teacher) - (student - teacher).mean(-1, keepdim=True)
    wanted = gap.square().sum(-1) / (2 * gap.shape[-1])
    assert torch.allclose(divergence(student, teacher, 1e4), wanted, rtol=1e-3)


@given(seed=st.integers(0, 999), shift=st.floats(-50, 50), temperature=st.floats(0.3, 10))
@settings(max_examples=40, deadline=None)
def test_it_is_never_negative_and_does_not_see_a_shift(seed, shift, temperature):
    student, teacher = logits(seed), logits(seed + 1000)
    found = divergence(student, teacher, temperature)
    assert bool((found > 0).all())
    assert torch.allclose(divergence(student + shift, teacher - shift, temperature), found)
    assert torch.allclose(
        divergence(teacher + shift, teacher, temperature), torch.zeros(5).double(), atol=1e-10
    )


def test_half_precision_is_compared_in_float32():
    student, teacher = logits(0).bfloat16(), logits(1).bfloat16()
    found = divergence(student, teacher)
    assert found.dtype == torch.float32
    assert torch.equal(found, divergence(student.float(), teacher.float()))


def test_surprise_is_minus_the_log_of_what_was_said_and_nothing_without_a_label():
    said = torch.log(torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]))
    found = surprise(said, torch.tensor([0, -100, 1]))
    assert found.tolist() == pytest.approx([math.log(2), 0.0, math.log(10)], rel=1e-6)


def test_hidden_states_are_apart_relative_to_the_teacher_at_each_place():
    teacher = torch.tensor([[[3.0, 4.0], [3000.0, 4000.0]]])
    student = torch.tensor([[[3.0, 9.0], [3000.0, 9000.0]]])
    assert apart(student, teacher).tolist() == [[1.0, 1.0]]
    assert apart(student[0], teacher[0]).tolist() == [1.0, 1.0]


def test_of_images_a_place_is_a_sample():
    teacher = torch.ones(2, 3, 4, 4)
    student = teacher.clone()
    student[1, :, 0, 0] = 3.0
    assert apart(student, teacher).tolist() == pytest.approx([0.0, 12 / 48])
