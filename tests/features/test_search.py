"""Optimizers of fusion weights, on functions whose maximum is known."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from natsel.features.search import OPTIMIZERS, maximise, optimizer

ROTATION = torch.linalg.qr(
    torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
)[0]


def sphere(x: Tensor) -> Tensor:
    return -(x - 0.3).square().sum(1)


def rastrigin(x: Tensor) -> Tensor:
    z = 5.12 * (x - 0.2)
    return -(10 * z.shape[1] + (z**2 - 10 * torch.cos(2 * math.pi * z)).sum(1))


def ellipsoid(x: Tensor) -> Tensor:
    scales = torch.logspace(0, 3, 4, dtype=torch.float64)
    return -(((x - 0.1) @ ROTATION).square() * scales).sum(1)


def best(name: str, function: object, seed: int, dimension: int = 4) -> float:
    generator = torch.Generator().manual_seed(seed)
    searcher = optimizer(name, dimension, generations=50, population=16, generator=generator)
    return maximise(function, searcher, generations=50).value  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [sphere, rastrigin, ellipsoid])
@pytest.mark.parametrize("name", ["dbo", "cma"])
def test_a_search_beats_random_search_of_equal_budget(name: str, function: object) -> None:
    seeds = range(5)
    mine = sorted(best(name, function, s) for s in seeds)[2]
    control = sorted(best("random", function, s) for s in seeds)[2]
    assert mine > control / 2


@pytest.mark.parametrize("name", ["dbo", "cma"])
def test_the_sphere_is_solved(name: str) -> None:
    assert best(name, sphere, 0) > -1e-3


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dimension", [1, 3])
def test_candidates_stay_in_the_box_and_follow_from_the_seed(name: str, dimension: int) -> None:
    def run() -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)
        searcher = optimizer(name, dimension, generations=6, population=5, generator=generator)
        asked = []
        for _ in range(6):
            x = searcher.ask()
            assert x.shape == (5, dimension)
            assert x.dtype == torch.float64
            assert float(x.abs().max()) <= 1
            searcher.tell(x, sphere(x))
            asked.append(x)
        return asked

    python, numpy = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    state = torch.get_rng_state()
    first, second = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert random.getstate() == python
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy)  # noqa: NPY002


def test_the_best_is_the_best_that_was_seen_and_history_never_falls() -> None:
    seen: list[float] = []

    def objective(x: Tensor) -> Tensor:
        values = rastrigin(x)
        seen.extend(values.tolist())
        return values

    generator = torch.Generator().manual_seed(0)
    searcher = optimizer("dbo", 2, generations=8, population=6, generator=generator)
    found = maximise(objective, searcher, generations=8)
    assert found.value == max(seen)
    assert len(seen) == 48
    assert list(found.history) == sorted(found.history)
    assert rastrigin(found.candidate[None]).item() == found.value


def test_bad_input_is_refused_in_one_line() -> None:
    generator = torch.Generator()
    with pytest.raises(ValueError, match="optimizer='adam'"):
        optimizer("adam", 2, generations=1, population=2, generator=generator)
    with pytest.raises(ValueError, match="population=1"):
        optimizer("dbo", 2, generations=1, population=1, generator=generator)
    with pytest.raises(ValueError, match="dimension=0"):
        optimizer("dbo", 0, generations=1, population=2, generator=generator)
