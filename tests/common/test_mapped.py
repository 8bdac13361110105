"""Mapped weights leave memory and come back as they were; what was written to them stays."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import natsel
from natsel.common import mapped

PAGES = 64
PAGE = mmap.PAGESIZE
needs_pages = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells of its pages")


@pytest.fixture
def ours(monkeypatch):
    monkeypatch.setattr(mapped, "_allowed", True)


@pytest.fixture
def weight(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.arange(PAGES * PAGE // 4, dtype=torch.float32)}, path)
    with safe_open(path, "pt") as file:
        return file.get_tensor("w")


def resident(weight):
    """Count the pages of a tensor that are in memory."""
    first, last = weight.data_ptr() // PAGE, (weight.data_ptr() + weight.nbytes) // PAGE
    with open("/proc/self/pagemap", "rb") as pages:
        pages.seek(first * mapped.ENTRY)
        told = pages.read((last - first) * mapped.ENTRY)
    entries = np.frombuffer(told, dtype=np.uint64)
    return int((entries & mapped.THERE != 0).sum())


@needs_pages
def test_what_was_read_leaves_and_comes_back_the_same(weight, ours):
    total = weight.sum()
    assert resident(weight) >= PAGES - 1
    assert mapped.let_go() >= PAGES * PAGE
    assert resident(weight) == 0
    assert torch.equal(weight.sum(), total)
    assert resident(weight) >= PAGES - 1


@needs_pages
def test_what_was_written_stays(weight, ours):
    weight[10_000:10_100] = -1.0
    weight[-1] = -2.0
    expected = weight.clone()
    mapped.let_go()
    assert 1 <= resident(weight) <= 4
    assert torch.equal(weight, expected)


@needs_pages
def test_nothing_leaves_a_process_that_others_use(weight, monkeypatch):
    monkeypatch.setattr(mapped, "_allowed", False)  # whatever commands ran in this process
    weight.sum()
    before = resident(weight)
    assert mapped.let_go() == 0
    with mapped.letting_go(stride=1):
        nn.Linear(1, 1)(torch.zeros(1))
    assert resident(weight) == before


@needs_pages
def test_it_leaves_while_models_run_and_stays_while_they_are_timed(weight, ours):
    layer = nn.Linear(4, 4)
    with mapped.letting_go(stride=2 * 80):  # of 20 numbers each
        with mapped.staying():
            for _ in range(3):
                layer(weight[:4])
            weight.sum()
        assert resident(weight) >= PAGES - 1
        layer(weight[:4])
        assert resident(weight) >= PAGES - 1
        layer(torch.zeros(4))
        assert resident(weight) == 0
    weight.sum()
    layer(torch.zeros(4)), layer(torch.zeros(4))
    assert resident(weight) >= PAGES - 1


def test_what_is_traced_meanwhile_is_traced_as_without(ours, weight):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    plain = natsel.discover(model, torch.zeros(1, 4))
    with mapped.letting_go(stride=1):
        found = natsel.discover(model, torch.zeros(1, 4))
    assert {n: c.size for n, c in found.items()} == {n: c.size for n, c in plain.items()} != {}
