"""The audit against matrices that are spelled out, references, and the lemma it rests on."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import natsel
from natsel.auditing.overlap import agreement, jaccard, num_tied_at_cut, spearman
from natsel.common.errors import NonFiniteError
from natsel.common.orders import same_order
from natsel.fitness import FITNESS, Fitness

RISING = {
    "cube": lambda x: x**3,
    "exp": lambda x: (x / 8).exp(),
    "arctan": lambda x: (x / 8).atan(),
    "log": lambda x: (x - x.min()).log1p(),
    "affine": lambda x: 3 * x - 7,
}
INTEGERS = st.lists(st.integers(-20, 20), min_size=2, max_size=9)


@pytest.fixture(scope="module")
def one():
    """Communities of a network with one community of 4 neurons, named 0."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    return natsel.discover(model, torch.ones(1, 3))


@pytest.fixture(scope="module")
def two():
    """Communities of 40 and of 20 neurons, named 0 and 2, and batches."""
    torch.manual_seed(0)
    layers = (torch.nn.Linear(6, 40), torch.nn.ReLU(), torch.nn.Linear(40, 20))
    model = torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(20, 2))
    batches = [(torch.randn(8, 6), torch.randint(2, (8,))) for _ in range(2)]
    return natsel.discover(model, torch.ones(1, 6)), batches


def survivors(scores, count, **options):
    total = sum(x.numel() for x in scores.values())
    chosen = natsel.select(scores, natsel.Sparsity(count / total), **options)
    return {name: mask.tolist() for name, mask in chosen.items()}


@settings(max_examples=60, deadline=None)
@given(INTEGERS, INTEGERS, st.sampled_from(sorted(RISING)), st.sampled_from(sorted(RISING)))
def test_a_rising_function_of_a_score_keeps_the_same_survivors(first, second, f, g):
    a, b = torch.tensor(first).double(), torch.tensor(second).double()
    plain, shaped = {"a": a, "b": b}, {"a": RISING[f](a), "b": RISING[g](b)}
    assert same_order(a, shaped["a"])
    assert same_order(b, shaped["b"])
    for name in plain:
        for count in range(plain[name].numel()):
            one = survivors({name: plain[name]}, count)
            assert one == survivors({name: shaped[name]}, count)
    for count in range(a.numel() + b.numel() - 1):
        options = {"scope": "global", "normalize": "rank"}
        assert survivors(plain, count, **options) == survivors(shaped, count, **options)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=6))
def test_one_order_is_what_it_takes_to_keep_the_same_survivors(pairs):
    a, b = torch.tensor(pairs).double().unbind(1)
    same = all(
        survivors({"": x}, count) == survivors({"": y}, count)
        for x, y in ((a, b), (a.flip(0), b.flip(0)))  # the index decides ties, either way
        for count in range(len(pairs))
    )
    assert same_order(a, b) == same


@settings(max_examples=60, deadline=None)
@given(INTEGERS.filter(lambda values: len(set(values)) > 1))
def test_a_falling_or_bent_function_is_another_criterion(values):
    a = torch.tensor(values).double()
    peak = a.unique()[:-1].max()
    for b in (-a, (-a).exp(), -((a - peak) ** 2)):
        assert not same_order(a, b)


def test_matrices_spelled_out(one):
    a = torch.tensor([4.0, 3.0, 2.0, 1.0])
    scores = {"a": {"0": a}, "b": {"0": torch.tensor([4, 1, 3, 2])}, "exp": {"0": a.exp()}}
    found = natsel.audit(one, scores, [0.25, 0.5])
    assert found.scorers == ("a", "b", "exp")
    assert found.classes == (("a", "exp"), ("b",))
    assert (found.up_to_ties, found.reversed, dict(found.constant)) == ((), (), {})
    quarter, half = found.overall.at
    third = pytest.approx(1 / 3)
    assert [quarter.num_survivors, half.num_survivors] == [3, 2]
    assert [quarter.chance, half.chance] == [0.75, 0.5]
    assert half.agreement == [[1, 0.5, 1], [0.5, 1, 0.5], [1, 0.5, 1]]
    assert half.jaccard_survivors == [[1, third, 1], [third, 1, third], [1, third, 1]]
    assert half.jaccard_removed == [[1, third, 1], [third, 1, third], [1, third, 1]]
    assert half.moved == [0, 0.5, 0]
    assert quarter.jaccard_survivors == [[1, 0.5, 1], [0.5, 1, 0.5], [1, 0.5, 1]]
    assert quarter.jaccard_removed == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert quarter.moved == [0, third, 0]
    assert half.tied == [0, 0, 0]
    rank = [[1, 0.4, 1], [0.4, 1, 0.4], [1, 0.4, 1]]
    assert np.allclose(found.overall.spearman, rank)
    assert found.communities[0].at == found.overall.at
    assert found.sentences == (
        "3 scorers give 2 orders.",
        "exp is a: one order, ties included, in every community, so the same survivors, and one "
        "accuracy, at every sparsity.",
        "b and a agree on 67 % of the survivors at 25 %, 50 % at 50 % (by chance 75 % and 50 %); "
        "rank correlation 0.400.",
    )
    assert str(found) == "\n".join(found.sentences)
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()


