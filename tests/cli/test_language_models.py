"""Language models on the command line: texts, perplexity before and after, and wrong input."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

import natsel as library
from language import folder, llama, text, tokenizer
from natsel.data import windows

pytest.importorskip("tokenizers")
SHORT = ("--length", "16", "--samples", "6", "--no-measure")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a model, two texts and a small model."""
    found = tmp_path_factory.mktemp("language")
    folder(found / "dense")
    (found / "calibration.txt").write_text(text(1, 400))
    (found / "evaluation.jsonl").write_text(
        "\n".join(json.dumps({"text": text(seed, 30)}) for seed in range(2, 12))
    )
    return found


def brute_force(model, documents):
    """Return the perplexity by the model's own loss, window by window."""
    rows = windows(documents, tokenizer(), length=16, samples=6)
    with torch.no_grad():
        each = [model(input_ids=row[None], labels=row[None]).loss.item() for row in rows]
    return math.exp(sum(each) / len(each))


@pytest.fixture(scope="module")
def documents():
    return [text(seed, 30) for seed in range(2, 12)]


def prune(natsel, here, out, *more):
    return natsel(
        *("prune", here / "dense", "--data", here / "calibration.txt"),
        *("--held-out", here / "evaluation.jsonl", "--budget", "parameters=0.8"),
        *("--out", out, *SHORT, *more),
    )


def test_prune_and_evaluate_say_the_perplexity_of_the_models_own_loss(
    natsel, here, documents, tmp_path
):
    said = prune(natsel, here, tmp_path / "small", "--json")
    assert said.exit_code == 0, said.output
    result = json.loads(said.stdout)
    found = result["quality"]
    assert found["measure"] == "perplexity"
    assert found["before"]["mean"] == pytest.approx(brute_force(llama(), documents), rel=1e-5)
    small = library.load(tmp_path / "small")
    assert found["after"]["mean"] == pytest.approx(brute_force(small, documents), rel=1e-5)
    assert found["ratio"] == pytest.approx(found["after"]["mean"] / found["before"]["mean"])
    assert found["after"]["n"] == found["paired"]["n"] == 6
    assert result["config"]["scorer"] == "auto"
    assert result["peak_memory"] > 0
    assert result["accuracy"] is None
    assert result["compensation"] is not None
    assert result["text"]["data"] == {
        "source": str(here / "calibration.txt"),
        "windows": 6,
        "length": 16,
        "place": "spread",
    }

    asked = ("--against", here / "dense", "--data", here / "evaluation.jsonl", *SHORT[:4])
    said = natsel("evaluate", tmp_path / "small", *asked, "--json")
    assert said.exit_code == 0, said.output
    again = json.loads(said.stdout)
    assert again["kind"] == "evaluate"
    assert again["quality"] == found
    said = natsel("evaluate", tmp_path / "small", *asked)
    assert found["summary"] in said.stdout
    assert "paired t-test over windows" in said.stdout


def test_the_same_command_gives_the_same_result_again(natsel, here, tmp_path):
    first = json.loads(prune(natsel, here, tmp_path / "a", "--json").stdout)
    said = natsel("prune", "--config", tmp_path / "a" / "result.json", *_again(here, tmp_path))
    assert said.exit_code == 0, said.output
    second = json.loads((tmp_path / "b" / "result.json").read_text())
    assert second["quality"] == first["quality"]
    assert second["config"] == first["config"]


def _again(here, tmp_path):
    return here / "dense", "--out", tmp_path / "b"


def test_one_model_alone_has_an_interval_and_nothing_is_written(natsel, here, documents, tmp_path):
    said = natsel("evaluate", here / "dense", "--data", here / "evaluation.jsonl", *SHORT[:4])
    assert said.exit_code == 0, said.output
    assert f"perplexity {brute_force(llama(), documents):.4g} (" in said.stdout
    assert list(tmp_path.iterdir()) == []
    out = tmp_path / "out"
    said = natsel(
        *("evaluate", here / "dense", "--data", here / "evaluation.jsonl", *SHORT[:4]),
        *("--out", out, "--json"),
    )
    assert json.loads((out / "result.json").read_text()) == json.loads(said.stdout)
    assert json.loads(said.stdout)["quality"]["before"] is None


