"""The command line called in this process; its two streams kept apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from natsel.cli.main import app


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NATSEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def natsel() -> Callable[..., object]:
    """Call ``natsel`` with arguments; the result has exit_code, stdout and stderr."""

    def call(*arguments: object) -> object:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return call


FAST = (
    *("--dataset", "digits", "--epochs", "1", "--learning-rate", "0.01", "--hidden", "16,8"),
    *("--sparsity", "0.5", "--set", "rate=0.3", "--set", "horizon=5", "--set", "patience=2"),
    *("--set", "pressure=1.5"),
)


@pytest.fixture
def fast() -> tuple[str, ...]:
    """Options of a run that takes a second."""
    return FAST
