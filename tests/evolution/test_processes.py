"""Several processes train copies of one model: two of gloo, in which each case runs in turn."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import natsel
from natsel.common.files import load_tree, save_tree
from natsel.evolution.replicas import PartedError, Replicas

WORLD = 2


class Net(nn.Module):
    """With a layer that no pass uses."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(20, 32), nn.Linear(32, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.last(self.first(x).relu())


def batch(step, rank):
    x = torch.randn(16, 20, generator=torch.Generator().manual_seed(1000 * rank + step))
    return x, (x[:, 0] > 0).long()


def trained(rank, order, *, fitness="taylor", num_steps=12, spoil=None, **options):
    """Return model and evolution after training; without processes, on the batches of both."""
    torch.manual_seed(0)
    net = Net()
    find = {"find_unused_parameters": True}
    wrapped = DistributedDataParallel(net, **find) if order == "before" else net
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    evolution = natsel.Evolution(
        natsel.discover(net, torch.zeros(2, 20)),
        optimizer=optimizer,
        fitness=fitness,
        rate=0.3,
        **options,
    )
    if order == "sharded":
        wrapped = fully_shard(net)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        evolution.attach(optimizer)
    if order == "after":
        wrapped = DistributedDataParallel(net, **find)
    average = None if order == "sharded" else AveragedModel(wrapped)
    for step in range(num_steps):
        own = [batch(step, r) for r in ([rank] if rank is not None else range(WORLD))]
        x, y = (torch.cat(parts) for parts in zip(*own, strict=True))
        optimizer.zero_grad()
        F.cross_entropy(wrapped(x), y).backward()
        if spoil == step and rank == 1:
            evolution._populations.mass[0] *= 0.5
        optimizer.step()
        if average is not None:
            average.update_parameters(wrapped)
    return wrapped, evolution, average


def findings(wrapped, evolution, average):
    state = {n.removeprefix("module."): t for n, t in wrapped.state_dict().items()}
    average = average.module.state_dict()
    return {
        "masses": dict(evolution.masses),
        "state": state,
        "average": {n.removeprefix("module."): t for n, t in average.items()},
    }


def message_of(error, call):
    try:
        call()
    except error as found:
        return str(found)
    return "nothing was raised"


def work(rank, port, folder):
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD)
    found = {
        f"{order} {fitness}": findings(*trained(rank, order, fitness=fitness))
        for order in ("before", "after")
        for fitness in ("taylor", "wanda", "variance")
    }
    lonely = trained(rank, "before", fitness="wanda", process_group=None)
    found["lonely"] = findings(*lonely)
    for name, group in (("one step", "default"), ("one step alone", None)):
        options = {"fitness": "wanda", "num_steps": 1, "process_group": group}
        found[name] = trained(rank, "before", **options)[1]._populations.average.clone()
    found["parted"] = message_of(
        PartedError, lambda: trained(rank, "before", spoil=4, compare_every=3)
    )
    quiet = message_of(PartedError, lambda: trained(rank, "before", spoil=4, compare_every=None))
    found["quiet"] = quiet
    sharded, evolution, _ = trained(rank, "sharded")
    state = {n: t.full_tensor() for n, t in sharded.state_dict().items()}
    found["sharded"] = {"masses": evolution.masses, "state": state}
    save_tree(Path(folder) / f"{rank}.safetensors", found)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(folder)), nprocs=WORLD)
    return [load_tree(folder / f"{rank}.safetensors") for rank in range(WORLD)]


def equal(a, b):
    return list(a) == list(b) and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("fitness", ["taylor", "wanda", "variance"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_processes_have_equal_masses_and_weights(processes, order, fitness):
    first, second = (found[f"{order} {fitness}"] for found in processes)
    for part in ("masses", "state", "average"):
        assert equal(first[part], second[part])
    assert torch.cat(list(first["masses"].values())).unique().numel() > 8


@pytest.mark.parametrize("order", ["before", "after"])
def test_gradients_are_reduced_before_they_are_read(processes, order):
    """One process on all batches gives the same, up to the order of sums."""
    found, expected = processes[0][f"{order} taylor"], findings(*trained(None, "never"))
    for part in ("masses", "state", "average"):
        assert list(found[part]) == list(expected[part])
        for name, tensor in expected[part].items():
            torch.testing.assert_close(found[part][name], tensor, rtol=1e-3, atol=1e-4)


def test_activations_are_seen_over_the_samples_of_all_processes(processes):
    """Each by itself, on batches of its own, gives others."""
    _, together, _ = trained(None, "never", fitness="wanda", num_steps=1)
    first, second = (found["lonely"]["masses"] for found in processes)
    assert not equal(first, second)
    for found in processes:
        alone = torch.stack([other["one step alone"] for other in processes])
        assert not torch.equal(*alone)
        torch.testing.assert_close(found["one step"], together._populations.average)


def test_masses_that_part_are_told_with_process_and_step(processes):
    for found in processes:
        assert found["parted"].startswith("process 1 has other masses than process 0 at step 6:")
        assert "process_group=None" in found["parted"]
        assert found["quiet"] == "nothing was raised"


def test_a_model_that_is_sharded_evolves_as_in_one_process(processes):
    expected = findings(*trained(None, "never"))
    for found in processes:
        for part, tensors in found["sharded"].items():
            for name, tensor in tensors.items():
                torch.testing.assert_close(tensor, expected[part][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process_group": "all"}, "process_group='all'.*'default'"),
        ({"compare_every": 0}, "compare_every=0"),
        ({"compare_every": True}, "compare_every=True"),
        ({"compare_every": 1.5}, r"compare_every=1\.5"),
    ],
)
def test_options_that_are_not_allowed_are_named(options, message):
    net = Net()
    communities = natsel.discover(net, torch.zeros(2, 20))
    with pytest.raises(ValueError, match=message):
        natsel.Evolution(communities, **options)
    assert type(net.last) is nn.Linear


def test_a_single_process_compares_with_nobody():
    replicas = Replicas("default", 1)
    assert replicas.size() == 1
    values = torch.tensor([1.0, 2.0])
    assert replicas.group() is None
    replicas.compare_when_due(values, 1, torch.Generator())