@pytest.mark.parametrize("limit", [0.5, 50.0])
def test_what_was_cut_too_far_is_warned_of(natsel, here, tmp_path, monkeypatch, limit):
    """A random model loses nothing by a cut: here more than half of what it was is too much."""
    monkeypatch.setattr("natsel.quality.quality.DOUBLED", limit)
    said = prune(natsel, here, tmp_path / "small", "--scorer", "magnitude", "--no-compensate")
    assert said.exit_code == 0, said.output
    if limit > 1:
        assert said.stderr == ""
        return
    assert said.stderr.count("natsel: warning: the perplexity is") == 1
    assert "a scorer that reads data (joint, with --data)" in said.stderr
    assert "recovery (natsel recover)" in said.stderr


def test_without_data_the_command_says_what_that_costs(natsel, here, tmp_path):
    said = natsel("prune", here / "dense", "--out", tmp_path / "small", "--no-measure")
    assert said.exit_code == 0, said.output
    assert "scored by magnitude without data, which on language models is often" in said.stdout
    assert "no perplexity was measured: --held-out FILE" in said.stdout
    assert json.loads((tmp_path / "small" / "result.json").read_text())["quality"] is None


def test_digits_have_an_accuracy_as_quality(natsel, tmp_path):
    options = ("--data", "digits", "--no-measure", "--json")
    said = natsel("prune", "mlp", "--out", tmp_path / "small", *options)
    assert (said.exit_code, said.stderr) == (0, ""), said.output
    result = json.loads(said.stdout)
    assert result["config"]["scorer"] == "magnitude"
    found = result["quality"]
    assert found["measure"] == "accuracy"
    for side, name in (("before", "dense"), ("after", "small")):
        assert found[side]["mean"] == result["accuracy"][name]["accuracy"]
        assert found[side]["low"] == result["accuracy"][name]["low"]
    assert found["paired"]["test"] == "exact McNemar test"
    said = natsel("evaluate", tmp_path / "small", "--against", "mlp", "--data", "digits", "--json")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["quality"] == found


LOADERS = """
import torch
from language import text, tokenizer

def _batches(seed):
    words = tokenizer()
    words.pad_token = "<end>"
    held = words([text(seed + i, 9 + i) for i in range(6)], padding=True, return_tensors="pt")
    labels = held["input_ids"].masked_fill(held["attention_mask"] == 0, -100)
    for start in range(0, 6, 2):
        part = slice(start, start + 2)
        yield {"input_ids": held["input_ids"][part], "attention_mask": held["attention_mask"][part],
               "labels": labels[part]}

def calibration():
    return _batches(100)

def held_out():
    return _batches(200)

def padding():
    for batch in _batches(200):
        yield {**batch, "labels": torch.full_like(batch["labels"], -100)}

def unlabelled():
    for batch in _batches(200):
        batch.pop("labels")
        yield batch

texts = [text(300 + i, 60) for i in range(8)]
"""


