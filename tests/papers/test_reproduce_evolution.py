"""The grid on digits with narrow networks; the table from results that were made up."""

import itertools
import shutil
import subprocess
import sys

import pytest

from natsel.common.files import read_json
from natsel.dynamics import DYNAMICS
from natsel.runs.statistics import holm, mean_interval, paired
from natsel.runs.training import Recipe
from natsel_papers import reproduce_evolution as module
from natsel_papers.evolution_table import PAPER, summarize, table
from natsel_papers.reproduce_evolution import Grid, best_law, reproduce_evolution
from runs.helpers import leftovers

LAWS = ("logistic", "replicator")
SPARSITIES = (0.25, 0.5)
WIDTHS = (24, 12)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setattr(module, "HIDDEN", WIDTHS)


def grid(**changes):
    values = {
        "seeds": 2,
        "dataset": "digits",
        "recipe": Recipe(epochs=1, batch_size=64, learning_rate=0.01),
        "sparsities": SPARSITIES,
        "dynamics": LAWS,
    }
    return Grid(**(values | changes))


def test_a_law_of_ones_own_does_not_change_the_published_experiment():
    code = (
        "import natsel.dynamics as d; law = d.get('logistic')._replace(name='own'); "
        "d.register(law); from natsel_papers.reproduce_evolution import Grid; "
        "print(*Grid().dynamics)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == [
        *("logistic", "lotka-volterra", "participation"),
        *("replicator", "replicator-mutator", "wright-fisher"),
    ]
    assert set(printed.split()) <= set(DYNAMICS)


def made_up(asked, accuracy):
    """Make results of a whole grid: ``accuracy(cell, split)`` of every network and cut."""

    def figures(cell):
        return {split: accuracy(cell, split) for split in ("validation", "test")}

    results = {}
    for seed in range(asked.seeds):
        dense = asked.cell("dense", seed)
        cuts = {str(s): figures(dense) for s in asked.sparsities}
        methods = {m: cuts for m in ("random", "magnitude", "taylor")}
        results[dense] = {"uncut": figures(dense), "cuts": methods, "seconds": 1.0}
        for sparsity in asked.sparsities:
            cell = asked.cell("scratch", seed, sparsity=sparsity)
            results[cell] = {"uncut": figures(cell), "cuts": {}, "seconds": 1.0}
        for law, kind in itertools.product(asked.dynamics, ("paper", "matched")):
            for sparsity in (None,) if kind == "paper" else asked.sparsities:
                cell = asked.cell(kind, seed, dynamics=law, sparsity=sparsity)
                wanted = asked.sparsities if sparsity is None else (sparsity,)
                results[cell] = {
                    "uncut": figures(cell),
                    "cuts": {str(s): figures(cell) for s in wanted},
                    "seconds": 1.0,
                    "extinct_share": sparsity or 0.0,
                    "pressure": 1.0,
                }
    return results


def rows_of(asked, results):
    return table(results, widths=WIDTHS, sparsities=asked.sparsities, dynamics=asked.dynamics)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduction") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HIDDEN", WIDTHS)
        rows, summary = reproduce_evolution(grid(), folder, workers=1)
    return folder, rows, summary


def test_rows(finished):
    folder, rows, _ = finished
    assert rows == read_json(folder / "table.json")
    for row in rows:
        assert {"family", "method", "sparsity", "mean", "low", "high", "n"} <= set(row)
        assert row["low"] <= row["mean"] <= row["high"]
        if row["family"] != "paper":
            assert row["n"] == 2
            assert row["mean"] == pytest.approx(sum(row["seeds"]) / 2)
            assert all(0 <= v <= 1 for v in row["seeds"])
    methods = {(r["family"], r["method"], r.get("protocol")) for r in rows}
    assert methods == {
        ("paper", "Khan & Shah 2026", None),
        ("scratch", "dense 24-12", None),
        ("scratch", "from scratch", None),
        ("control", "random", None),
        ("one-shot", "magnitude", None),
        ("one-shot", "taylor", None),
        *(("dynamic", law, protocol) for law in LAWS for protocol in ("paper", "matched")),
    }
    assert [r["size"] for r in rows if r["method"] == "from scratch"] == ["18-9", "12-6"]
    stated = {r["sparsity"]: r["mean"] for r in rows if r["family"] == "paper"}
    assert stated == {s: middle for s, (middle, _, _) in PAPER.items()}


def test_matched_runs_are_for_all_laws_at_shared_sparsities_and_for_the_best_elsewhere(finished):
    _, rows, summary = finished
    matched = {(r["method"], r["sparsity"]) for r in rows if r.get("protocol") == "matched"}
    assert matched == {(law, 0.5) for law in LAWS} | {(summary["best"], 0.25)}
    for row in rows:
        if row.get("protocol") == "matched":
            assert row["capacity"] == 1 - row["sparsity"]
            assert {"uncut", "extinct_share", "pressure", "validation"} <= set(row)


def test_holm_runs_over_all_cells_compared(finished):
    _, rows, _ = finished
    scratch = {r["sparsity"]: r["seeds"] for r in rows if r["method"] == "from scratch"}
    cut = [r for r in rows if r["family"] == "dynamic" and r["sparsity"] > 0]
    tests = [paired(r["seeds"], scratch[r["sparsity"]]) for r in cut]
    assert len(cut) == 2 * 2 + 2 + 1
    assert [r["p_value"] for r in cut] == holm([t.p_value for t in tests])
    assert [r["difference"] for r in cut] == [t.difference for t in tests]
    assert not any("p_value" in r for r in rows if r not in cut)


