"""Where a sample has many labels, the loss of each sample decides, and a tie is said to be one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import natsel
from natsel.adaptive.adaptive import adapt
from natsel.adaptive.arena import Arena
from natsel.adaptive.race import race
from natsel.common.calls import IGNORED
from natsel.common.paired import sign_flips
from natsel.communities.surgery.surgery import silence

FINITE = st.integers(-40, 40).map(lambda number: number / 4)


def vectors(least: int = 1, most: int = 12) -> st.SearchStrategy[list[float]]:
    return st.lists(FINITE, min_size=least, max_size=most)


def tokens(count: int = 40, length: int = 12, seed: int = 0) -> Tensor:
    """Windows in which each token is three more than the one before, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(16, (count, 1), generator=generator)
    x = (start + 3 * torch.arange(length)) % 16
    noise = torch.rand(count, length, generator=generator) < 0.1
    return torch.where(noise, torch.randint(16, (count, length), generator=generator), x)


def language_model(seed: int = 0) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=32,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def taught() -> tuple[natsel.Communities, Tensor]:
    """A language model with neurons that weigh much and say nothing: magnitude keeps those."""
    model, x = language_model(), tokens()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(input_ids=x, labels=x).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate_proj.weight[12:] *= 50
            layer.mlp.up_proj.weight[12:] *= 50
            layer.mlp.down_proj.weight[:, 12:] = 1e-9
    return natsel.discover(model, {"input_ids": x[:1]}), tokens(seed=1)


