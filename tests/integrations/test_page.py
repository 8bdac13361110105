"""The recipe for Lightning on the page about trainers runs where Lightning is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "trainers.md"


@pytest.mark.filterwarnings("ignore")
def test_the_recipe_for_lightning_runs_and_removes_something(tmp_path, monkeypatch):
    pytest.importorskip("lightning.pytorch")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"<!-- no-run -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    namespace = {"__name__": "page"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(compile(code, PAGE.name, "exec", dont_inherit=True), namespace)
    assert namespace["small"].net[0].out_features == namespace["callback"].evolution.num_alive < 32