@pytest.fixture
def loaders(tmp_path, monkeypatch):
    (tmp_path / "own_loaders.py").write_text(LOADERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_batches_of_a_loader_of_ones_own(natsel, here, loaders, tmp_path):
    """Padding counts in nothing: the perplexity is that of each text alone."""
    said = natsel(
        *("prune", here / "dense", "--data", "own_loaders:calibration"),
        *("--held-out", "own_loaders:held_out", "--budget", "parameters=0.8"),
        *("--out", tmp_path / "small", "--no-measure", "--json"),
    )
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)["quality"]
    total, count = 0.0, 0
    for i in range(6):
        row = torch.tensor([tokenizer()(text(200 + i, 9 + i))["input_ids"]])
        with torch.no_grad():
            total += float(llama()(input_ids=row, labels=row).loss) * (row.numel() - 1)
        count += row.numel() - 1
    assert found["before"]["mean"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert found["before"]["n"] == 6


def test_texts_of_a_list_of_ones_own(natsel, here, loaders, tmp_path):
    said = natsel(
        *("evaluate", here / "dense", "--data", "own_loaders:texts", *SHORT[:4], "--json")
    )
    assert said.exit_code == 0, said.output
    wanted = brute_force(llama(), [text(300 + i, 60) for i in range(8)])
    assert json.loads(said.stdout)["quality"]["after"]["mean"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--data", "calibration.txt", "--held-out", "calibration.txt"), "calibration.txt is the"),
        (("--data", "calibration.txt", "--held-out", "copy.txt"), "another text than data"),
        (("--data", "calibration.txt", "--held-out", "link.txt"), "another text than data"),
        (
            ("--data", "calibration.txt", "--held-out", "more.txt"),
            "100% of it are in calibration.txt",
        ),
        (("--data", "calibration.txt", "--held-out", "part.txt"), "% of it are in"),
        (("--data", "short.txt"), "it has 4, enough for 0 (samples, length)"),
        (("--data", "empty.txt"), "data='empty.txt' is not allowed: expected a text that is not"),
        (("--data", "latin.txt"), "data='latin.txt' is not allowed: expected text in UTF-8"),
        (("--data", "field.jsonl"), "a field 'text' in every row (line 1 has body)"),
        (("--data", "none.txt"), "data='none.txt' is not allowed: expected a file that is there"),
        (("--data", "notes.md"), "data='notes.md' is not allowed: expected a .txt, .jsonl or"),
        (("--data", "digits"), "data='digits'"),
        (("--held-out", "digits"), "held_out='digits' is not allowed"),
        (
            ("--data", "calibration.txt", "--length", "65"),
            "length=65 is not allowed: expected 2 to",
        ),
        (("--data", "calibration.txt", "--length", "1"), "length=1 is not allowed"),
        (("--data", "calibration.txt", "--samples", "0"), "samples=0 is not allowed"),
        (("--data", "calibration.txt", "--tokenizer", "."), "tokenizer='.' is not allowed"),
        (("--held-out", "own_loaders:padding"), "held_out='own_loaders:padding' is not allowed"),
        (("--held-out", "own_loaders:unlabelled"), "batches without labels"),
        (("--data", "own_loaders:held_out", "--held-out", "own_loaders:held_out"), "held_out="),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(natsel, here, loaders, tmp_path, options, told):
    shutil.copy(here / "calibration.txt", "calibration.txt")
    shutil.copy(here / "calibration.txt", "copy.txt")
    (tmp_path / "link.txt").symlink_to("calibration.txt")
    whole = (tmp_path / "copy.txt").read_text()
    (tmp_path / "more.txt").write_text(whole + " w1")
    (tmp_path / "part.txt").write_text(" ".join(whole.split()[133:]) + " " + text(9, 100))
    (tmp_path / "short.txt").write_text("w1 w2 w3")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "notes.md").write_text("w1")
    (tmp_path / "latin.txt").write_bytes("zwölf".encode("latin-1"))
    (tmp_path / "field.jsonl").write_text('{"body": "w1"}')
    lengths = () if {"--length", "--samples"} & set(options) else SHORT[:4]
    out = tmp_path / "small"
    said = natsel("prune", here / "dense", *lengths, *options, "--out", out)
    assert said.exit_code == 2, said.output
    assert told in said.stderr
    assert (said.stdout, said.stderr.count("\n")) == ("", 1), said.stderr
    assert not out.exists()


def test_a_model_without_a_tokenizer_says_what_to_do(natsel, here, tmp_path):
    llama().save_pretrained(tmp_path / "bare")
    asked = ("--data", here / "evaluation.jsonl", *SHORT[:4])
    said = natsel("evaluate", tmp_path / "bare", *asked)
    assert said.exit_code == 2
    assert "copy tokenizer.json and tokenizer_config.json from the model" in said.stderr
    said = natsel("evaluate", tmp_path / "bare", *asked, "--tokenizer", here / "dense")
    assert said.exit_code == 0, said.output
    said = natsel("evaluate", "mlp", *asked)
    assert said.exit_code == 2
    assert "predicts no next token" in said.stderr


def test_a_saved_small_model_is_verified_on_a_text(natsel, here, tmp_path):
    prune(natsel, here, tmp_path / "small")
    asked = ("--data", here / "evaluation.jsonl", *SHORT[:4], "--json")
    said = natsel("verify", here / "dense", tmp_path / "small", *asked)
    assert said.exit_code == 0, said.output
    assert set(json.loads(said.stdout)["on"]) == {
        "random inputs",
        str(here / "evaluation.jsonl"),
    }


def one_line(said, code=2):
    """Return what a command said when it refused: one line, on standard error alone."""
    assert said.exit_code == code, said.output
    assert said.stdout == ""
    assert len(said.stderr.strip().splitlines()) == 1, said.stderr
    return said.stderr


def test_own_batches_of_padding_alone_are_refused_by_name(natsel, here, tmp_path, monkeypatch):
    (tmp_path / "padding.py").write_text(
        "import torch\n"
        "ids = torch.arange(32).reshape(4, 8)\n"
        "batches = [{'input_ids': ids, 'labels': torch.full_like(ids, -100)}]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = here / "dense"
    calls = [
        ("prune", model, "--data", "padding:batches", "--out", tmp_path / "small"),
        ("prune", model, "--held-out", "padding:batches", "--out", tmp_path / "small"),
        ("evaluate", model, "--data", "padding:batches"),
        (
            "recover",
            model,
            "--teacher",
            model,
            "--data",
            "padding:batches",
            "--out",
            tmp_path / "r",
        ),
    ]
    for call in calls:
        name = "held_out" if "--held-out" in call else "data"
        assert f"{name}='padding:batches'" in one_line(natsel(*call))
    assert not (tmp_path / "small").exists()
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("argument", ["data", "held_out"])
def test_a_folder_as_a_text_is_told_what_a_text_is(natsel, here, tmp_path, argument):
    option = "--" + argument.replace("_", "-")
    told = one_line(natsel("prune", here / "dense", option, here, "--out", tmp_path / "small"))
    assert f"{argument}=" in told
    assert ".txt, .jsonl or .parquet" in told


def test_an_unknown_set_is_told_of_files_too(natsel, here, tmp_path):
    told = one_line(natsel("prune", here / "dense", "--data", "digit", "--out", tmp_path / "s"))
    assert ".txt, .jsonl or .parquet" in told
    assert "did you mean 'digits'?" in told


def test_a_tokenizer_is_a_folder_or_asked_of_the_hub(natsel, here, tmp_path):
    asked = ("--data", here / "calibration.txt", "--tokenizer", "gpt2", "--out", tmp_path / "small")
    told = one_line(natsel("prune", here / "dense", *asked, *SHORT))
    assert "tokenizer='gpt2'" in told
    assert "hf:NAME" in told


def test_too_few_windows_to_race_on_are_named_by_their_option(natsel, here, tmp_path):
    told = one_line(prune(natsel, here, tmp_path / "small", "--scorer", "adaptive"))
    assert "samples=6" in told
    assert "at least 10" in told


def test_a_line_that_is_no_json_is_told_by_its_own_number(natsel, here, tmp_path):
    (tmp_path / "broken.jsonl").write_text('{"text": "w1"}\n{"text": "w2\n')
    asked = ("--data", tmp_path / "broken.jsonl", "--out", tmp_path / "small")
    told = one_line(natsel("prune", here / "dense", *asked, *SHORT))
    assert "(line 2: " in told
    assert "line 1" not in told