@settings(max_examples=40, deadline=None)
@given(vectors(2, 9))
def test_the_test_of_differences_is_that_of_scipy(step: list[float]) -> None:
    difference = torch.tensor(step, dtype=torch.float64)
    found = sign_flips(difference, torch.zeros_like(difference))
    assert found.difference == pytest.approx(float(difference.mean()), abs=1e-12)
    if not bool(difference.any()):
        assert (found.p_value, found.p_better) == (1.0, 1.0)
        return
    theirs = stats.permutation_test(
        (difference.numpy(), torch.zeros_like(difference).numpy()),
        lambda a, b, axis: (a - b).mean(axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=math.inf,
    ).pvalue
    assert found.p_better == pytest.approx(theirs, abs=1e-12)
    assert 2 ** -len(step) <= found.p_better <= 1
    assert found.low <= found.difference + 1e-12
    assert found.difference <= found.high + 1e-12


@settings(max_examples=25, deadline=None)
@given(vectors(1, 40))
def test_equal_losses_are_a_tie_and_the_two_sides_mirror_each_other(one: list[float]) -> None:
    x = torch.tensor(one, dtype=torch.float64)
    assert sign_flips(x, x) == (0.0, 0.0, 0.0, 1.0, 1.0, len(one))
    y = x.flip(0)
    forth, back = sign_flips(x, y), sign_flips(y, x)
    assert forth.p_value == back.p_value
    assert forth.difference == -back.difference


def test_the_level_holds_for_few_windows_with_heavy_tails() -> None:
    """Student's t with two degrees of freedom has no variance; 5 % errors are 5 % errors."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(600, 10, generator=generator, dtype=torch.float64)
    chi = torch.randn(600, 10, 2, generator=generator, dtype=torch.float64).square().sum(2)
    rows = normal / (chi / 2).sqrt()
    p = [sign_flips(row, torch.zeros(10)).p_better for row in rows]
    wrong = sum(v < 0.05 for v in p)
    # Binomial with 600 trials and 0.05: beyond 47 in one of a thousand cases.
    assert 15 < wrong < 48


def test_many_windows_are_drawn_alike_each_time_and_never_prove_more_than_they_can() -> None:
    x = torch.linspace(0.5, 1.5, 200, dtype=torch.float64)
    found = sign_flips(x, torch.zeros(200))
    assert found == sign_flips(x, torch.zeros(200))
    assert found.p_better == 1 / 10_000
    half = 1.96 * float(x.std()) / math.sqrt(200)
    assert found.low == pytest.approx(1 - half, abs=0.02)
    assert found.high == pytest.approx(1 + half, abs=0.02)


def test_a_window_is_worth_minus_its_mean_loss(taught: tuple[natsel.Communities, Tensor]) -> None:
    communities, x = taught
    labels = torch.cat((x[:, 1:], torch.full((len(x), 1), IGNORED)), 1)
    labels[0, 3:] = IGNORED
    arena = Arena(communities, {"input_ids": x}, labels)
    assert arena.measure == "loss"
    survivors = natsel.select(natsel.score(communities, "l1"), natsel.Sparsity(0.25))
    masked = silence(communities.model, communities.values(), survivors)
    with torch.no_grad():
        logits = masked(input_ids=x).logits
    each = torch.nn.functional.cross_entropy(logits.mT, labels, reduction="none").double()
    expected = -each.sum(1) / (labels != IGNORED).sum(1)
    assert torch.allclose(arena.values(survivors), expected, atol=1e-5)
    arena.values(survivors, 10)
    assert arena.num_images == len(x)
    with pytest.raises(ValueError, match=r"several a sample \(loss\)"):
        arena.correct(survivors)


def test_without_labels_places_agree_with_the_dense_model_and_padding_does_not_count(
    taught: tuple[natsel.Communities, Tensor],
) -> None:
    communities, x = taught
    mask = torch.ones_like(x)
    mask[:, 8:] = 0
    arena = Arena(communities, {"input_ids": x, "attention_mask": mask})
    assert arena.measure == "agreement"
    assert torch.equal(arena.values(communities.full()), torch.ones(len(x), dtype=torch.float64))
    survivors = natsel.select(natsel.score(communities, "l1"), natsel.Sparsity(0.5))
    assert bool((arena.values(survivors) * 8 % 1 == 0).all())


def test_a_race_on_losses_stops_the_worse_early(taught: tuple[natsel.Communities, Tensor]) -> None:
    communities, x = taught
    labels = torch.cat((x[:, 1:], torch.full((len(x), 1), IGNORED)), 1)
    generator = torch.Generator().manual_seed(0)
    candidates = []
    for _ in range(8):
        scores = {n: torch.rand(c.size, generator=generator) for n, c in communities.items()}
        candidates.append(natsel.select(scores, natsel.Sparsity(0.25)))
    arena = Arena(communities, {"input_ids": x}, labels)
    values = race(arena, candidates, candidates[0])
    plain = [Arena(communities, {"input_ids": x}, labels).value(c) for c in candidates]
    top = int(values.argmax())
    assert values[top].item() == pytest.approx(plain[top])
    assert plain[top] >= sorted(plain)[-3]
    assert int(torch.tensor(plain).argmin()) != top
    assert arena.num_images < 8 * len(x) * 0.7


def test_adapt_decides_on_the_loss_of_windows(taught: tuple[natsel.Communities, Tensor]) -> None:
    communities, x = taught
    found = adapt(
        communities,
        natsel.Sparsity(0.5),
        data=[{"input_ids": x, "labels": x}],
        generator=torch.Generator().manual_seed(0),
        search=False,
        include="*mlp*",
    )
    assert found.measure == "loss"
    assert found.chosen.kind != "plateau"
    assert found.test.p_better < 0.05
    assert found.test.n == len(x) // 2
    assert "nats of loss per label" in found.sentence
    assert "beats the plateau: -" in found.sentence
    plain = found.plain()
    assert plain["test"]["name"].startswith("sign flips")
    losses = [c["loss"] for c in plain["contenders"]]
    assert losses == sorted(losses)
    assert losses[0] > 0


def test_a_tie_is_said_to_be_one(taught: tuple[natsel.Communities, Tensor]) -> None:
    communities, x = taught
    labels = torch.randint(16, x.shape, generator=torch.Generator().manual_seed(0))
    found = adapt(
        communities,
        natsel.Sparsity(0.05),
        {"input_ids": x},
        labels,
        generator=torch.Generator().manual_seed(0),
        search=False,
        level=1e-9,
    )
    assert found.chosen.kind == "plateau"
    assert "told apart from" in found.sentence
    assert "it won the race" not in found.sentence
    assert found.challenger.kind != "plateau"


def test_rightness_that_is_the_same_for_all_is_a_tie_too() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([0.0, 0.0, -1e6]))
    x = torch.randn(40, 2)
    found = adapt(
        natsel.discover(model, (x[:2],)),
        natsel.Sparsity(0.5),
        x,
        torch.full((40,), 2),
        generator=torch.Generator().manual_seed(0),
        search=False,
    )
    assert found.chosen.kind == "plateau"
    assert all(-1e-5 < c.value <= 0 for c in found.contenders)
    assert found.test.p_better == 1.0
    assert "no contender is told apart from it" in found.sentence
    assert "it won the race" not in found.sentence


def test_too_few_windows_are_refused(taught: tuple[natsel.Communities, Tensor]) -> None:
    communities, x = taught
    generator = torch.Generator()
    with pytest.raises(ValueError, match="at least 10"):
        adapt(
            communities,
            natsel.Sparsity(0.5),
            data=[{"input_ids": x[:9], "labels": x[:9]}],
            generator=generator,
        )
    nothing = torch.full_like(x, IGNORED)
    with pytest.raises(ValueError, match="no sample with a label"):
        adapt(communities, natsel.Sparsity(0.5), {"input_ids": x}, nothing, generator=generator)
