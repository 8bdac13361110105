"""natsel.score_all: the numbers of one scorer at a time, in two passes at most."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import natsel
from natsel.fitness import FITNESS, Fitness


class Counted(nn.Module):
    """A network that counts how often it runs, with and without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 6),
            nn.ReLU(),
            nn.Linear(6, 3),
        )
        self.counts = {True: 0, False: 0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            self.counts[torch.is_grad_enabled()] += 1
        return self.net(x)


@pytest.fixture
def counted() -> tuple[Counted, natsel.Communities, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    model = Counted()
    batches = [(torch.randn(5, 1, 6, 6), torch.randint(3, (5,))) for _ in range(3)]
    communities = natsel.discover(model, (batches[0][0],))
    model.counts = {True: 0, False: 0}
    return model, communities, batches


def test_all_scorers_together_say_what_each_says_alone_bit_for_bit(counted):
    _, communities, batches = counted
    names = sorted(FITNESS)
    together = natsel.score_all(communities, names, data=iter(batches))
    assert list(together) == names
    for name in names:
        alone = natsel.score(communities, name, data=batches)
        assert together[name].communities is communities
        assert list(alone) == list(together[name])
        for community, value in alone.items():
            assert torch.equal(value, together[name][community]), (name, community)


@pytest.mark.parametrize(
    ("names", "with_gradient", "without"),
    [
        (["taylor", "gradient", "alignment"], 3, 0),
        (["wanda", "joint", "variance", "contribution", "magnitude"], 0, 3),
        (["wanda", "taylor", "joint", "l1", "gradient"], 3, 3),
        (["l1", "magnitude"], 0, 0),
    ],
)
def test_each_batch_is_run_once_with_and_once_without_gradients(
    counted, names, with_gradient, without
):
    model, communities, batches = counted
    natsel.score_all(communities, names, data=batches)
    assert model.counts == {True: with_gradient, False: without}
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_own_signals_take_part_under_their_names(counted):
    _, communities, batches = counted
    own = Fitness("heavy", lambda parts: parts.mass * 2)
    found = natsel.score_all(communities, ["wanda", own], data=batches)
    assert list(found) == ["wanda", "heavy"]
    assert all(bool((v == 2).all()) for v in found["heavy"].values())


@pytest.mark.parametrize(
    ("scorers", "told"),
    [
        ("wanda", "a list of scorers"),
        ([], "a list of scorers"),
        (["l1", "l1"], "'l1' twice"),
        (["l1", "wnda"], "wanda"),
    ],
)
def test_what_is_no_list_of_scorers_is_refused(counted, scorers, told):
    _, communities, batches = counted
    with pytest.raises(ValueError, match=told):
        natsel.score_all(communities, scorers, data=batches)


def test_missing_data_is_told_of_the_scorer_that_reads_some(counted):
    with pytest.raises(ValueError, match=r"data=None.*'wanda'"):
        natsel.score_all(counted[1], ["l1", "wanda"])
