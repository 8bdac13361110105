"""Every example runs, keeps its promise, and prints what it says it prints."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest
import torch

import natsel.dynamics
from natsel.communities.labels.propagation import RULES

FOLDER = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))

PRINTED = {
    "audit_a_criterion": (
        r"surprise is l2: one order, ties included",
        r"loudest and l2 agree on \d+ % of the survivors at 50 %",
        r"'l2': '(\d+\.\d%)', 'surprise': '\1'",
    ),
    "evolve_in_your_loop": (
        r"\d\d\.\d% of the populations went extinct; the environment carries 30\.0%",
        r"\(0\): Linear\(in_features=64, out_features=\d\d, bias=True\)",
        r"(\d\d\.\d%) before, \1 after the removal",
    ),
    "fine_tune_a_vit": (
        r"\d\d\.\d% of the populations went extinct; the environment carries 60\.0%",
        r"vit\.layers\.1\.mlp\.fc1: \d\d of 64 neurons are left",
        r"accuracy (\d\d\.\d%) before, \1 after the removal, \1 from the folder",
    ),
    "language_model": (
        r"parameters 64,320 -> 1\d,\d{3}",
        r"pruned: perplexity .*paired t-test over windows, 40 windows",
        r"recovered: perplexity .*paired t-test over windows, 40 windows",
    ),
    "live_cache": (
        r"LiveCache\(snapkv: 64 of 252 entries held, 4,096 bytes, 25\.4% of the whole cache\)",
        r"LiveCache\(loudest_value: 64 of 252 entries held",
        r"under the replicator the heads hold \[\d\d?, \d\d?\] of 63 entries",
        r"Verification\(passed: \S+ of the removal's effect in float64",
    ),
    "own_law": (r"differ by \de-0\d", r"extinct of 96: \{'gompertz': \d+, 'logistic': \d+\}"),
    "own_operator_rule": (
        r"without the rule: 0 communities",
        r"first: no rule for example\.soft_clip\.default",
        r"with the rule: .*64 neurons",
        r"in_features=20, out_features=16",
    ),
    "prune_and_fine_tune": (
        r"MACs per sample: 88,064 -> 4\d,\d{3}",
        r"trained \d\d\.\d%, cut \d\d\.\d%, fine-tuned \d\d\.\d%",
    ),
    "transformers_to_a_folder": (
        r"intermediate_size: 128 -> 64\nnum_attention_heads: 8 -> 4\nnum_key_value_heads: 4 -> 2",
        r"(?m)^config\.json, generation_config\.json, model\.safetensors$",
    ),
}


@pytest.fixture
def _tables_are_left_as_they_were():
    tables = (RULES, natsel.dynamics.DYNAMICS)
    before = [set(table) for table in tables]
    yield
    for table, names in zip(tables, before, strict=True):
        for name in set(table) - names:
            del table[name]


@pytest.mark.usefixtures("_tables_are_left_as_they_were")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_keeps_its_promise(script, capsys, tmp_path, monkeypatch):
    if script.stem in ("transformers_to_a_folder", "live_cache"):
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    for line in PRINTED[script.stem]:
        assert re.search(line, printed), f"{line!r} is not in\n{printed}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_is_short_seeded_and_says_what_it_prints(script):
    text = script.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert 20 <= len(text.splitlines()) <= 60
    assert "Prints " in ast.get_docstring(tree)
    assert "torch.manual_seed(0)" in text
    assert isinstance(tree.body[-1], ast.Assert | ast.With)


def test_the_page_lists_every_example_once():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+\.py)\]\((\w+\.py)\) \| .+ \|$", page, re.MULTILINE)
    assert all(shown == linked for shown, linked in rows)
    assert sorted(name for name, _ in rows) == [script.name for script in SCRIPTS]
    assert set(PRINTED) == {script.stem for script in SCRIPTS}
