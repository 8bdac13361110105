"""The arena and what runs in it: masked accuracy, races, searches, the adaptive pruner."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import natsel
from natsel.adaptive.adaptive import adapt
from natsel.adaptive.arena import Arena, key_of
from natsel.adaptive.race import race
from natsel.adaptive.searching import search_allocation, search_weights
from natsel.common.calls import logits_of
from natsel.common.paired import mcnemar
from natsel.communities.surgery.surgery import silence
from natsel.features import feature_class, matrices
from natsel_bench.zoo import build_architecture


def problem(n: int = 400) -> tuple[natsel.Communities, Tensor, Tensor]:
    """A perceptron that solves a small problem with half of its neurons; the rest is loud noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    with torch.no_grad():
        model[0].weight.normal_(generator=generator)
        model[0].bias.zero_()
        model[2].weight.normal_(generator=generator)
        model[2].bias.zero_()
        # The neurons with the largest incoming weights are read with next to nothing.
        model[0].weight[8:] *= 5
        model[2].weight[:, 8:] *= 0.001
    labels = model(x).argmax(-1)
    return natsel.discover(model, (x[:2],)), x, labels


def random_survivors(communities: natsel.Communities, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, c in communities.items():
        alive = torch.rand(c.size, generator=generator) < 0.5
        alive[: c.minimum] = True
        masks[name] = alive
    return masks


@pytest.mark.parametrize("name", ["mlp", "resnet20", "vit", "hf-vit", "convnext"])
def test_a_run_equals_the_masked_model(name: str) -> None:
    model, inputs = build_architecture(name)
    communities = natsel.discover(model, inputs)
    (x,) = inputs
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, *x.shape[1:], generator=generator)
    model.eval()
    with torch.no_grad():
        out = logits_of(model(x))
    arena = Arena(communities, x, batch_size=4)
    for seed in range(3):
        survivors = random_survivors(communities, seed)
        with torch.no_grad():
            expected = silence(model, communities.values(), survivors)(x)
            expected = logits_of(expected).argmax(-1)
        assert torch.equal(arena.correct(survivors), expected == out.argmax(-1))


def test_nothing_is_run_twice_and_more_samples_only_add() -> None:
    communities, x, labels = problem()
    arena = Arena(communities, x, labels)
    survivors = random_survivors(communities, 1)
    part = arena.correct(survivors, 100)
    assert arena.num_images == 100
    assert len(part) == 100
    full = arena.correct(dict(survivors))
    assert arena.num_images == 400
    assert torch.equal(full[:100], part)
    arena.correct(survivors)
    assert arena.num_images == 400
    assert arena.num_asked == 900


def test_the_model_is_not_changed() -> None:
    communities, x, labels = problem()
    before = {k: v.clone() for k, v in communities.model.state_dict().items()}
    communities.model.train()
    Arena(communities, x, labels).correct(random_survivors(communities, 0))
    after = communities.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert communities.model.training


def test_without_labels_the_dense_model_is_what_is_agreed_with() -> None:
    communities, x, _ = problem()
    assert bool(Arena(communities, x).dense().all())


def test_key_tells_survivors_apart() -> None:
    one = {"a": torch.tensor([True, False]), "b": torch.tensor([True])}
    assert key_of(one) == key_of(dict(reversed(one.items())))
    assert key_of(one) != key_of({**one, "a": torch.tensor([False, True])})


def test_a_race_gives_finishers_their_accuracy_and_spends_less_than_the_plain_loop() -> None:
    communities, x, labels = problem()
    arena = Arena(communities, x, labels)
    candidates = [random_survivors(communities, s) for s in range(12)]
    values = race(arena, candidates, random_survivors(communities, 99))
    plain = [Arena(communities, x, labels).accuracy(c) for c in candidates]
    top = int(values.argmax())
    assert values[top].item() == pytest.approx(plain[top])
    assert arena.num_images < 12 * 400 / 2
    assert plain[top] >= sorted(plain)[-3]


def test_a_race_runs_equal_candidates_once() -> None:
    communities, x, labels = problem()
    arena = Arena(communities, x, labels)
    same = random_survivors(communities, 5)
    values = race(arena, [same, dict(same)], same)
    assert arena.num_images == 400
    assert values[0] == values[1] == arena.accuracy(same)


def test_a_search_is_never_worse_than_equal_weights_and_repeats_bit_for_bit() -> None:
    communities, x, labels = problem()
    made = feature_class("NL_sin")
    phi = matrices(natsel.score(communities, "magnitude-in"), made.features)

    def decide(scores: object) -> natsel.Survivors:
        return natsel.select(scores, natsel.Sparsity(0.5), communities=communities)  # type: ignore[arg-type]

    found = [
        search_weights(
            Arena(communities, x, labels),
            phi,
            decide,
            generations=3,
            population=4,
            generator=torch.Generator().manual_seed(0),
        )
        for _ in range(2)
    ]
    assert torch.equal(found[0].weights, found[1].weights)
    equal = decide({n: m.mean(1) for n, m in phi.items()})
    arena = Arena(communities, x, labels)
    assert found[0].accuracy >= arena.accuracy(equal)
    assert found[0].accuracy == arena.accuracy(found[0].survivors)
    assert found[0].evaluations == 12


