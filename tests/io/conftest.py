"""Every architecture that can be pruned, cut evenly and unevenly, and saved: once for all tests."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from dataclasses import dataclass
from pathlib import Path

import pytest
from io_helpers import survivors_of
from torch import nn

import natsel
from natsel_bench.zoo import ARCHITECTURES, build_architecture

CUTS = ("even", "uneven")


@dataclass
class Case:
    small: nn.Module
    folder: Path
    inputs: tuple
    dense: nn.Module


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    found = {}
    for name in ARCHITECTURES:
        model, inputs = build_architecture(name)
        communities = natsel.discover(model, inputs)
        for cut in CUTS if communities else ():
            small = natsel.extract(model, survivors_of(communities, cut), verify=False).eval()
            own = not hasattr(model, "constructor") and not name.startswith("hf-")
            folder = natsel.save(
                small, root / f"{name}-{cut}", constructor=((), {}) if own else None
            )
            found[name, cut] = Case(small, folder, inputs, model)
    return found
