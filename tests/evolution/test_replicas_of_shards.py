"""Four processes, two shares of each parameter and two replicas of each share: as one process."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sharded_work import EXAMPLE, OPTIONS, batch, network, sharded, train, whole
from torch.distributed.device_mesh import init_device_mesh

import natsel
from natsel.common.files import load_tree, save_tree

pytestmark = pytest.mark.slow
WORLD = 4
STEPS = range(20)
SCORERS = ("taylor", "wanda", "magnitude")


def run(rank=None, fitness="taylor"):
    """Evolve, score what came out, and extract; without a rank, here alone."""
    net = network()
    communities = natsel.discover(net, EXAMPLE)
    if rank is not None:
        sharded(net, init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))
    evolution = natsel.Evolution(communities, fitness=fitness, **OPTIONS)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    evolution.attach(optimizer)
    train(net, optimizer, rank, STEPS, WORLD)
    optimizer.zero_grad()
    found = {"masses": evolution.masses, "state": whole(net.state_dict())}
    # The last process has one batch less than the others.
    places = range(WORLD) if rank is None else [rank]
    data = [batch(100 + n, each) for each in places for n in range(1 if each == WORLD - 1 else 2)]
    scores = {s: dict(natsel.score(communities, s, data=data)) for s in SCORERS}
    survivors = evolution.survivors(natsel.Sparsity(0.5))
    small = natsel.extract(net, survivors, optimizer=optimizer)
    return {**found, "scores": scores, "small": whole(small.state_dict())}


def work(rank, port, folder):
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD)
    found = {fitness: run(rank, fitness) for fitness in ("taylor", "wanda")}
    save_tree(Path(folder) / f"{rank}.safetensors", found)
    dist.destroy_process_group()


def test_they_evolve_score_and_extract_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(tmp_path)), nprocs=WORLD)
    for fitness in ("taylor", "wanda"):
        expected = run(fitness=fitness)
        assert torch.cat(list(expected["masses"].values())).unique().numel() > 8
        for rank in range(WORLD):
            found = load_tree(tmp_path / f"{rank}.safetensors")[fitness]
            for name, mass in expected["masses"].items():
                assert torch.equal(found["masses"][name], mass), name
            for part in ("state", "small"):
                assert found[part].keys() == expected[part].keys()
                for name, tensor in expected[part].items():
                    torch.testing.assert_close(found[part][name], tensor, rtol=1e-12, atol=1e-13)
            for scorer, scores in expected["scores"].items():
                for name, score in scores.items():
                    torch.testing.assert_close(
                        found["scores"][scorer][name], score, rtol=1e-6, atol=0
                    )