def test_an_allocation_finds_the_layer_that_can_lose_most() -> None:
    """Six must go: of the second layer six neurons are read by nothing, of the first layer none."""
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(),
        torch.nn.Linear(8, 2),
    )  # fmt: skip
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight.zero_()
            layer.bias.zero_()
        model[0].weight.fill_diagonal_(1)
        model[2].weight[0, :4] = 1
        model[2].weight[1, 4:] = 1
        model[4].weight[0, 0] = model[4].weight[1, 1] = 1
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    communities = natsel.discover(model, (x[:2],))
    scores = {"0": torch.linspace(0.9, 1.1, 8), "2": torch.tensor([5.2, 5.1] + [5.0] * 6)}

    def decide(given: object) -> natsel.Survivors:
        return natsel.select(
            given,  # type: ignore[arg-type]
            natsel.Sparsity(6 / 16),
            communities=communities,
            scope="global",
            normalize=None,
        )

    found = [
        search_allocation(
            Arena(communities, x), scores, decide, generator=torch.Generator().manual_seed(0)
        )
        for _ in range(2)
    ]
    assert torch.equal(found[0].weights, found[1].weights)
    assert found[0].survivors.num_removed == 6
    assert found[0].survivors["2"].tolist() == [True] * 2 + [False] * 6
    arena = Arena(communities, x)
    means = {n: v / v.mean() for n, v in scores.items()}
    for start in (dict(scores), means):
        assert found[0].accuracy > arena.accuracy(decide(start))
    assert found[0].accuracy == arena.accuracy(found[0].survivors)
    assert list(found[0].history) == sorted(found[0].history)


def test_adaptive_leaves_the_plateau_where_it_is_proven_bad() -> None:
    communities, x, labels = problem()
    generator = torch.Generator().manual_seed(0)
    adapted = adapt(communities, natsel.Sparsity(0.5), x, labels, generator=generator)
    assert adapted.chosen.kind != "plateau"
    assert adapted.test.p_better < 0.05
    assert adapted.chosen.name in adapted.sentence
    assert "beats the plateau" in adapted.sentence
    plateau = natsel.select(natsel.score(communities, "magnitude-in"), natsel.Sparsity(0.5))
    arena = Arena(communities, x, labels)
    assert arena.accuracy(adapted.survivors) > arena.accuracy(plateau)
    assert adapted.survivors.num_removed == 8
    assert adapted.plain()["chosen"] == adapted.chosen.name


def test_adaptive_keeps_the_plateau_where_nothing_is_proven() -> None:
    communities, x, _ = problem()
    labels = torch.randint(2, (len(x),), generator=torch.Generator().manual_seed(1))
    adapted = adapt(
        communities,
        natsel.Sparsity(0.5),
        x,
        labels,
        generator=torch.Generator().manual_seed(0),
        search=False,
    )
    assert adapted.chosen.kind == "plateau"
    assert "plateau stays" in adapted.sentence


def test_adaptive_works_without_labels() -> None:
    communities, x, _ = problem()
    adapted = adapt(
        communities, natsel.Sparsity(0.5), x, generator=torch.Generator().manual_seed(0)
    )
    names = [c.name for c in adapted.contenders]
    assert not any("taylor" in n for n in names)
    assert (
        "agreement with the dense model" in adapted.sentence or "won the race" in adapted.sentence
    )


def test_mcnemar_against_the_binomial_by_hand() -> None:
    first = torch.tensor([1, 1, 1, 0, 0, 1], dtype=torch.bool)
    second = torch.tensor([0, 0, 0, 1, 0, 1], dtype=torch.bool)
    found = mcnemar(first, second)
    # 3 against 1: P(X >= 3 | 4 trials) = 5/16, and both tails twice that.
    assert found.p_better == pytest.approx(5 / 16)
    assert found.p_value == pytest.approx(10 / 16)
    assert found.difference == pytest.approx(2 / 6)


def test_bad_input_is_refused_in_one_line() -> None:
    communities, x, labels = problem()
    with pytest.raises(ValueError, match="inputs='no samples'"):
        Arena(communities, x[:0])
    with pytest.raises(ValueError, match="labels=3"):
        Arena(communities, x, labels[:3])
    with pytest.raises(ValueError, match="at least 20"):
        adapt(communities, natsel.Sparsity(0.5), x[:10], generator=torch.Generator())
    with pytest.raises(ValueError, match="two equally long vectors"):
        mcnemar(torch.ones(2, dtype=torch.bool), torch.ones(3, dtype=torch.bool))
