"""The page about dynamics runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from natsel.dynamics import DYNAMICS

PAGE = Path(__file__).parents[2] / "docs" / "dynamics.md"


@pytest.fixture
def restored_table():
    names = set(DYNAMICS)
    yield
    for name in set(DYNAMICS) - names:
        del DYNAMICS[name]


@pytest.mark.usefixtures("restored_table")
def test_the_examples_run():
    page = PAGE.read_text(encoding="utf-8")
    namespace = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), namespace)
    grown, shrunk, extinct = namespace["mass"].tolist()
    assert grown == 1
    assert 0 < shrunk < 0.01
    assert extinct == 0
    assert namespace["matrix"].shape == (64, 64)
    assert "malthus" in DYNAMICS


def test_every_law_of_the_library_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    for law in DYNAMICS.values():
        assert f"| `{law.name}` | {law.space} |" in page
