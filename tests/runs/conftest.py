"""Small real work: digits, narrow networks, one or two epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from natsel.runs import RunConfig
from natsel.runs.splits import Splits, load_splits
from runs.helpers import FAST


@pytest.fixture(scope="session")
def digits() -> Splits:
    return load_splits("digits")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread from the first run on: with another number, sums round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _still_one_thread() -> Iterator[None]:
    """A test may change the number; the next one, and the fixtures it makes, start with one."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def config() -> Callable[..., RunConfig]:
    def make(**changes: Any) -> RunConfig:
        values: dict[str, Any] = {
            "dataset": "digits",
            "epochs": 2,
            "learning_rate": 0.01,
            "sparsities": (0.5, 0.75),
            "options": {"hidden": [24, 12]},
            "ecology": FAST,
        }
        return RunConfig(**(values | changes))

    return make
