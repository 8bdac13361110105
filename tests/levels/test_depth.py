"""Depth: the optimum that brute force knows, by fewer evaluations; beside EvoPress' own recipe."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from evopress import evopress

import natsel
from natsel.communities.surgery.surgery import silence

HALF = natsel.Sparsity(0.5)
SUBSETS = list(combinations(range(8), 4))


@pytest.fixture(scope="module")
def table(llama, windows):
    """Return the divergence of each window for each of the 70 subsets: copied, masked, run."""
    found = {}
    branches = llama.only("branch")
    (name,) = branches
    for subset in SUBSETS:
        alive = torch.ones(8, dtype=torch.bool)
        alive[list(subset)] = False
        masked = silence(llama.model, branches.values(), {name: alive})
        each = []
        for window in windows:
            with torch.no_grad():
                p = llama.model(**window).logits.double().log_softmax(-1)
                q = masked(**window).logits.double().log_softmax(-1)
            each.append(float((p.exp() * (p - q)).sum(-1).mean()))
        found[frozenset(subset)] = torch.tensor(each, dtype=torch.float64)
    return found


def gone(levels: natsel.Levels) -> frozenset[int]:
    (mask,) = levels.found.values()
    return frozenset((~mask).nonzero().flatten().tolist())


def away_from(best, llama):
    """Return scores whose own choice shares nothing with the best one."""
    (name,) = llama.only("branch")
    return {name: torch.tensor([float(i in best) for i in range(8)])}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dynamics", [None, "replicator", "wright-fisher"])
def test_the_search_finds_the_optimum_with_half_of_what_brute_force_runs(
    llama, windows, others, table, seed, dynamics
):
    best = min(table, key=lambda s: float(table[s].mean()))
    levels = natsel.evolve_levels(
        llama,
        HALF,
        windows,
        held_out=others,
        scores=away_from(best, llama),
        kinds=["branch"],
        evaluations=60,
        offspring=8,
        dynamics=dynamics,
        generator=torch.Generator().manual_seed(seed),
    )
    assert gone(levels) == best
    assert levels.history[-1].best == pytest.approx(float(table[best].mean()), abs=1e-5)
    # Most children stop before they have seen all, and so do those that are taken out one by one.
    assert levels.tokens < 12 * len(windows) * len(SUBSETS) / 2


def test_evopress_own_recipe_agrees_and_runs_more(llama, windows, others, table):
    """At as many windows as the search ran, EvoPress' recipe is no nearer to the optimum."""
    levels = natsel.evolve_levels(
        llama, HALF, windows, held_out=others, kinds=["branch"], evaluations=24, offspring=4
    )
    budget = levels.tokens // 12
    found, ends = [], []
    for seed in range(20):
        asked, best = 0, float("inf")

        def fitness(subset, num):
            nonlocal asked, best
            asked += num
            value = float(table[subset][:num].mean())
            if asked <= budget and num == len(windows):
                best = min(best, value)
            return value

        end, value = evopress(
            *(8, 4, fitness),
            generations=12,
            offspring=8,
            survivors=(4, 2, 1),
            windows=(1, 2, 3),
            seed=seed,
        )
        assert asked > budget
        found.append(best)
        ends.append((end, value))
    # With all of its evaluations it agrees, from most starts.
    value = levels.history[-1].best
    assert sum(end == gone(levels) for end, _ in ends) >= 15
    assert min(v for _, v in ends) == pytest.approx(value, abs=1e-5)
    assert all(value <= other + 1e-5 for other in found)


def test_whole_blocks_go_together(llama, windows, others, table):
    levels = natsel.evolve_levels(
        llama,
        HALF,
        windows,
        held_out=others,
        kinds=["branch"],
        blocks=True,
        evaluations=24,
        offspring=4,
    )
    pairs = [frozenset((2 * a, 2 * a + 1, 2 * b, 2 * b + 1)) for a, b in combinations(range(4), 2)]
    assert gone(levels) == min(pairs, key=lambda s: float(table[s].mean()))
    small = natsel.extract(llama.model, levels.found)
    assert len(small.model.layers) == 2
    assert small.config.num_hidden_layers == 2


def test_what_is_found_is_extracted_and_verified_with_all_kinds_together(llama, windows, others):
    levels = natsel.evolve_levels(
        llama, natsel.Parameters(0.6), windows, held_out=others, evaluations=32, offspring=8
    )
    assert {llama[name].kind for name in levels.survivors} == {"branch", "head", "neuron"}
    small = natsel.extract(llama.model, levels.found)
    count = sum(p.numel() for p in small.parameters())
    assert count == llama.price(levels.found).parameters
    assert count <= 0.6 * sum(p.numel() for p in llama.model.parameters())
    found = natsel.verify(llama.model, small, levels.found, llama.example_inputs)
    assert found.passed


def test_the_model_is_as_it_was(llama, windows, others):
    before = {n: p.clone() for n, p in llama.model.named_parameters()}
    modules = dict(llama.model.named_modules())
    natsel.evolve_levels(
        llama, natsel.MACs(0.7), windows, held_out=others, evaluations=8, offspring=4
    )
    assert dict(llama.model.named_modules()) == modules
    for name, parameter in llama.model.named_parameters():
        assert torch.equal(parameter, before[name])
