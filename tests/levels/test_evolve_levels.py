"""What a user asks and gets: decision, resuming, budgets, and one line where something is wrong."""

from __future__ import annotations

import json

import pytest
import torch

import natsel
from natsel.levels.budgets import gauge_of
from natsel.levels.dense import Dense
from natsel.levels.drawing import Drawing
from natsel.levels.judge import Judge
from natsel.levels.moves import uniform
from natsel.levels.result import windows_needed
from natsel.levels.searching import Search
from natsel.levels.space import Space

X = torch.randn(96, 6, generator=torch.Generator().manual_seed(3))
Y = torch.arange(96) % 5


def search(communities, budget=None, data=None, **options):
    given = [(X, Y)] if data is None else data
    budget = natsel.Sparsity(0.5) if budget is None else budget
    options = {"evaluations": 24, "offspring": 6, **options}
    return natsel.evolve_levels(communities, budget, given, **options)


@pytest.mark.parametrize("fitness", ["kl", "loss", "error"])
@pytest.mark.parametrize("budget", [natsel.Sparsity(0.5), natsel.Parameters(0.5)])
def test_a_budget_is_met_and_the_decision_told(perceptron, budget, fitness):
    levels = search(perceptron, budget, fitness=fitness)
    if isinstance(budget, natsel.Sparsity):
        assert levels.survivors.num_removed == 32
    else:
        assert perceptron.price(levels.survivors).parameters <= 0.5 * perceptron.price().parameters
    differs = any(not torch.equal(levels.found[n], levels.uniform[n]) for n in perceptron)
    wins = differs and levels.values[0] <= levels.values[1]
    assert levels.kept == ("searched" if wins else "uniform")
    chosen = levels.found if levels.kept == "searched" else levels.uniform
    assert all(torch.equal(levels.survivors[n], chosen[n]) for n in chosen)
    assert json.loads(json.dumps(levels.plain()))["levels"].keys() == perceptron.keys()
    assert f"{levels.evaluations} evaluations" in levels.sentence
    with pytest.raises(AttributeError):
        levels.kept = "uniform"


def test_the_uniform_plan_stays_where_the_search_misled(perceptron):
    """What is searched on tells nothing of what is decided on: one input, always the same."""
    one = [(torch.full((16, 6), 9.0),)]
    found = [
        search(
            perceptron,
            data=one,
            held_out=[(X,)],
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in range(4)
    ]
    assert {levels.kept for levels in found} >= {"uniform"}
    for levels in found:
        assert levels.history[-1].best <= levels.history[0].best
        if levels.kept == "uniform":
            assert levels.values[0] > levels.values[1] or levels.test.difference == 0
            assert levels.sentence.startswith("The uniform plan stays")
            assert all(torch.equal(levels.survivors[n], levels.uniform[n]) for n in perceptron)


def test_one_seed_one_result_and_another_seed_another_way(perceptron):
    first, again, other = (
        search(perceptron, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.plain() == again.plain()
    assert first.history != other.history


@pytest.mark.parametrize("dynamics", [None, "replicator", "wright-fisher", "logistic"])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(perceptron, tmp_path, dynamics):
    class Killed(Exception):
        pass

    killed: list[int] = []

    def kill(_: str, done: int, __: int) -> None:
        if done >= 12:
            killed.append(done)
            raise Killed

    whole = search(perceptron, dynamics=dynamics)
    with pytest.raises(Killed):
        search(perceptron, dynamics=dynamics, cache=tmp_path / "c", progress=kill)
    steps: list[int] = []
    again = search(
        perceptron,
        dynamics=dynamics,
        cache=tmp_path / "c",
        progress=lambda _, done, __: steps.append(done),
    )
    assert steps[0] == killed[0]
    assert again.plain() == whole.plain()
    longer = search(perceptron, dynamics=dynamics, cache=tmp_path / "c", evaluations=36)
    assert longer.history[: len(whole.history)] == whole.history
    with pytest.raises(ValueError, match=r"cache=.*budget differs"):
        search(perceptron, natsel.Sparsity(0.25), cache=tmp_path / "c")
    (tmp_path / "c" / "levels.json").write_text("{}")
    with pytest.raises(ValueError, match="is of a search, or none"):
        search(perceptron, dynamics=dynamics, cache=tmp_path / "c")


def test_a_search_killed_while_it_takes_out_one_by_one_goes_on(llama, windows, others, tmp_path):
    class Killed(Exception):
        pass

    options = {
        "data": windows,
        "held_out": others,
        "kinds": ["branch"],
        "evaluations": 24,
        "offspring": 8,
    }
    whole = search(llama, **options)
    kept = Search.greedy

    def greedy(self, evaluations, keep):
        def keep_and_die():
            keep()
            raise Killed

        return kept(self, evaluations, keep_and_die)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "greedy", greedy)
        with pytest.raises(Killed):
            search(llama, **options, cache=tmp_path / "c")
    assert not json.loads((tmp_path / "c" / "levels.json").read_text())["state"]["history"]
    again = search(llama, **options, cache=tmp_path / "c")
    assert again.plain() == whole.plain()


@pytest.mark.parametrize("windows_a_generation", [2, 8])
def test_a_plan_whose_loss_is_nan_loses_and_the_search_goes_on(
    llama, windows, others, tmp_path, monkeypatch, windows_a_generation
):
    (name,) = llama.only("branch")
    run, judged = Judge._run, Judge._judged

    def noting(self, survivors, numbers):
        self.bad = not bool(survivors[name][5])
        return run(self, survivors, numbers)

    def with_nan(self, logits, number):
        return float("nan") if self.bad else judged(self, logits, number)

    monkeypatch.setattr(Judge, "_run", noting)
    monkeypatch.setattr(Judge, "_judged", with_nan)
    levels = search(
        *(llama, None, windows),
        held_out=others,
        kinds=["branch"],
        scores={name: torch.tensor([3.0, 4, 5, 6, 7, 0, 1, 2])},  # its own choice is NaN
        windows=windows_a_generation,
        cache=tmp_path / "c",
    )
    assert bool(levels.found[name][5])
    assert levels.kept == "searched"
    assert all(g.best < float("inf") for g in levels.history)


def test_windows_take_turns_and_a_winner_wins_on_those_before_too(perceptron):
    data = (X,)
    judge = Judge(perceptron, data)
    space = Space.of_communities(
        perceptron,
        natsel.score(perceptron, "magnitude"),
        gauge_of(natsel.Sparsity(0.5), perceptron),
    )
    state = Search(space, judge, Drawing(2), torch.Generator().manual_seed(0), batch=2)
    state.start([uniform(space)])
    assert judge.seen(space.survivors(state.best)) == [0, 1]
    for number in range(1, 5):
        before = state.best
        state.generation(4)
        fresh = [2 * number % len(judge), 2 * number % len(judge) + 1]
        seen = judge.seen(space.survivors(before))
        assert set(fresh) <= set(seen)
        if state.best != before:
            both = [w for w in seen if w in judge.seen(space.survivors(state.best))]
            assert len(both) >= min(4, 2 * number)
            values = [judge.value(space.survivors(p), both) for p in (state.best, before)]
            assert values[0] < values[1]


def test_a_budget_that_nothing_meets_says_the_nearest(perceptron):
    dense = perceptron.price().parameters
    least = perceptron.price({n: torch.arange(c.size) < 1 for n, c in perceptron.items()})
    with pytest.raises(ValueError, match=f"at least {least.parameters} of {dense:,}"):
        search(perceptron, natsel.Parameters(10))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"fitness": "perplexity"}, "fitness='perplexity'"),
        ({"fitness": "loss", "data": [(X,)]}, "fitness='loss' is not allowed"),
        ({"evaluations": 0}, "evaluations=0"),
        ({"windows": 0}, "windows=0"),
        ({"places": 2.5}, "places=2.5"),
        ({"kinds": ["branch"]}, "kinds='branch'"),
        ({"kinds": "neuron"}, "kinds='neuron'"),
        ({"data": [(X[:1],)]}, "at least 2"),
        ({"dynamics": "lotka-volterra"}, "dynamics='lotka-volterra'"),
        ({"budget": 0.5}, "budget=0.5"),
        ({"data": []}, "data='empty'"),
    ],
)
def test_what_is_wrong_is_one_line(perceptron, options, told):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        search(perceptron, **options)
    assert told in str(error.value)


