"""What two processes of gloo do with a model under ``fully_shard``, case by case."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

import natsel
from natsel.common.files import save_tree
from natsel.common.sharding.reducing import counted_traffic
from natsel.evolution import PartedError, Stateful

WORLD = 2
EXAMPLE = torch.zeros(2, 20, dtype=torch.float64)
SPOILT = (2, 5)
OPTIONS = {"rate": 0.5, "capacity": 0.5, "patience": 3}


class Net(nn.Module):
    """Two residual blocks of a width that two processes do not share evenly."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(20, 33), nn.ReLU(), nn.Linear(33, 20)) for _ in range(2)
        )
        self.last = nn.Linear(20, 3)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def network():
    torch.manual_seed(0)
    return Net().double()


def sharded(net, mesh=None):
    for block in net.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def batch(step, rank, world=WORLD):
    """Return the samples of one process, or of all: as many steps, the same global batch."""
    parts = []
    for each in range(world) if rank is None else [rank]:
        generator = torch.Generator().manual_seed(1000 * each + step)
        parts.append(torch.randn(16, 20, generator=generator, dtype=torch.float64))
    x = torch.cat(parts)
    return x, (x[:, 0] > 0).long()


def train(net, optimizer, rank, steps, world=WORLD):
    for step in steps:
        x, y = batch(step, rank, world)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


def begin(rank, order, **options):
    """Return a network under evolution with its optimizer; without a rank, here alone."""
    net = network()
    if order == "discovered after":
        sharded(net)
    communities = natsel.discover(net, EXAMPLE)
    if order == "sharded before":
        sharded(net)
    evolution = natsel.Evolution(communities, **{**OPTIONS, **options})
    if order == "sharded after":
        sharded(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    evolution.attach(optimizer)
    return net, evolution, optimizer


def whole(state):
    return {
        n: t.full_tensor() if hasattr(t, "full_tensor") else t.clone() for n, t in state.items()
    }


def evolved(rank, order, **options):
    net, evolution, optimizer = begin(rank, order, **options)
    train(net, optimizer, rank, range(40))
    return {"masses": evolution.masses, "state": whole(net.state_dict())}


def extracted(rank, order, folder):
    """Evolve, remove, train on; then save."""
    net, evolution, optimizer = begin(rank, order)
    train(net, optimizer, rank, range(40))
    survivors = evolution.survivors()
    small = natsel.extract(net, survivors, optimizer=optimizer)
    cut = whole(small.state_dict())
    train(small, optimizer, rank, range(40, 45))
    natsel.save(small, Path(folder) / "small")
    train(net, torch.optim.SGD(net.parameters(), lr=0.1), rank, [45])  # the dense one goes on, too
    return {
        "survivors": dict(survivors),
        "cut": cut,
        "trained on": whole(small.state_dict()),
        "dense": whole(net.state_dict()),
    }


def parts_of(net, evolution, optimizer):
    return {
        "model": get_model_state_dict(net),
        "optimizer": get_optimizer_state_dict(net, optimizer),
        "evolution": Stateful(evolution),
    }


def stopped(rank, folder):
    """Stop in the middle with a checkpoint; go on in a new run, and here."""
    net, evolution, optimizer = begin(rank, "sharded before")
    train(net, optimizer, rank, range(25))
    dcp.save(parts_of(net, evolution, optimizer), checkpoint_id=Path(folder) / "checkpoint")
    train(net, optimizer, rank, range(25, 40))
    return {"masses": evolution.masses, "state": whole(net.state_dict())}


def resumed(rank, order, folder):
    net, evolution, optimizer = begin(rank, order)
    evolution.detach()
    parts = parts_of(net, evolution, optimizer)
    dcp.load(parts, checkpoint_id=Path(folder) / "checkpoint")
    set_model_state_dict(net, parts["model"])
    set_optimizer_state_dict(net, optimizer, parts["optimizer"])
    evolution.attach(optimizer)
    train(net, optimizer, rank, range(25, 40))
    return {"masses": evolution.masses, "state": whole(net.state_dict())}


def message_of(error, call):
    try:
        call()
    except error as found:
        return str(found)
    return "nothing was raised"


def refusals(rank):
    def with_own_seed():
        net, _, optimizer = begin(rank, "sharded before", seed=rank, dynamics="wright-fisher")
        train(net, optimizer, rank, range(2))

    def with_own_communities():
        net = network()
        communities = natsel.discover(net, EXAMPLE)
        sharded(net)
        some = communities.without(list(communities)[:rank])
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        natsel.Evolution(some, optimizer=optimizer, **OPTIONS)
        train(net, optimizer, rank, range(1))

    net, evolution, _ = begin(rank, "sharded before")
    others = {n: torch.arange(c.size) != rank for n, c in evolution.communities.items()}
    options = {"communities": evolution.communities}
    return {
        "seed": message_of(PartedError, with_own_seed),
        "communities": message_of(PartedError, with_own_communities),
        "survivors": message_of(ValueError, lambda: natsel.extract(net, others, **options)),
    }


def overflowed(rank):
    """Train with a scaled loss that is infinite in two steps, in the second process alone."""
    net, evolution, optimizer = begin(rank, "never" if rank is None else "sharded before")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(8):
        if rank is None and step in SPOILT:
            continue
        x, y = batch(step, rank)
        optimizer.zero_grad()
        loss = scaler.scale(F.cross_entropy(net(x), y))
        (loss * torch.inf if rank == 1 and step in SPOILT else loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return {"masses": evolution.masses, "steps": evolution.num_steps}


def traffic(rank):
    net, _, optimizer = begin(rank, "sharded before")
    train(net, optimizer, rank, range(2))
    with counted_traffic() as found:
        train(net, optimizer, rank, [2])
    return {"calls": found.num_calls, "bytes": found.num_bytes}


FITNESSES = ("magnitude", "gradient", "wanda", "variance", "joint", "fisher")
ORDERS = ("sharded before", "sharded after", "discovered after")


def work(rank, port, folder):
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD)
    found = {f"{order}, taylor": evolved(rank, order) for order in ORDERS}
    for fitness in FITNESSES:
        found[f"sharded before, {fitness}"] = evolved(rank, "sharded before", fitness=fitness)
    found["extracted"] = extracted(rank, "sharded before", folder)
    found["stopped"] = stopped(rank, folder)
    found["resumed"] = resumed(rank, "sharded after", folder)
    found["refusals"] = refusals(rank)
    found["overflowed"] = overflowed(rank)
    found["traffic"] = traffic(rank)
    save_tree(Path(folder) / f"{rank}.safetensors", found)
    dist.destroy_process_group()
