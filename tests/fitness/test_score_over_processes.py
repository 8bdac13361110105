"""Two processes with a share of the calibration data each say what one says of all of it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard

import natsel
from natsel.common.files import load_tree, save_tree

WORLD = 2
SCORERS = ("magnitude", "taylor", "fisher", "wanda", "variance", "contribution", "obs", "auto")
OF_SHARES = (
    *("magnitude", "taylor", "fisher", "gradient", "alignment"),
    *("wanda", "variance", "joint", "obs"),
)
RATIO = natsel.Sparsity(0.5)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    ).double()


def batches(rank=None):
    """Return batches, of unequal sizes and numbers, of one process or of both."""
    sizes = ((7, 5, 9), (4, 6))
    found = []
    for each in range(WORLD) if rank is None else [rank]:
        for number, size in enumerate(sizes[each]):
            generator = torch.Generator().manual_seed(10 * each + number)
            x = torch.randn(size, 8, generator=generator, dtype=torch.float64)
            found.append((x, torch.randint(3, (size,), generator=generator)))
    return found


def findings(rank=None, group=None):
    model = network()
    communities = natsel.discover(model, torch.zeros(2, 8, dtype=torch.float64))
    data = batches(rank)
    scores = {s: dict(natsel.score(communities, s, data=data, group=group)) for s in SCORERS}
    survivors = natsel.select(scores["wanda"], RATIO, communities=communities)
    small = natsel.extract(model, survivors)
    natsel.compensate(model, small, survivors, data, group=group)
    return {"scores": scores, "small": dict(small.state_dict())}


class Two(nn.Module):
    """A trunk and two heads, of which a loss looks at one."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)) for _ in range(2)
        )

    def forward(self, x):
        x = self.trunk(x)
        return self.heads[0](x), self.heads[1](x)


def by_first_label(output, labels):
    """Return a loss that depends on other weights in one batch than in another."""
    return nn.functional.cross_entropy(output[int(labels[0]) % 2], labels)


def of_sharded(rank=None):
    """Return what is said of a model that is spread itself; without a rank, of the plain one."""
    told = {}
    for criterion in ({}, {"criterion": by_first_label}):
        torch.manual_seed(0)
        model = Two().double() if criterion else network()
        communities = natsel.discover(model, torch.zeros(2, 8, dtype=torch.float64))
        if rank is not None:
            # What one batch passes by and another does not has to be in one unit with the rest.
            for part in [model.trunk] if criterion else [model[0], model[2]]:
                fully_shard(part)
            fully_shard(model)
        # As while it trains: what is accumulated there is not touched.
        before = [torch.full_like(p, 3.0) for p in model.parameters()]
        for parameter, gradient in zip(model.parameters(), before, strict=True):
            parameter.grad = gradient
        found = natsel.score_all(communities, OF_SHARES, data=batches(rank), **criterion)
        told |= {f"{s}, {len(criterion)}": dict(scores) for s, scores in found.items()}
        if not criterion:
            told["auto, 0"] = dict(natsel.score(communities, "auto", data=batches(rank)))
        assert all(
            p.grad is g and bool((g == 3).all())
            for p, g in zip(model.parameters(), before, strict=True)
        )
    return told


class Residual(nn.Module):
    """A stream to which two branches add."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)) for _ in range(2)
        )
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        for branch in self.branches:
            x = x + branch(x)
        return self.last(x)


def of_branches(rank=None):
    torch.manual_seed(0)
    model = Residual().double()
    example = torch.zeros(2, 8, dtype=torch.float64)
    communities = natsel.discover(model, example, branches=True).only("branch")
    if rank is not None:
        for branch in model.branches:
            fully_shard(branch)
        fully_shard(model)
    return {
        scorer: dict(natsel.score(communities, scorer, data=batches(rank)))
        for scorer in ("loss", "relative-norm", "taylor")
    }


def of_bad_data(rank):
    """Return what each process says where the data of the second one are damaged."""
    model = network()
    communities = natsel.discover(model, torch.zeros(2, 8, dtype=torch.float64))
    fully_shard(model)
    data = batches(rank)
    if rank:
        data[1] = (data[1][0],)
    try:
        natsel.score(communities, "taylor", data=data)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "nothing was raised"


def work(rank, port, folder):
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD)
    alone = {
        s: dict(
            natsel.score(natsel.discover(network(), batches(rank)[0][:1]), s, data=batches(rank))
        )
        for s in ("taylor",)
    }
    found = {**findings(rank, "default"), "alone": alone}
    found |= {"sharded": of_sharded(rank) | of_branches(rank), "bad data": of_bad_data(rank)}
    save_tree(Path(folder) / f"{rank}.safetensors", found)
    dist.destroy_process_group()


@pytest.mark.slow
def test_scores_survivors_and_compensation_are_those_of_one_process(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(tmp_path)), nprocs=WORLD)
    expected, of_one = findings(), of_sharded() | of_branches()
    assert float(next(iter(of_one["loss"].values())).abs().min()) > 0
    first, second = (load_tree(tmp_path / f"{rank}.safetensors") for rank in range(WORLD))
    for found in (first, second):
        for scorer in SCORERS:
            for name, value in expected["scores"][scorer].items():
                torch.testing.assert_close(
                    found["scores"][scorer][name], value, rtol=1e-6, atol=0, msg=scorer
                )
        for name, value in expected["small"].items():
            torch.testing.assert_close(found["small"][name], value, rtol=1e-12, atol=1e-13)
        assert found["sharded"].keys() == of_one.keys()
        for scorer, scores in of_one.items():
            for name, value in scores.items():
                assert torch.equal(found["sharded"][scorer][name], value), (scorer, name)
    assert first["bad data"] == "another process could not read its batches of data"
    assert "batches without labels" in second["bad data"]
    for name, value in first["alone"]["taylor"].items():
        assert not torch.equal(value, second["alone"]["taylor"][name])


@pytest.mark.parametrize("group", ["all", "default", object()])
def test_no_group_of_processes(group):
    communities = natsel.discover(network(), torch.zeros(2, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="group="):
        natsel.score(communities, "magnitude", group=group)