def test_data_that_are_not_finite_are_refused(perceptron):
    with pytest.raises(natsel.NonFiniteError, match=r"^[^\n]*$"):
        search(
            perceptron,
            data=[(torch.full((8, 6), float("nan")),)],
            scores=natsel.score(perceptron, "magnitude"),
        )


def test_too_few_windows_say_how_many_it_would_take(perceptron):
    levels = search(perceptron, data=[(X[:4],)], scores=natsel.score(perceptron, "magnitude"))
    assert levels.test.p_value >= 0.05
    if levels.test.difference:
        assert levels.needed is not None
        assert f"too few to tell them apart: it would take about {levels.needed}" in levels.sentence
    # The mean is one standard deviation: (1.960 + 0.842)^2 = 7.85.
    step = torch.tensor([0.0, 2.0], dtype=torch.float64) * 2**-0.5 + (1 - 2**-0.5)
    assert windows_needed(step, torch.zeros(2)) == 8
    assert windows_needed(torch.ones(3), torch.ones(3)) is None


@pytest.mark.parametrize(
    ("room", "head", "held"),
    [(2**20, None, "probabilities"), (0, "lm_head", "hidden states"), (0, None, "nothing")],
)
def test_what_is_held_of_the_dense_model_depends_on_room_and_changes_nothing(
    llama, windows, room, head, held
):
    rows = torch.tensor([0, 3, 4, 11])
    dense = Dense(llama.model, windows, [rows] * 3, head=head, room=room)
    assert dense.held == held
    for number in range(len(windows)):
        with torch.no_grad():
            true = llama.model(**windows[number]).logits.log_softmax(-1)[0, rows]
        atol = 4e-3 if held == "probabilities" else 1e-5  # half precision
        assert torch.allclose(dense(number, slice(None)), true, atol=atol)
        assert torch.allclose(dense(number, slice(2, 4)), true[2:4], atol=atol)


def test_padding_does_not_count(llama):
    tokens = torch.randint(3, 50, (1, 8), generator=torch.Generator().manual_seed(5))
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    padded = Judge(llama, {"input_ids": tokens, "attention_mask": mask})
    plain = Judge(llama, {"input_ids": tokens[:, :5]})
    (name,) = llama.only("branch")
    out = {**llama.full(), name: torch.arange(8) != 3}
    assert padded.places.tolist() == [5.0]
    assert padded.value(out) == pytest.approx(plain.value(out), abs=1e-4)


def test_a_budget_that_is_measured_is_met(perceptron):
    """A clock that counts multiply-accumulates in place of time."""
    from natsel.selection.budget import Gauge

    class Clock:
        def gauge(self, communities):
            dense = communities.price().macs
            return Gauge(
                "latency",
                0.6,
                0.6,
                lambda s: communities.price(s).macs / dense,
                num_steps=8,
            )

    levels = search(perceptron, Clock())
    assert perceptron.price(levels.survivors).macs <= 0.6 * perceptron.price().macs