def test_ties_constants_and_upside_down_are_told(one):
    a = torch.tensor([4.0, 3.0, 2.0, 1.0])
    scores = {
        "a": {"0": a},
        "coarse": {"0": torch.tensor([2, 1, 1, 1])},
        "up": {"0": -a},
        "flat": {"0": torch.full((4,), 7.0)},
    }
    found = natsel.audit(one, scores, [0.5])
    assert found.classes == (("a",), ("coarse",), ("up",), ("flat",))
    assert [(p.scorers, p.ties) for p in found.up_to_ties] == [(("a", "coarse"), (0, 2))]
    assert found.reversed == (("a", "up"),)
    assert dict(found.constant) == {"flat": ("0",)}
    assert found.overall.at[0].tied == [0, 3, 0, 4]
    assert found.overall.spearman[0][3] is None
    assert found.sentences == (
        "4 scorers give 4 orders.",
        "coarse is a up to ties: no pair is turned round, but coarse ties 2 steps that a tells "
        "apart. At the sparsities asked the survivors are the same.",
        "up is a upside down: it turns every pair round.",
        "flat gives all populations one number in every community: there their index alone "
        "decides who survives.",
        "coarse ties across the cut, where the index decides: 3 populations at 50 %.",
    )


def test_a_tie_that_moves_survivors_is_told(one):
    scores = {"a": {"0": torch.tensor([1.0, 2, 3, 4])}, "b": {"0": torch.tensor([1.0, 2, 2, 2])}}
    found = natsel.audit(one, scores, [0.5])
    assert "Of the survivors these differ, by index alone: 50 % at 50 %." in str(found)


def test_two_constants_are_one_order_and_no_criterion(one):
    flat = {"a": {"0": torch.zeros(4)}, "b": {"0": torch.ones(4)}}
    found = natsel.audit(one, flat, [0.5])
    assert found.classes == (("a", "b"),)
    assert found.sentences[0] == "2 scorers give 1 order."
    assert all("alone decides" in sentence for sentence in found.sentences[1:])


