"""Two processes with a model under ``fully_shard`` do what one does with the same global batch."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.multiprocessing as mp
from sharded_work import (
    FITNESSES,
    ORDERS,
    WORLD,
    batch,
    evolved,
    extracted,
    network,
    overflowed,
    resumed,
    work,
)

import natsel
from natsel.common.files import load_tree

pytestmark = pytest.mark.slow
CASES = [(order, "taylor") for order in ORDERS] + [("sharded before", f) for f in FITNESSES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(folder)), nprocs=WORLD)
    return folder


@pytest.fixture(scope="module")
def processes(folder):
    return [load_tree(folder / f"{rank}.safetensors") for rank in range(WORLD)]


def near(found, expected):
    """Tell whether weights are equal up to the order in which gradients are added up."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=1e-13)


def same(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("order", "fitness"), CASES)
def test_masses_are_bit_for_bit_those_of_one_process(processes, order, fitness):
    expected = evolved(None, "never", fitness=fitness)
    assert torch.cat(list(expected["masses"].values())).unique().numel() > 8
    for found in processes:
        same(found[f"{order}, {fitness}"]["masses"], expected["masses"])
        near(found[f"{order}, {fitness}"]["state"], expected["state"])


def test_the_small_model_is_that_of_one_process_and_trains_on_as_it_does(processes, tmp_path):
    expected = extracted(None, "never", tmp_path)
    assert any(not mask.all() for mask in expected["survivors"].values())
    for found in processes:
        same(found["extracted"]["survivors"], expected["survivors"])
        for part in ("cut", "trained on", "dense"):
            near(found["extracted"][part], expected[part])


def test_the_first_process_writes_a_model_that_any_process_loads(processes, folder):
    loaded = natsel.load(folder / "small", model=network())
    near(dict(loaded.state_dict()), processes[0]["extracted"]["trained on"])
    assert loaded(batch(0, 0)[0]).shape == (16, 3)


def test_a_run_goes_on_from_a_distributed_checkpoint(processes):
    for found in processes:
        for part in ("masses", "state"):
            same(found["resumed"][part], found["stopped"][part])


def test_one_process_goes_on_where_two_stopped(processes, folder):
    found = resumed(None, "never", folder)
    same(found["masses"], processes[0]["stopped"]["masses"])
    near(found["state"], processes[0]["stopped"]["state"])


def test_processes_that_do_not_agree_are_told_in_one_line(processes):
    for found in processes:
        assert found["refusals"]["seed"].startswith("process 1 has another seed than process 0")
        said = found["refusals"]["communities"]
        assert said.startswith("process 1 has other communities than process 0: call natsel.dis")
        said = found["refusals"]["survivors"]
        assert "others in process 1 than in process 0" in said
        assert "\n" not in said


def test_a_step_that_overflows_in_one_process_evolves_nothing_in_any(processes):
    expected = overflowed(None)
    assert expected["steps"] == 6
    for found in processes:
        assert found["overflowed"]["steps"] == 6
        same(found["overflowed"]["masses"], expected["masses"])


def test_a_step_sends_one_number_per_population(processes):
    for found in processes:
        assert found["traffic"] == {"calls": 1, "bytes": 2 * 33 * 8}
