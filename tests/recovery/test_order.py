"""Which samples a step reads, and how fast it learns, follow from the seed and its number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from natsel.recovery.order import chosen
from natsel.recovery.settings import usual


@given(size=st.integers(1, 13), batch=st.integers(1, 9), seed=st.integers(0, 2**63 - 1))
def test_each_pass_reads_every_sample_once(size, batch, seed):
    steps = 2 * math.ceil(size / batch) + 1
    read = torch.cat([chosen(step, batch, size, seed) for step in range(steps)])
    for start in range(0, len(read) - size + 1, size):
        assert sorted(read[start : start + size].tolist()) == list(range(size))


def test_a_step_does_not_need_those_before_it():
    late = chosen(5, 3, 7, seed=4)
    for step in range(5):
        chosen(step, 3, 7, seed=4)
    assert torch.equal(chosen(5, 3, 7, seed=4), late)


def test_seeds_and_passes_differ():
    first = chosen(0, 50, 50, seed=0)
    assert not torch.equal(first, chosen(0, 50, 50, seed=1))
    assert not torch.equal(first, chosen(1, 50, 50, seed=0))


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine():
    settings = usual(steps=10, warmup=0.2, learning_rate=1.0)
    found = [settings.rate(step) for step in range(10)]
    falling = [0.5 * (1 + math.cos(math.pi * (k + 0.5) / 8)) for k in range(8)]
    assert found == pytest.approx([0.5, 1.0, *falling])


def test_without_warm_up_it_only_falls():
    settings = usual(steps=3, warmup=0.0, learning_rate=2.0)
    assert [settings.rate(k) for k in range(3)] == pytest.approx(
        [1 + math.cos(math.pi / 6), 1.0, 1 - math.cos(math.pi / 6)]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("temperature", -1.0),
        ("kl", -0.1),
        ("warmup", 1.0),
        ("clip", 0.0),
        ("seed", -1),
        ("seed", 1.5),
        ("lora", 0),
        ("batch", True),
        ("autocast", "int8"),
    ],
)
def test_what_is_not_allowed_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}=.*is not allowed") as caught:
        usual(**{name: value})
    assert "\n" not in str(caught.value)


def test_a_loss_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"kl=0\.0, cross_entropy=0\.0, blocks=0\.0 are not"):
        usual(kl=0.0, cross_entropy=0.0, blocks=0.0)
