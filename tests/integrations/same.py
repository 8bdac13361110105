"""What two runs must have in common, bit for bit."""

from __future__ import annotations

import torch


def assert_same_runs(first, second):
    """Compare weights, masses and the state of the optimizer of two callbacks."""
    for mine, yours in zip(parameters(first), parameters(second), strict=True):
        assert torch.equal(mine, yours)
    assert first.evolution.num_steps == second.evolution.num_steps > 0
    for name, mass in first.evolution.masses.items():
        assert torch.equal(mass, second.evolution.masses[name])
    ours, theirs = first.optimizer.state_dict(), second.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for number, state in ours["state"].items():
        for name, value in state.items():
            assert same(value, theirs["state"][number][name]), (number, name)


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    return first == second


def parameters(callback):
    return list(callback.communities.model.parameters())
