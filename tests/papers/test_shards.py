"""A study in shards is the study; a cell that fails is told, and the others go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from natsel.cli.commands import add_command
from natsel.common.errors import NonFiniteError
from natsel.common.json_data import read_json
from natsel.report import to_markdown
from natsel.runs.places import Place, Shard
from natsel.runs.training import Recipe
from natsel_papers import reproduce_evolution as module
from natsel_papers.cli_gather import gather
from natsel_papers.failing import failed_markdown, measured
from natsel_papers.gathering import gather_study
from natsel_papers.report_reproduction import write_reproduction_report
from natsel_papers.reproduce_evolution import Cell, Grid, reproduce_evolution

GRID = Grid(3, "digits", Recipe(1, 64, 0.01), (0.25, 0.5), ("logistic", "replicator"))
NUM_FIRST = 3 * (1 + 2 + 2 + 2)
NUM_SECOND = 3


def made_up(cell: Cell) -> dict[str, Any]:
    """Return what a training would, at once: figures that differ from cell to cell."""
    figures = {"validation": 0.5 + len(cell.label) / 100, "test": 0.6 + hash_of(cell) / 1000}
    cuts: dict[str, Any] = {str(s): figures for s in cell.sparsities}
    if cell.kind == "dense":
        cuts = {method: cuts for method in ("random", "magnitude", "taylor")}
    more = {"extinct_share": 0.5, "pressure": 1.0}
    return {"uncut": figures, "cuts": cuts, "seconds": 1.0, **more}


def hash_of(cell: Cell) -> int:
    return sum(map(ord, cell.label)) % 97


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "train_cell", made_up)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    reproduce_evolution(GRID, tmp_path / "whole", workers=1)
    return tmp_path / "whole"


def shards(folder: Path, count: int, *, after: Path | None = None) -> list[Path]:
    made = []
    for number in range(1, count + 1):
        made.append(folder / f"{number}-of-{count}")
        place = Place(1, shard=Shard(number, count), after=after)
        rows, summary = reproduce_evolution(GRID, made[-1], place=place)
        assert rows == []
        assert summary["kind"] == "shard"
    return made


def run_gather(*arguments: object) -> Any:
    app = typer.Typer()
    add_command(app, "gather", gather)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_union_of_shards_is_the_whole_byte_for_byte(tmp_path: Path, whole: Path) -> None:
    first = shards(tmp_path / "first", 4)
    cells = [{p.name for p in (f / "trainings").iterdir()} for f in first]
    assert sum(map(len, cells)) == len(set.union(*cells)) == NUM_FIRST
    assert {len(c) for c in cells} == {NUM_FIRST // 4, NUM_FIRST // 4 + 1}
    # What comes next depends on the law that was best: it is told, and not made up.
    found = run_gather(*first, "--out", tmp_path / "joined", "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert (told["kind"], told["cells"]) == ("round", NUM_SECOND)
    assert not (tmp_path / "joined" / "table.json").exists()
    second = shards(tmp_path / "second", 2, after=tmp_path / "joined")
    found = run_gather(*second, "--out", tmp_path / "all")
    assert found.exit_code == 0, found.output
    for name in ("table.json", "table.md"):
        if name == "table.md":
            text = to_markdown(read_json(whole / "table.json")) + "\n"
            assert (tmp_path / "all" / name).read_text() == text
        else:
            assert (tmp_path / "all" / name).read_bytes() == (whole / name).read_bytes()


def test_a_round_may_be_finished_without_shards(tmp_path: Path, whole: Path) -> None:
    gather_study(shards(tmp_path / "first", 2), tmp_path / "joined")
    rows, _ = reproduce_evolution(GRID, tmp_path / "joined", workers=1, resume=True)
    assert rows == read_json(whole / "table.json")


@pytest.mark.parametrize("wrong", ["17/16", "0/16", "3", "3/0", "-1/2", "a/b", "1/2/3"])
def test_shards_that_are_none_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"^shard='.*expected K/N with 1 <= K <= N"):
        Shard.of(wrong)


def test_missing_cells_are_named_and_nothing_is_left(tmp_path: Path) -> None:
    first = shards(tmp_path / "first", 4)
    for given in (first[:3], [*first[:3], first[0]]):
        found = run_gather(*given, "--out", tmp_path / "joined")
        assert found.exit_code == 2
        assert "5 are missing: scratch 0.25 seed 0" in found.stderr
        assert len(found.stderr.splitlines()) == 1
        assert not (tmp_path / "joined").exists()


def test_folders_of_other_studies_are_refused(tmp_path: Path, whole: Path) -> None:
    other = Grid(4, *[getattr(GRID, n) for n in ("dataset", "recipe", "sparsities", "dynamics")])
    reproduce_evolution(other, tmp_path / "other", place=Place(1, shard=Shard(1, 2)))
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "config.json").write_text('{"kind": "prune"}')
    for folders, told in (
        ([whole, tmp_path / "other"], "of other seeds"),
        ([whole, tmp_path / "nothing"], "with its config.json"),
        ([tmp_path / "strange"], "one of reproduce evolution, reproduce plateau or spectrum"),
    ):
        found = run_gather(*folders, "--out", tmp_path / "joined")
        assert found.exit_code == 2
        assert told in found.stderr
        assert not (tmp_path / "joined").exists()
    with pytest.raises(ValueError, match=r"^after=.*of the same study.*of other seeds"):
        reproduce_evolution(GRID, tmp_path / "new", place=Place(1, after=tmp_path / "other"))
    assert not (tmp_path / "new").exists()


def test_a_study_of_other_constants_is_refused(tmp_path: Path, whole: Path) -> None:
    config = read_json(whole / "config.json")
    config["constants"]["logistic"] = {}
    (whole / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="one that this version of natsel would write"):
        gather_study([whole], tmp_path / "joined")
    del config["recipe"]
    (whole / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is damaged"):
        gather_study([whole], tmp_path / "joined")


def test_links_in_a_folder_are_not_followed(tmp_path: Path, whole: Path) -> None:
    cell = next((whole / "trainings").iterdir())
    shutil.move(cell, tmp_path / "elsewhere.json")
    cell.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ValueError, match=r"1 are missing"):
        gather_study([whole], tmp_path / "joined")


def test_a_cell_that_fails_is_in_the_table_and_its_seed_in_no_mean(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def fails(cell: Cell) -> dict[str, Any]:
        ran.append(cell.label)
        if cell.label == "scratch 0.5 seed 1":
            raise NonFiniteError("the loss became nan at step 7")
        return made_up(cell)

    monkeypatch.setattr(module, "train_cell", fails)
    out = tmp_path / "out"
    rows, summary = reproduce_evolution(GRID, out, workers=1)
    assert len(ran) == NUM_FIRST + NUM_SECOND - 1
    assert rows[-1] == {
        **{"family": "failed", "method": "scratch 0.5 seed 1", "sparsity": 0.5, "n": 0, "seed": 1},
        **dict.fromkeys(("mean", "low", "high")),
        "error": "NonFiniteError: the loss became nan at step 7",
    }
    assert {r["n"] for r in measured(rows) if r["family"] != "paper"} == {2}
    assert summary["failed"] == rows[-1:]
    assert "seed 1" in summary["sentences"][-1]
    assert "the loss became nan at step 7" in "".join(failed_markdown(rows))
    assert "the loss became nan at step 7" in write_reproduction_report(out).read_text()
    monkeypatch.setattr(module, "train_cell", made_up)
    mended, _ = reproduce_evolution(GRID, out, workers=1, resume=True)
    assert mended == read_json(whole / "table.json")


def test_without_two_whole_seeds_the_table_tells_only_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(cell: Cell) -> dict[str, Any]:
        if cell.kind == "dense" and cell.seed:
            raise MemoryError("out of memory")
        return made_up(cell)

    monkeypatch.setattr(module, "train_cell", fails)
    with pytest.raises(RuntimeError, match=r"fewer than 2 seeds are whole.*dense seed 1"):
        reproduce_evolution(GRID, tmp_path / "out", workers=1)
    told = read_json(tmp_path / "out" / "table.json")
    assert [r["error"] for r in told] == ["MemoryError: out of memory"] * 2
