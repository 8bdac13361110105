"""A plateau study: cells, statistics, verdicts, and the smallest whole reproduction."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import natsel
from natsel.cli.main import app
from natsel.common.files import read_json
from natsel.io import save
from natsel.models import build
from natsel.runs.splits import Splits
from natsel.runs.statistics import Comparison, paired_samples
from natsel.selection.survivors import all_survive
from natsel_bench.search import bench_search
from natsel_papers import plateau_cell, reproduce_plateau
from natsel_papers.plateau_cell import contents, pack, split_images, unpack
from natsel_papers.plateau_claims import FAILS, HOLDS, UNKNOWN, claims, verdict
from natsel_papers.plateau_grid import Cell, PlateauGrid, cells
from natsel_papers.plateau_table import Outcomes, class_of, sensitivity, spectrum, table, won_back
from natsel_papers.report_plateau import plateau_markdown, write_plateau_report
from natsel_papers.spectrum import run_spectrum

N = 400


def cell(sparsity: float, seed: int, accuracies: dict[str, float], dense: float = 0.9) -> Any:
    """A cell whose methods are right on the first share of the samples: all differences nested."""

    def right(share: float) -> str:
        return pack(torch.arange(N) < round(share * N))

    methods = {
        name: {"correct": right(a), "key": name if name != "V1b" else "V1a", "search_accuracy": a}
        for name, a in accuracies.items()
    }
    return {
        "seed": seed,
        "sparsity": sparsity,
        "dense": right(dense),
        "methods": methods,
        "num_held": N,
        "seconds": 1.0,
    }


def study(accuracies: dict[float, dict[str, float]], seeds: int = 3) -> Outcomes:
    return Outcomes.of([cell(s, k, a) for k in range(seeds) for s, a in accuracies.items()])


def test_packing_round_trips() -> None:
    right = torch.rand(13, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(unpack(pack(right), 13), right)


def test_escape_is_the_paired_difference_to_the_plateau() -> None:
    outcomes = study({0.7: {"V1a": 0.6, "V1": 0.7, "A5": 0.6, "random": 0.4}})
    rows = {r["method"]: r for r in table(outcomes)}
    assert rows["V1a"]["mean"] == pytest.approx(0.6)
    assert "escape" not in rows["V1a"]
    assert rows["V1"]["escape"] == pytest.approx(0.1)
    assert rows["V1"]["escapes"] is True
    assert rows["A5"]["escapes"] is False
    assert rows["A5"]["p_value"] == 1.0
    assert rows["random"]["worse"] is True
    assert rows["random"]["family"] == "control"


def test_kappa_is_the_least_complexity_that_escapes() -> None:
    outcomes = study(
        {
            0.5: {"V1a": 0.8, "V1": 0.8, "A5": 0.79},
            0.7: {"V1a": 0.6, "V1": 0.7, "A5": 0.75},
            0.8: {"V1a": 0.5, "V1": 0.45, "A5": 0.6},
        }
    )
    found = spectrum(table(outcomes))
    assert [z["kappa"] for z in found] == [None, 1, 2]
    assert found[1]["escaping"] == ["A5", "V1"]
    judged = {c.claim[:11]: c.verdict for c in claims(outcomes, table(outcomes))}
    assert judged["three zones"] == HOLDS
    assert judged["wiggle prem"] == HOLDS


def test_a_class_that_is_behind_on_one_network_does_not_escape() -> None:
    made = [cell(0.7, k, {"V1a": 0.6, "V1": a}) for k, a in enumerate((0.8, 0.8, 0.59))]
    row = next(r for r in table(Outcomes.of(made)) if r["method"] == "V1")
    assert row["p_value"] < 0.05
    assert row["escapes"] is False


def test_the_hypothesis_can_fail() -> None:
    outcomes = study(
        {
            0.5: {"V1a": 0.6, "V1": 0.7, "A5": 0.7, "V1b": 0.6},
            0.8: {"V1a": 0.5, "V1": 0.6, "A5": 0.5, "V1b": 0.5},
        }
    )
    rows = table(outcomes)
    judged = {c.claim[:11]: c.verdict for c in claims(outcomes, rows)}
    assert judged["three zones"] == FAILS
    assert judged["wiggle prem"] == FAILS
    assert judged["rank-monoto"] == HOLDS


def test_sensitivity_asks_for_fifteen_points_of_random_removal() -> None:
    assert sensitivity(study({0.8: {"V1a": 0.6, "random": 0.7}}))["sensitive"] is True
    insensitive = sensitivity(study({0.8: {"V1a": 0.88, "random": 0.8}}))
    assert insensitive["sensitive"] is False
    assert insensitive["cost"] == pytest.approx(0.1)


def test_share_won_back() -> None:
    outcomes = study({0.7: {"V1a": 0.6, "V1": 0.75}})
    assert won_back(outcomes, "V1", 0.7) == pytest.approx(0.5)
    assert won_back(study({0.7: {"V1a": 0.9, "V1": 0.9}}), "V1", 0.7) is None


def test_a_verdict_needs_a_significant_difference() -> None:
    assert verdict(Comparison(0.1, 0.05, 0.15, 0.001, 9)) == HOLDS
    assert verdict(Comparison(-0.1, -0.15, -0.05, 0.001, 9)) == FAILS
    assert verdict(Comparison(0.1, -0.1, 0.3, 0.3, 9)) == UNKNOWN


def test_paired_samples_is_the_t_test_of_scipy() -> None:
    from scipy import stats

    d = np.random.default_rng(0).normal(0.1, 1, 50)
    expected = stats.ttest_1samp(d, 0)
    found = paired_samples(d.tolist())
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.difference == pytest.approx(d.mean())
    assert paired_samples([0.0, 0.0]).p_value == 1.0


def test_a_method_names_its_class() -> None:
    assert class_of("A5, equal").name == "A5"  # type: ignore[union-attr]
    assert class_of("taylor") is None


@pytest.mark.parametrize("wrong", [(0.7, 0.5), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0), ()])
def test_sparsities_must_rise_inside_zero_and_one(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="sparsity="):
        PlateauGrid(sparsities=wrong)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="classes='V9'"):
        PlateauGrid(classes=("V1a", "V9"))
    with pytest.raises(ValueError, match="V1a, the plateau's class"):
        PlateauGrid(classes=("V1",))
    with pytest.raises(ValueError, match="search_images=0"):
        PlateauGrid(search_images=0)
    with pytest.raises(ValueError, match="optimizer='sgd'"):
        PlateauGrid(optimizer="sgd")


def small_cell() -> Cell:
    grid = PlateauGrid(search_images=10, adaptive_images=20, held_images=10, seeds=1)
    return cells(grid, [("net", "0")], "digits")[0]


def splits_of(validation: torch.Tensor, test: torch.Tensor) -> Splits:
    def part(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, torch.zeros(len(x), dtype=torch.int64)

    return Splits("made", ("a",), part(validation), part(validation), part(test))


def test_a_held_out_sample_that_is_searched_on_is_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    validation = torch.randn(20, 1, 4, 4, generator=generator)
    apart = torch.randn(12, 1, 4, 4, generator=generator)
    parts = split_images(small_cell(), splits_of(validation, apart))
    assert {name: len(x) for name, (x, _) in parts.items()} == {
        "search": 10,
        "adaptive": 20,
        "held": 10,
    }
    assert not contents(parts["held"][0]) & contents(parts["search"][0])
    leaking = torch.cat((apart[:9], validation[3:4]))
    with pytest.raises(ValueError, match="two splits without a common sample"):
        split_images(small_cell(), splits_of(validation, leaking))
    with pytest.raises(ValueError, match="search_images=50"):
        split_images(replace(small_cell(), search_images=50), splits_of(validation, apart))


SMOKE = reproduce_plateau.PRESETS["smoke"]
SMALL = replace(
    SMOKE,
    recipe=replace(SMOKE.recipe, epochs=8),
    grid=replace(
        SMOKE.grid,
        search_images=60,
        held_images=200,
        adaptive_images=100,
        generations=1,
        population=3,
    ),
)
"""The preset with every class, sparsity and network, on less."""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], dict[str, Any]]:
    out = tmp_path_factory.mktemp("plateau") / "smoke"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(reproduce_plateau.PRESETS, "smoke", SMALL)
        rows, summary = reproduce_plateau.reproduce_plateau("smoke", out, workers=1)
    return out, rows, summary


def test_smoke_reproduces_every_claim_s_cells(
    smoke: tuple[Path, list[Any], dict[str, Any]],
) -> None:
    out, rows, summary = smoke
    wanted = {"family", "method", "sparsity", "mean", "low", "high", "n"}
    assert all(wanted <= set(r) for r in rows)
    lemma = next(c for c in summary["claims"] if "lemma" in c["claim"])
    assert lemma["verdict"] == HOLDS
    assert summary["extracted_equals_masked"] == 1.0
    assert {r["family"] for r in rows} == {"one-shot", "control", "paper"}
    assert len(summary["spectrum"]) == 2
    assert len(summary["networks"]) == 2
    assert len(summary["claims"]) >= 8
    text = plateau_markdown(rows, summary)
    assert "| V1a | 0 |" in text
    assert "lemma" in text
    assert json.loads((out / "table.json").read_text()) == rows


def test_a_killed_study_goes_on_cell_by_cell_and_gives_the_same_table(
    smoke: tuple[Path, list[Any], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rows, _ = smoke
    monkeypatch.setitem(reproduce_plateau.PRESETS, "smoke", SMALL)
    kept = sorted((out / "cells").glob("*.json"))
    assert len(kept) == 4
    kept[0].unlink()
    with pytest.raises(ValueError, match="--resume"):
        reproduce_plateau.reproduce_plateau("smoke", out, workers=1)
    ran = []
    plain = plateau_cell.run_cell

    def counted(job: Cell) -> dict[str, Any]:
        ran.append(job.label)
        return plain(job)

    monkeypatch.setattr("natsel_papers.spectrum.run_cell", counted)
    again, _ = reproduce_plateau.reproduce_plateau("smoke", out, workers=1, resume=True)
    assert len(ran) == 1
    assert again == rows


def test_the_report_is_one_page_that_escapes_names(
    smoke: tuple[Path, list[Any], dict[str, Any]], tmp_path: Path
) -> None:
    out, _, _ = smoke
    summary = read_json(out / "summary.json")
    summary["claims"][0]["claim"] = "<script>alert(1)</script>"
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "table.json").write_text((out / "table.json").read_text())
    page = write_plateau_report(tmp_path).read_text()
    assert "<script>alert(1)" not in page
    assert "Escape from the plateau" in page


def test_any_saved_model_has_a_spectrum_from_the_command_line(
    smoke: tuple[Path, list[Any], dict[str, Any]], tmp_path: Path
) -> None:
    model = smoke[0] / "networks" / "seed-0" / "model"
    sizes = "--search-images 40 --adaptive-images 40 --held-images 60 --generations 1"
    call = [
        *("spectrum", str(model), "--data", "digits", "--out", str(tmp_path / "s"), "--json"),
        *("--sparsity", "0.5,0.8", "--classes", "V1a,A5", "--seeds", "2", "--workers", "1"),
        *sizes.split(),
        *("--population", "2", "--optimizer", "cma", "--quiet"),
    ]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert [z["sparsity"] for z in summary["spectrum"]] == [0.5, 0.8]
    assert (tmp_path / "s" / "report.html").is_file()
    wrong = [a if a != "0.5,0.8" else "0.8,0.5" for a in call]
    assert CliRunner().invoke(app, wrong).exit_code == 2


def test_a_race_finds_what_the_plain_loop_finds(
    smoke: tuple[Path, list[Any], dict[str, Any]],
) -> None:
    model = smoke[0] / "networks" / "seed-0" / "model"
    found = bench_search(str(model), "digits", images=160, population=6, repeats=2)
    assert found["behind"] < 0.05
    assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"]


def test_prune_says_what_adaptive_chose(
    smoke: tuple[Path, list[Any], dict[str, Any]], tmp_path: Path
) -> None:
    model = smoke[0] / "networks" / "seed-0" / "model"
    call = ["prune", str(model), "--data", "digits", "--scorer", "adaptive", "--sparsity", "0.5"]
    call += ["--include", "blocks.*.mlp.0", "--no-measure", "--json", "--out", str(tmp_path / "p")]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    adaptive = json.loads(result.stdout)["adaptive"]
    assert adaptive["chosen"] in {c["name"] for c in adaptive["contenders"]}
    assert "plateau" in adaptive["sentence"]
    assert read_json(tmp_path / "p" / "result.json")["adaptive"] == adaptive


def test_a_model_that_predicts_one_class_is_refused(tmp_path: Path) -> None:
    model = build("mlp", in_shape=(1, 8, 8), num_classes=10, hidden=(16,))
    with torch.no_grad():
        model.get_parameter("layers.2.bias")[3] = 1e4
    communities = natsel.discover(model, torch.zeros(1, 1, 8, 8))
    save(natsel.extract(model, all_survive(communities)), tmp_path / "one")
    grid = PlateauGrid(
        sparsities=(0.5,), seeds=1, search_images=20, held_images=20, adaptive_images=20
    )
    with pytest.raises(ValueError, match="predicts more than one class"):
        run_spectrum(str(tmp_path / "one"), "digits", grid, tmp_path / "out", workers=1)


def test_presets_and_devices_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="preset='huge'"):
        reproduce_plateau.reproduce_plateau("huge", tmp_path / "a")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device='cuda'"):
            reproduce_plateau.reproduce_plateau("paper", tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_the_smallest_slice_of_the_paper_preset_runs_on_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = reproduce_plateau.PRESETS["paper"]
    grid = replace(
        paper.grid,
        sparsities=(0.7,),
        classes=("V1a", "A5"),
        seeds=1,
        search_images=16,
        held_images=16,
        adaptive_images=20,
        generations=1,
        population=2,
        compensate=False,
    )
    monkeypatch.setitem(reproduce_plateau.PRESETS, "paper", replace(paper, grid=grid))
    plain = reproduce_plateau.load_splits

    def few(name: str) -> Splits:
        found = plain(name)
        parts = {
            n: tuple(t[:count] for t in getattr(found, n))
            for n, count in (("train", 64), ("validation", 64), ("test", 32))
        }
        return replace(found, **parts)  # type: ignore[arg-type]

    monkeypatch.setattr(reproduce_plateau, "load_splits", few)
    # The searches of the adaptive pruner, hundreds of passes, would take most of the time.
    monkeypatch.setattr(plateau_cell, "adapt", partial(plateau_cell.adapt, search=False))
    # So would two thousand calibration images, which every scorer reads.
    whole = plateau_cell.calibration
    monkeypatch.setattr(
        plateau_cell, "calibration", lambda splits, seed: whole(splits, seed, batch_size=2)
    )
    rows, summary = reproduce_plateau.reproduce_plateau(
        "paper", tmp_path / "out", device="cpu", epochs=1, workers=1
    )
    assert {r["method"] for r in rows} >= {"V1a", "A5", "adaptive"}
    assert summary["networks"][0]["parameters"] > 20_000_000