def test_summary(finished):
    folder, _, summary = finished
    assert summary == read_json(folder / "summary.json")
    assert summary["best"] in LAWS
    assert len(summary["sentences"]) == 1
    assert summary["sentences"][0].startswith("50% of the neurons removed")
    assert summary["best"] in summary["sentences"][0]
    assert [set(c) for c in summary["claims"]] == [
        {"claim", "floor", "aim", "value", "low", "high", "p_value", "verdict"}
    ] * 2
    assert summary["config"]["hidden"] == list(WIDTHS)
    assert leftovers(folder) == []


def test_going_on_with_a_part_of_the_cache_gives_the_same_table(finished, tmp_path):
    folder, rows, summary = finished

    class Stopped(Exception):
        pass

    def progress(what, done, total):
        if what == "train networks" and done == 3:
            raise Stopped

    out = tmp_path / "out"
    with pytest.raises(Stopped):
        reproduce_evolution(grid(), out, workers=1, progress=progress)
    own = {path.name for path in (out / "trainings").iterdir()}
    assert len(own) == 3
    assert not (out / "table.json").exists()
    # Only some of what is left is trained again.
    left = sorted({path.name for path in (folder / "trainings").iterdir()} - own)
    for name in left[3:]:
        shutil.copy(folder / "trainings" / name, out / "trainings")
    again, told = reproduce_evolution(grid(), out, workers=1, resume=True)
    assert again == rows
    assert {k: v for k, v in told.items() if k != "seconds"} == {
        k: v for k, v in summary.items() if k != "seconds"
    }
    assert (out / "table.json").read_bytes() == (folder / "table.json").read_bytes()


def test_the_folder_of_another_grid_is_refused(finished):
    folder, _, _ = finished
    with pytest.raises(ValueError, match=r"another run \(of other seeds\)"):
        reproduce_evolution(grid(seeds=3), folder, resume=True)


def test_the_best_law_is_chosen_by_validation_and_reported_by_test():
    # The law that is better on the validation split is worse on the test split.
    def accuracy(cell, split):
        better = (cell.dynamics == "logistic") == (split == "validation")
        return (0.9 if better else 0.6) + 0.01 * cell.seed

    asked = grid()
    results = made_up(asked, accuracy)
    best = best_law(asked, results, [0.5])
    assert best == "logistic"
    rows = rows_of(asked, results)
    for row in rows:
        if row["family"] == "dynamic":
            expected = [0.6, 0.61] if row["method"] == "logistic" else [0.9, 0.91]
            assert row["seeds"] == pytest.approx(expected)
    shown = next(r for r in rows if r.get("protocol") == "matched" and r["method"] == "logistic")
    assert shown["validation"] == pytest.approx(0.905)
    summary = summarize(rows, best, {})
    assert summary["claims"][-1]["value"] == pytest.approx(0.605)
    assert "logistic keeps 60.50%" in summary["sentences"][0]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_no_reported_figure_but_the_one_named_validation_knows_that_split(split):
    asked = grid()
    plain = rows_of(asked, made_up(asked, lambda cell, s: 0.5 + 0.01 * cell.seed))
    moved = rows_of(
        asked, made_up(asked, lambda cell, s: 0.5 + 0.01 * cell.seed + 0.1 * (s == split))
    )
    changed = set()
    for one, other in zip(plain, moved, strict=True):
        changed |= {k for k in one if one[k] != pytest.approx(other[k], abs=1e-9)}
    if split == "validation":
        assert changed == {"validation"}
    else:
        assert {"mean", "low", "high", "seeds", "uncut"} <= changed
        assert "validation" not in changed


def test_verdicts():
    # Evolved networks are 10 points above their size from scratch, with a little noise.
    asked = grid(seeds=5, dynamics=("logistic",))
    noise = (0.0, 0.004, 0.001, 0.003, 0.002)

    def accuracy(cell, split):
        if cell.kind == "scratch":
            return 0.8 + noise[cell.seed]
        return 0.9 + noise[(cell.seed + 2) % 5]

    rows = rows_of(asked, made_up(asked, accuracy))
    cut = [r for r in rows if r["family"] == "dynamic" and r["sparsity"] > 0]
    assert all(r["better"] and not r["worse"] for r in cut)
    assert all(r["difference"] == pytest.approx(0.1) for r in cut)
    assert cut[0]["mean"] == mean_interval(cut[0]["seeds"]).mean
    summary = summarize(rows, "logistic", {})
    assert "better than a network of that size" in summary["sentences"][0]
    assert {c["verdict"] for c in summary["claims"]} == {"below the floor"}
    assert "Mean of 5 seeds" in summary["notes"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 1}, "^seeds=1"),
        ({"seeds": 2.0}, r"^seeds=2\.0"),
        ({"dataset": "mnisst"}, "^dataset='mnisst'"),
        ({"dynamics": ("logistik",)}, "^dynamics='logistik'"),
        ({"dynamics": ()}, r"^dynamics=\[\]"),
        ({"sparsities": ()}, r"^sparsities=\[\]"),
        ({"sparsities": (0.0, 0.5)}, r"^sparsities=\[0\.0, 0\.5\]"),
        ({"sparsities": (1.0,)}, r"^sparsity=1\.0"),
        ({"sparsities": (0.5, 0.5)}, "each once"),
    ],
)
def test_grid_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        grid(**changes)


@pytest.mark.parametrize("workers", [0, -2])
def test_nothing_is_written_for_a_wrong_number_of_workers(tmp_path, workers):
    with pytest.raises(ValueError, match=f"^workers={workers}"):
        reproduce_evolution(grid(), tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()


def test_a_training_is_cached_under_the_constants_of_its_law():
    for name, law in DYNAMICS.items():
        assert dict(grid().cell("paper", 0, dynamics=name).constants) == law.constants()
    assert grid().cell("scratch", 0, sparsity=0.5).constants == ()