def test_registered_scorers_and_a_users_own(two):
    communities, batches = two

    def energy(parts):
        return FITNESS["l2"].signal(parts).square()

    scorers = ["l2", "l1", "log-l2", energy, "taylor", "wanda"]
    found = natsel.audit(communities, scorers, [0.5, 0.7], iter(batches))
    assert found.classes == (("l2", "log-l2", "energy"), ("l1",), ("taylor",), ("wanda",))
    assert [(p.name, p.kind, p.size) for p in found.communities] == [
        ("0", "neuron", 40),
        ("2", "neuron", 20),
    ]
    l2, l1 = (natsel.score(communities, name) for name in ("l2", "l1"))
    for position, place in enumerate(found.communities):
        reference = stats.spearmanr(l2[place.name], l1[place.name]).statistic
        assert place.spearman[0][1] == pytest.approx(reference)
        kept = [natsel.select(s, natsel.Sparsity(0.7))[place.name] for s in (l2, l1)]
        assert place.at[1].moved[1] == pytest.approx(
            1 - float((kept[0] & kept[1]).sum() / kept[0].sum())
        )
        assert found.communities[position].at[1].num_survivors == int(kept[0].sum())
    mean = sum(p.spearman[0][1] * p.size for p in found.communities) / 60
    assert found.overall.spearman[0][1] == pytest.approx(mean)
    shared = sum(p.at[0].agreement[0][1] * p.at[0].num_survivors for p in found.communities)
    assert found.overall.at[0].agreement[0][1] == pytest.approx(shared / 30)
    only = natsel.audit(communities, ["l2", "l1"], [0.5], include="2")
    assert [p.name for p in only.communities] == ["2"]
    assert (
        only.communities[0].spearman
        == natsel.audit(communities, ["l2", "l1"], [0.5], exclude="0").overall.spearman
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_jaccard_is_that_of_sklearn(pairs):
    metrics = pytest.importorskip("sklearn.metrics")
    a, b = torch.tensor(pairs).unbind(1)
    if bool((a | b).any()):
        assert jaccard(a, b) == pytest.approx(metrics.jaccard_score(a.numpy(), b.numpy()))
    if bool(a.any()):
        assert agreement(a, b) == pytest.approx(metrics.recall_score(a.numpy(), b.numpy()))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_spearman_is_the_correlation_of_mean_ranks(pairs):
    def mean_ranks(values):
        return [sum((w < v) + (w == v) / 2 for w in values) for v in values]

    first, second = zip(*pairs, strict=True)
    found = spearman(torch.tensor(first), torch.tensor(second))
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        reference = np.corrcoef(mean_ranks(first), mean_ranks(second))[0, 1]
        assert found == pytest.approx(reference, abs=1e-12)


def test_nothing_is_shared_or_all_where_masks_are_empty():
    none = torch.zeros(3, dtype=torch.bool)
    assert jaccard(none, none) == agreement(none, ~none) == 1
    assert jaccard(none, ~none) == 0
    assert num_tied_at_cut(torch.ones(3), ~none) == 0


@pytest.mark.parametrize(
    ("scorers", "sparsities", "told"),
    [
        (["l2"], [0.5], "at least two scorers"),
        ([], [0.5], "at least two scorers"),
        ("l1,l2", [0.5], "a list of scorers"),
        (["l1", "l1"], [0.5], "each name once"),
        (["l1", "l3"], [0.5], "fitness='l3' is not allowed"),
        (["l1", "taylor"], [0.5], "data=None is not allowed"),
        (["l1", {"0": torch.ones(4)}], [0.5], "a name for each"),
        ({"a": "l1", "b": {"0": torch.ones(3)}}, [0.5], r"\['b'\]\['0'\]=\(3,\).*shape \[4\]"),
        ({"a": "l1", "b": {"1": torch.ones(4)}}, [0.5], r"'NoneType'.*shape \[4\]"),
        ({"a": "l1", "b": {"0": [1, 2, 3, 4]}}, [0.5], r"'list'.*shape \[4\]"),
        (["l1", "l2"], [], "at least one number"),
        (["l1", "l2"], 0.5, "in a list"),
        (["l1", "l2"], [0.7, 0.5], "ascending, each once"),
        (["l1", "l2"], [0.5, 0.5], "ascending, each once"),
        (["l1", "l2"], [0.0], r"sparsity=0.0 .* \(0, 1\)"),
        (["l1", "l2"], [1], "sparsity=1 "),
        (["l1", "l2"], [float("nan")], "sparsity=nan"),
        (["l1", "l2"], ["half"], "sparsity='half'"),
        (["l1", "l2"], [0.95], "a floor of 1 kept"),
    ],
)
def test_wrong_arguments_are_named(one, scorers, sparsities, told):
    with pytest.raises(ValueError, match=told):
        natsel.audit(one, scorers, sparsities)


def test_scorers_that_fail_are_named(one):
    nan = Fitness("bad", lambda parts: parts.mass * float("nan"))
    short = Fitness("short", lambda parts: parts.mass[1:])
    with pytest.raises(NonFiniteError, match="scorer 'mine' gave NaN or infinity in '0'"):
        natsel.audit(one, {"l2": "l2", "mine": nan}, [0.5])
    with pytest.raises(NonFiniteError, match="scorer 'mine' gave NaN or infinity in '0'"):
        natsel.audit(one, {"l2": "l2", "mine": {"0": torch.tensor([1, 2, 3, np.inf])}}, [0.5])
    with pytest.raises(ValueError, match=r"scorer='short' is not allowed.*shape \[4\]"):
        natsel.audit(one, ["l2", short], [0.5])


def test_a_name_given_in_a_mapping_is_the_name(two):
    communities, batches = two
    named = {"mine": FITNESS["l2"].signal, "theirs": "magnitude-in"}
    found = natsel.audit(communities, named, [0.5], batches)
    assert found.classes == (("mine", "theirs"),)
    pairs = itertools.combinations(found.scorers, 2)
    assert all(found.overall.at[0].agreement[0][1] == 1 for _ in pairs)
