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


def of_sharded():
    """Return what is said of a model that is spread itself, and why not by gradients."""
    model = network()
    communities = natsel.discover(model, torch.zeros(2, 8, dtype=torch.float64))
    fully_shard(model)
    rank = dist.get_rank()
    found = {}
    for scorer in ("magnitude", "wanda"):
        found[scorer] = dict(natsel.score(communities, scorer, data=batches(rank), group="default"))
    try:
        natsel.score(communities, "taylor", data=batches(rank), group="default")
    except ValueError as error:
        found["taylor"] = str(error)
    return found


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
    found = {**findings(rank, "default"), "alone": alone, "sharded": of_sharded()}
    save_tree(Path(folder) / f"{rank}.safetensors", found)
    dist.destroy_process_group()


@pytest.mark.slow
def test_scores_survivors_and_compensation_are_those_of_one_process(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(tmp_path)), nprocs=WORLD)
    expected = findings()
    first, second = (load_tree(tmp_path / f"{rank}.safetensors") for rank in range(WORLD))
    for found in (first, second):
        for scorer in SCORERS:
            for name, value in expected["scores"][scorer].items():
                torch.testing.assert_close(
                    found["scores"][scorer][name], value, rtol=1e-6, atol=0, msg=scorer
                )
        for name, value in expected["small"].items():
            torch.testing.assert_close(found["small"][name], value, rtol=1e-12, atol=1e-13)
        for scorer in ("magnitude", "wanda"):
            for name, value in expected["scores"][scorer].items():
                torch.testing.assert_close(found["sharded"][scorer][name], value, rtol=1e-6, atol=0)
        assert "a scorer without gradients" in found["sharded"]["taylor"]
    for name, value in first["alone"]["taylor"].items():
        assert not torch.equal(value, second["alone"]["taylor"][name])


@pytest.mark.parametrize("group", ["all", "default", object()])
def test_no_group_of_processes(group):
    communities = natsel.discover(network(), torch.zeros(2, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="group="):
        natsel.score(communities, "magnitude", group=group)
