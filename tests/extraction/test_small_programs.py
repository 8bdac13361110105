"""A small program is an ordinary module: it is saved, loaded, exported, compiled, trained."""

import json

import pytest
import torch
from torch import nn

import natsel


class Reshaped(nn.Module):
    """Sizes of 8 and 6 written into forward."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        y = self.second(self.first(x).relu().view(-1, 8)).relu().reshape(-1, 6)
        return self.last(y)


INPUTS = (torch.randn(2, 5, generator=torch.Generator().manual_seed(0)),)
KEPT = {"first": torch.arange(8) % 3 > 0, "second": torch.arange(6) > 3}


def extracted(program, survivors):
    return natsel.extract(program, survivors, communities=natsel.discover(program, INPUTS))


@pytest.fixture
def small():
    return extracted(natsel.as_program(Reshaped(), INPUTS), KEPT)


def test_it_loads_into_a_program_of_the_dense_model_whatever_the_batch_size(small, tmp_path):
    natsel.save(small, tmp_path / "small")
    for batch in (1, 2, 5):
        dense = natsel.as_program(Reshaped(), (torch.randn(batch, 5),))
        loaded = natsel.load(tmp_path / "small", model=dense)
        assert loaded(INPUTS[0]).equal(small(INPUTS[0]))
        assert natsel.discover(loaded, INPUTS)["first"].size == 5


def test_one_that_was_cut_twice_loads_too(small, tmp_path):
    smaller = extracted(small, {"first": torch.tensor([True, False, True, False, False])})
    natsel.save(smaller, tmp_path / "smaller")
    loaded = natsel.load(tmp_path / "smaller", model=natsel.as_program(Reshaped(), INPUTS))
    assert loaded.first.weight.shape == (2, 5)
    assert loaded(INPUTS[0]).equal(smaller(INPUTS[0]))


def test_it_loads_into_nothing_else(small, tmp_path):
    natsel.save(small, tmp_path / "small")
    with pytest.raises(ValueError, match=r"natsel.as_program\(model, example_inputs\)"):
        natsel.load(tmp_path / "small", model=Reshaped())

    class Other(Reshaped):
        def forward(self, x):
            return super().forward(x).view(-1, 3)

    with pytest.raises(ValueError, match="a program with another graph"):
        natsel.load(tmp_path / "small", model=natsel.as_program(Other(), INPUTS))


def test_the_plan_holds_the_rewritten_sizes_as_numbers(small, tmp_path):
    natsel.save(small, tmp_path / "small")
    numbers = json.loads((tmp_path / "small" / "plan.json").read_text())["attributes"]
    assert numbers.pop("digest of the program") > 0
    assert numbers == {"view.1.1": 5, "reshape.1.1": 2}


def test_it_verifies_against_the_model_it_came_from():
    model = Reshaped()
    program = natsel.as_program(model, INPUTS)
    communities = natsel.discover(program, INPUTS)
    small = natsel.extract(program, KEPT, communities=communities)
    inputs = (torch.randn(7, 5),)
    found = natsel.verify(model, small, KEPT, inputs, communities=communities)
    assert found.passed
    assert found.max_abs_difference_float64 < 1e-12


def test_it_compiles(small):
    compiled = torch.compile(small, backend="eager")
    for batch in (2, 5):
        x = torch.randn(batch, 5)
        torch.testing.assert_close(compiled(x), small(x))


def test_it_exports_to_onnx(small, tmp_path):
    pytest.importorskip("onnxruntime")
    assert natsel.export_onnx(small, tmp_path / "small.onnx", INPUTS) < 1e-5


def test_it_evolves_and_trains_further_with_its_optimizer():
    program = natsel.as_program(Reshaped(), INPUTS)
    communities = natsel.discover(program, INPUTS)
    optimizer = torch.optim.SGD(program.parameters(), 0.1, momentum=0.9)
    evolution = natsel.Evolution(communities, dynamics="logistic", fitness="taylor")
    x, y = torch.randn(16, 5), torch.randint(3, (16,))

    def step(module):
        loss = nn.functional.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    step(program)
    evolution.step()
    optimizer.zero_grad()
    small = natsel.extract(program, KEPT, communities=communities, optimizer=optimizer)
    before = small.first.weight.clone()
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(step(small))
    assert losses[-1] < losses[0]
    assert not small.first.weight.equal(before)
