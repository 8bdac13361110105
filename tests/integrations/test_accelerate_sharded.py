"""FSDP2 by accelerate: its own sharding of model and optimizer, in two processes of gloo.

On processors accelerate leaves its plugin out and takes DistributedDataParallel: that the processes
are of FSDP is set by hand here.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

import natsel
from natsel.common.files import load_tree, save_tree

pytest.importorskip("accelerate")
pytestmark = pytest.mark.slow
WORLD = 2
HARSH = {"rate": 0.5, "capacity": 0.5, "patience": 3}
EXAMPLE = torch.zeros(2, 20, dtype=torch.float64)
ORDERS = ("before", "after")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 33), nn.Linear(33, 20)

    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.last = nn.Linear(20, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def parts():
    torch.manual_seed(0)
    net = Net().double()
    communities = natsel.discover(net, EXAMPLE)
    return net, torch.optim.Adam(net.parameters(), lr=1e-2), communities


def batch(step, rank):
    found = []
    for each in range(WORLD) if rank is None else [rank]:
        generator = torch.Generator().manual_seed(1000 * each + step)
        found.append(torch.randn(16, 20, generator=generator, dtype=torch.float64))
    x = torch.cat(found)
    return x, (x[:, 0] > 0).long()


def under_accelerate(rank, order):
    import accelerate
    from accelerate.utils import DistributedType

    accelerate.state.AcceleratorState._reset_state(True)
    plugin = accelerate.FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Block"],
    )
    accelerator = accelerate.Accelerator(cpu=True, fsdp_plugin=plugin)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    net, optimizer, communities = parts()
    options = {"communities": communities, **HARSH}
    if order == "before":
        evolution = natsel.Evolution(optimizer=optimizer, **options)
    net, optimizer = accelerator.prepare(net, optimizer)
    assert type(net).__name__ == "FSDPNet"
    if order == "after":
        evolution = natsel.Evolution(optimizer=optimizer, **options)
    for step in range(30):
        x, y = batch(step, rank)
        accelerator.backward(nn.functional.cross_entropy(net(x), y))
        accelerator.clip_grad_norm_(net.parameters(), 1e6)
        optimizer.step()
        optimizer.zero_grad()
    state = evolution.state_dict()
    others = {**state, "share": [1 - rank, WORLD]}
    with pytest.raises(ValueError, match=r"natsel\.evolution\.Stateful") as told:
        evolution.load_state_dict(others)
    assert "\n" not in str(told.value)
    evolution.load_state_dict(state)
    small = natsel.extract(net, evolution.survivors(), optimizer=optimizer.optimizer)
    cut = {name: tensor.full_tensor() for name, tensor in small.state_dict().items()}
    return {"masses": evolution.masses, "small": cut}


def work(rank, port, folder):
    torch.set_num_threads(1)
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"},
    }
    found = {order: under_accelerate(rank, order) for order in ORDERS}
    save_tree(Path(folder) / f"{rank}.safetensors", found)
    torch.distributed.destroy_process_group()


def test_masses_and_the_small_model_are_those_of_one_process(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(tmp_path)), nprocs=WORLD)
    net, optimizer, communities = parts()
    evolution = natsel.Evolution(communities, optimizer=optimizer, **HARSH)
    for step in range(30):
        x, y = batch(step, None)
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert 0 < evolution.num_alive < communities.num_populations
    small = natsel.extract(net, evolution.survivors()).state_dict()
    for rank in range(WORLD):
        every = load_tree(tmp_path / f"{rank}.safetensors")
        for found in every.values():
            for name, mass in evolution.masses.items():
                assert torch.equal(found["masses"][name], mass)
            for name, tensor in small.items():
                torch.testing.assert_close(found["small"][name], tensor, rtol=1e-12, atol=1e-13)
