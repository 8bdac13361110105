"""With accelerate: an Evolution made before or after ``prepare`` is the same, and resumes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import natsel

accelerate = pytest.importorskip("accelerate")

HARSH = {"rate": 0.5, "pressure": 3.0, "patience": 1, "horizon": 2}
pytestmark = pytest.mark.filterwarnings("ignore")


class Run:
    """A loop of accelerate over batches that depend on their number only."""

    def __init__(self, order, precision="no", accumulate=2):
        accelerate.state.AcceleratorState._reset_state(True)
        self.accelerator = accelerate.Accelerator(
            cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulate
        )
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        if order == "before":
            self.evolve(model, optimizer)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        if order == "after":
            self.evolve(self.model, self.optimizer)
        self.accelerator.register_for_checkpointing(self.evolution)

    def evolve(self, model, optimizer):
        self.communities = natsel.discover(model, torch.zeros(2, 4))
        self.evolution = natsel.Evolution(self.communities, optimizer=optimizer, **HARSH)

    def train(self, first, last):
        for number in range(first, last):
            x = torch.randn(4, 4, generator=torch.Generator().manual_seed(number))
            with self.accelerator.accumulate(self.model):
                loss = nn.functional.cross_entropy(self.model(x), (x[:, 0] > 0).long())
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), 0.5)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return self


def assert_same(first, second):
    for mine, yours in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(mine, yours)
    for name, mass in first.evolution.masses.items():
        assert torch.equal(mass, second.evolution.masses[name])
    moments = [run.optimizer.state_dict()["state"] for run in (first, second)]
    for number, state in moments[0].items():
        for name, value in state.items():
            assert torch.equal(value, moments[1][number][name])


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_before_and_after_prepare_are_the_same(precision):
    before, after = (Run(order, precision).train(0, 12) for order in ("before", "after"))
    assert before.evolution.num_steps == 6  # of 12 batches, two to a step
    assert [c.size for c in after.communities.values()] == [8, 6]
    assert_same(before, after)
    assert after.evolution.num_alive < 14


@pytest.mark.parametrize("order", ["before", "after"])
def test_killed_and_resumed_is_bit_for_bit_the_same(order, tmp_path):
    whole = Run(order).train(0, 12)
    half = Run(order).train(0, 6)
    half.accelerator.save_state(tmp_path)
    resumed = Run(order)
    resumed.accelerator.load_state(tmp_path)
    assert_same(whole, resumed.train(6, 12))


def test_the_small_model_is_plain_where_precision_is_mixed(tmp_path):
    run = Run("after", "bf16").train(0, 12)
    small = natsel.extract(run.model, run.evolution.survivors(), optimizer=run.optimizer.optimizer)
    assert small[0].out_features + small[2].out_features == run.evolution.num_alive
    assert not vars(small).keys() & {"forward", "_original_forward"}
    assert natsel.verify(run.model, small, run.evolution.survivors(), torch.randn(3, 4)).passed
    natsel.save(small, tmp_path / "small")
    with run.accelerator.autocast():
        found = run.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)
        torch.testing.assert_close(small(torch.ones(3, 4)), found(torch.ones(3, 4)))


def test_what_accelerate_put_around_forward_is_there_again_afterwards():
    run = Run("after", "bf16")
    forward = run.model.forward
    x = torch.randn(3, 4)
    before = run.model(x)
    communities = natsel.discover(copy.deepcopy(run.model), torch.zeros(2, 4))
    assert len(communities) == 2
    natsel.preview(run.model, run.evolution.survivors())
    assert run.model.forward == forward
    assert torch.equal(run.model(x), before)
