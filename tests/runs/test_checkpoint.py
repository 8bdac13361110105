"""A checkpoint that was damaged, made up, or is of another run: one line, before it is used."""

import copy

import pytest
import torch

from natsel.common.files import load_tree, save_tree
from natsel.runs.checkpoint import Parts, keep, resume
from natsel.runs.networks import network, put_under_selection
from natsel.runs.training import Recipe, make_optimizer

RUN = {"seed": 0, "epochs": 3}


def parts_of(digits):
    model = network("mlp", digits, seed=0, options={"hidden": [8, 4]})
    optimizer = make_optimizer(model, Recipe(epochs=3))
    evolution = put_under_selection(
        model, optimizer, digits, dynamics="lotka-volterra", seed=0, constants={}
    )
    model(digits.train[0][:32]).square().sum().backward()
    optimizer.step()
    return Parts(model, optimizer, evolution, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def parts(digits):
    return parts_of(digits)


@pytest.fixture
def path(parts, tmp_path):
    keep(tmp_path / "c.safetensors", RUN, parts, [{"epoch": 1, "loss": 1.0}], 1.5)
    return tmp_path / "c.safetensors"


def test_as_it_was_kept(path, parts):
    assert resume(path, RUN, 3, parts) == ([{"epoch": 1, "loss": 1.0}], 1.5, 1)


def test_of_another_run(path, parts):
    with pytest.raises(ValueError, match=r"c\.safetensors is of another run \(of other seed\)"):
        resume(path, {**RUN, "seed": 1}, 3, parts)


def without(name, *place):
    def change(state):
        node = state
        for step in place:
            node = node[step]
        del node[name]

    return change


def with_value(value, *place):
    def change(state):
        node = state
        for step in place[:-1]:
            node = node[step]
        node[place[-1]] = value

    return change


def _changes():
    parts = ("model", "optimizer", "evolution", "generator", "history", "seconds")
    inner = ("steps", "pressure", "sizes", "constants", "mass", "alive", "trajectory")
    found = {f"without {n}": without(n) for n in parts}
    found |= {f"evolution without {n}": without(n, "evolution") for n in inner}
    for value in (None, "x", [], {}, -1):
        found |= {f"{n}={value}": with_value(value, n) for n in parts}
        found |= {f"evolution {n}={value}": with_value(value, "evolution", n) for n in inner}
    nan, two = float("nan"), torch.zeros(2)
    adam = ("optimizer", "state", 0)
    return found | {
        "masses of another shape": with_value(two, "evolution", "mass"),
        "masses of one": with_value(torch.ones(1), "evolution", "mass"),
        "masses of NaN": with_value(torch.full((12,), nan), "evolution", "mass"),
        "negative masses": with_value(-torch.ones(12), "evolution", "mass"),
        "a pressure of NaN": with_value(nan, "evolution", "pressure"),
        "moments of another shape": with_value(two, *adam, "exp_avg"),
        "moments of NaN": with_value(torch.tensor(nan), *adam, "step"),
        "no moments": without("exp_avg_sq", *adam),
        "other betas": with_value(("a", "b"), "optimizer", "param_groups", 0, "betas"),
        "a history of other epochs": with_value([{"epoch": 2, "loss": 1.0}], "history"),
        "a history of words": with_value([{"epoch": 1, "loss": "x"}], "history"),
        "a history of NaN": with_value([{"epoch": 1, "loss": nan}], "history"),
        "too long a history": with_value([{"epoch": i + 1} for i in range(9)], "history"),
        "seconds of NaN": with_value(nan, "seconds"),
        "another generator": with_value(torch.zeros(3, dtype=torch.uint8), "generator"),
    }


CHANGES = _changes()


@pytest.mark.parametrize("name", CHANGES)
def test_signed_again(path, parts, name):
    state = copy.deepcopy(load_tree(path))
    CHANGES[name](state)
    save_tree(path, state)
    with pytest.raises(ValueError, match=r"c\.safetensors is damaged: ") as told:
        resume(path, RUN, 3, parts)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 600


def test_a_weight_that_is_not_finite(path, parts):
    state = load_tree(path)
    next(iter(state["model"].values())).fill_(float("inf"))
    save_tree(path, state)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        resume(path, RUN, 3, parts)


@pytest.mark.parametrize("tree", [[], 3, "x", None, {"a": 1}])
def test_another_tree(path, parts, tree):
    save_tree(path, tree)
    with pytest.raises(ValueError, match="another version, or no checkpoint"):
        resume(path, RUN, 3, parts)


def test_damaged_bytes(path, parts):
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged in (b"", b"abc", content[:-9], flipped, b"\xff" * 8 + content[8:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"c\.safetensors is (damaged|not a file)") as told:
            resume(path, RUN, 3, parts)
        assert "\n" not in str(told.value)
