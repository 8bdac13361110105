"""The main job on a text: what is counted, what an interval rests on, and a whole run."""

import math

import pytest
import torch
from torch import nn

import natsel
from natsel.report import write_run_report
from natsel.runs import RunConfig, evolve
from natsel.runs.measure import describe, latency, outcomes
from natsel.runs.splits import load_splits
from natsel.runs.statistics import clustered_interval
from runs.helpers import FAST

OPTIONS = {
    "llama": {"dim": 16, "depth": 1, "heads": 4, "key_value_heads": 2, "hidden": 24},
    "bert": {"dim": 16, "depth": 1, "heads": 4, "hidden": 24},
}


class Parrot(nn.Module):
    """Predicts what it reads, with certainty."""

    def forward(self, x):
        return 20.0 * nn.functional.one_hot(x, 4).float()


def test_places_without_a_label_do_not_count():
    inputs = torch.tensor([[0, 1, 2], [3, 3, 3]])
    labels = torch.tensor([[0, -100, 1], [-100, -100, 3]])
    found = outcomes(Parrot(), inputs, labels)
    assert (found.correct.tolist(), found.counted.tolist()) == ([1, 1], [2, 1])
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.loss == pytest.approx(20 / 3, abs=1e-4)
    row = describe(nn.Sequential(Parrot()), inputs, labels)
    assert row["n"] == 2
    assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))


def test_an_interval_rests_on_windows_not_on_characters():
    """Windows that are right or wrong as a whole say no more than as many single predictions."""
    whole = clustered_interval([10, 0] * 50, [10, 10] * 50)
    single = clustered_interval([1, 0] * 50, [1, 1] * 50)
    assert whole == pytest.approx(single)
    mean, sd = 0.5, math.sqrt(0.25 * 100 / 99)
    assert whole.high - mean == pytest.approx(1.98422 * sd / 10, rel=1e-4)
    certain = clustered_interval([5] * 10, [10] * 10)
    assert certain == (0.5, 0.5, 0.5, 10)


def test_stretches_of_neighbouring_windows_are_one_observation():
    """Forty windows whose accuracy changes every second one: twenty stretches of two."""
    inputs = torch.zeros(40, 3).long()
    labels = torch.tensor([[0] * 3, [0] * 3, [1] * 3, [1] * 3] * 10)
    row = describe(nn.Sequential(Parrot()), inputs, labels)
    expected = clustered_interval([6, 0] * 10, [6] * 20)
    assert (row["accuracy"], row["low"], row["high"], row["n"]) == expected
    assert expected.n == 20


def test_unequal_windows_weigh_by_their_predictions():
    assert clustered_interval([1, 8], [2, 8]).mean == 0.9
    assert clustered_interval([1, 8], [2, 8]).high == 1.0
    with pytest.raises(ValueError, match=r"^counted="):
        clustered_interval([0], [0])


@pytest.fixture
def text(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "tinyshakespeare"
    folder.mkdir(parents=True)
    (folder / "input.txt").write_text("we few, we happy few, we band of brothers; " * 120)
    monkeypatch.setenv("NATSEL_DATA", str(tmp_path / "data"))


@pytest.mark.usefixtures("text")
def test_splits_share_no_place():
    splits = load_splits("tinyshakespeare", task="next character")
    assert splits.in_shape == (64,)
    assert [len(x) for x, _ in (splits.train, splits.validation, splits.test)] == [72, 4, 4]
    hidden = load_splits("tinyshakespeare", task="masked character")
    assert int(hidden.train[0].max()) == len(hidden.classes)  # the mask
    assert torch.equal(hidden.test[0], load_splits("tinyshakespeare", task=hidden.task).test[0])


@pytest.mark.usefixtures("text")
@pytest.mark.parametrize("model", OPTIONS)
def test_a_run(tmp_path, model):
    config = RunConfig(
        dataset="tinyshakespeare",
        model=model,
        epochs=8,
        batch_size=8,
        sparsities=(0.5, 0.9),
        options=OPTIONS[model],
        ecology=FAST,
    )
    result = evolve(config, tmp_path / "run")
    assert result["verification"]["passed"] is True
    assert result["task"]["unit"] == "stretch of 64 characters"
    assert (
        result["task"]["predicts"]
        == {
            "llama": "next character",
            "bert": "masked character",
        }[model]
    )
    assert result["extinct"]["count"] > 0
    for name in ("evolved", "extracted", "dense"):
        assert result[name]["n"] == 4
        assert result[name]["perplexity"] == pytest.approx(math.exp(result[name]["loss"]))
    assert result["extracted"]["accuracy"] == result["evolved"]["accuracy"]
    assert result["extracted"]["macs"] < result["evolved"]["macs"]
    kinds = {c["kind"] for c in result["communities"]}
    assert kinds == {"head", "neuron"}
    assert len(result["table"]) == 2 * 4
    assert all("perplexity" in row for row in result["table"])
    assert all("validation_loss" in row for row in result["history"])
    small = natsel.load(tmp_path / "run")
    splits = load_splits("tinyshakespeare", task=result["task"]["predicts"])
    assert outcomes(small, *splits.test).accuracy == result["extracted"]["accuracy"]
    page = write_run_report(tmp_path / "run").read_text()
    assert "perplexity" in page
    assert "stretch of 64 characters" in page


def test_latency_of_windows_is_measured():
    assert set(latency({"a": Parrot()}, torch.zeros(2, 3).long(), repeats=1)["a"]) == {"1", "64"}


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        ("llama", "mnist", "^dataset='mnist' .*tinyshakespeare: llama reads text"),
        ("vit", "tinyshakespeare", "^dataset='tinyshakespeare' .*cifar10: vit reads images"),
    ],
)
def test_a_data_set_that_the_network_cannot_read_is_refused(model, dataset, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(model=model, dataset=dataset)
