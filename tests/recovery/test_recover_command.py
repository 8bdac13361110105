"""``natsel recover``: folders in, a folder out that any reader opens."""

from __future__ import annotations

import json
import random
import shlex
import string

import pytest
import torch
from typer.testing import CliRunner

import natsel
from natsel.cli.app import app
from natsel.io import load

LENGTH = 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a folder with a teacher, a small model, and two texts."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    root = tmp_path_factory.mktemp("models")
    words = {letter: number for number, letter in enumerate(["?", *string.ascii_lowercase])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=len(words),
        initializer_range=0.3,
    )
    teacher = transformers.LlamaForCausalLM(config).eval()
    teacher.save_pretrained(root / "teacher")
    tokenizer.save_pretrained(root / "teacher")
    example = {"input_ids": torch.zeros(1, 4, dtype=torch.long)}
    pruned = natsel.prune(teacher, example, natsel.Sparsity(0.4), verify=False)
    natsel.save(pruned.small, root / "small")
    for seed, name in enumerate(("training", "evaluation")):
        letters = random.Random(seed).choices(string.ascii_lowercase, k=40 * LENGTH)
        (root / f"{name}.txt").write_text(" ".join(letters))
    return root


def run(folders, out, *more):
    arguments = [
        *("recover", str(folders / "small"), "--teacher", str(folders / "teacher")),
        *("--data", str(folders / "training.txt"), "--held-out", str(folders / "evaluation.txt")),
        *("--length", str(LENGTH), "--samples", "8", "--batch", "4", "--lr", "0.005"),
        *("--out", str(out), *more),
    ]
    return CliRunner().invoke(app, arguments)


def test_a_folder_in_and_a_folder_out(folders, tmp_path):
    out = tmp_path / "recovered"
    done = run(folders, out, "--tokens", "1200", "--control", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result == json.loads((out / "result.json").read_text())
    assert result["kind"] == "recover"
    assert result["places"] == 20 * 4 * (LENGTH - 1) == 1200
    quality = result["quality"]
    assert quality["measure"] == "perplexity"
    for name in ("before", "after", "teacher", "control"):
        assert quality[name]["low"] < quality[name]["mean"] < quality[name]["high"]
        assert quality[name]["n"] == 8
    assert quality["ratio"] == pytest.approx(quality["after"]["mean"] / quality["before"]["mean"])
    assert len(result["curve"]) == len(result["control"]) == 20
    assert not (out / "checkpoint").exists()
    plan = json.loads((out / "plan.json").read_text())
    assert (
        plan["survivors"] == json.loads((folders / "small" / "plan.json").read_text())["survivors"]
    )
    model, before = load(out), load(folders / "small")
    assert [p.shape for p in model.parameters()] == [p.shape for p in before.parameters()]
    tokens = torch.arange(8)[None]
    again = natsel.open_model(str(out)).model(input_ids=tokens).logits
    assert torch.equal(again, model(input_ids=tokens).logits)
    assert not torch.allclose(again, before(input_ids=tokens).logits, atol=1e-3)


def test_a_plain_configuration_is_read_by_from_pretrained(folders, tmp_path):
    transformers = pytest.importorskip("transformers")
    assert run(folders, tmp_path / "out", "--tokens", "60").exit_code == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = torch.arange(8)[None]
    wanted = load(tmp_path / "out")(input_ids=tokens).logits
    assert torch.allclose(model(input_ids=tokens).logits, wanted, atol=1e-5)


def test_it_says_what_came_of_it(folders, tmp_path):
    done = run(folders, tmp_path / "out", "--tokens", "600")
    assert done.exit_code == 0, done.output
    assert "perplexity" in done.stdout
    assert "teacher: perplexity" in done.stdout
    assert "won back: " in done.stdout


def test_what_is_stopped_before_its_first_step_leaves_nothing_to_go_on_with(
    folders, tmp_path, monkeypatch
):
    import natsel.recovery.loop as loop

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_step", stopped)
    done = run(folders, tmp_path / "out", "--tokens", "600")
    assert done.exit_code == 130
    assert "natsel: stopped\n" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_empty_folder(folders, tmp_path, monkeypatch):
    import natsel.recovery.state as state

    def full(path, _):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(state, "save_tree", full)
    done = run(folders, tmp_path / "out", "--tokens", "600")
    assert done.exit_code == 1
    assert "No space left" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_goes_on_and_ends_in_the_same_bits(folders, tmp_path, monkeypatch):
    import natsel.recovery.loop as loop

    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(folders, whole, "--tokens", "600").exit_code == 0
    steps = []
    step = loop._step

    def stopped(*args):
        if len(steps) == 6:
            raise KeyboardInterrupt
        steps.append(1)
        step(*args)

    monkeypatch.setattr(loop, "_step", stopped)
    done = run(folders, out, "--tokens", "600")
    assert done.exit_code == 130
    assert "stopped; the run goes on with --resume" in done.stderr
    monkeypatch.undo()
    again = run(folders, out, "--tokens", "600")
    assert again.exit_code == 2
    assert "--resume to go on with what was stopped" in again.stderr
    other = run(folders, out, "--tokens", "600", "--resume", "--seed", "3")
    assert other.exit_code == 2
    assert "is of another run (of other seed)" in other.stderr
    done = run(folders, out, "--tokens", "600", "--resume", "--json")
    assert done.exit_code == 0, done.output
    mine, theirs = (load(folder).state_dict() for folder in (out, whole))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    finished = run(folders, out, "--tokens", "600", "--resume", "--json")
    assert json.loads(finished.stdout) == json.loads(done.stdout)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--tokens", "3"), "tokens=3 is not allowed: expected at least one window, 15"),
        (("--length", "999"), "a text of at least"),
        (("--data", "nothing.txt"), "data='nothing.txt' is not allowed"),
        (("--teacher", "no/where"), "no/where"),
        (("--device", "nowhere"), "device='nowhere' is not allowed"),
        (("--lr", "0"), "learning_rate=0.0 is not allowed"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(folders, tmp_path, more, told):
    done = run(folders, tmp_path / "out", *more)
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_learning_from_what_is_measured_is_refused(folders, tmp_path):
    done = run(folders, tmp_path / "out", "--held-out", str(folders / "training.txt"))
    assert done.exit_code == 2
    assert "another text than data" in done.stderr


def test_a_folder_that_holds_something_else_is_left_alone(folders, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for folder in (tmp_path, folders / "small"):
        done = run(folders, folder)
        assert done.exit_code == 2
        assert "expected a new folder, or one of natsel recover" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "mine"


def refused(said):
    assert said.exit_code == 2, said.output
    assert len(said.stderr.strip().splitlines()) == 1
    return said.stderr


def test_it_is_measured_on_the_windows_that_evaluate_and_prune_measure_on(folders, tmp_path):
    said = run(folders, tmp_path / "out", "--tokens", "60", "--json")
    found = json.loads(said.stdout)
    alone = CliRunner().invoke(
        app,
        [
            *("evaluate", str(folders / "small"), "--against", str(folders / "teacher")),
            *("--data", str(folders / "evaluation.txt"), "--length", str(LENGTH)),
            *("--samples", "8", "--json"),
        ],
    )
    other = json.loads(alone.stdout)
    assert found["quality"]["before"] == pytest.approx(other["quality"]["after"], rel=1e-6)
    assert found["quality"]["teacher"] == pytest.approx(other["quality"]["before"], rel=1e-6)
    assert found["text"]["held_out"] == {**other["text"]["data"]}
    assert found["text"]["data"]["windows"] == 60 // (LENGTH - 1)


def test_the_card_says_what_it_learned_from_and_its_command_runs(folders, tmp_path):
    out = tmp_path / "out"
    assert run(folders, out, "--tokens", "60", "--control").exit_code == 0
    card = (out / "README.md").read_text()
    assert "It was recovered since" in card
    for name in ("before", "after", "teacher", "control"):
        assert f"| {name} |" in card
    command = next(line for line in card.splitlines() if line.startswith("natsel recover small "))
    words = [*shlex.split(command)[1:], "--out", str(tmp_path / "again")]
    where = {"small", "teacher", "training.txt", "evaluation.txt"}
    words = [str(folders / word) if word in where else word for word in words]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    same = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "again")]
    assert same[0] == same[1]


def test_the_tokenizer_of_the_teacher_goes_along_where_the_small_model_has_none(folders, tmp_path):
    assert not (folders / "small" / "tokenizer.json").exists()
    assert run(folders, tmp_path / "out", "--tokens", "60").exit_code == 0
    said = CliRunner().invoke(
        app,
        [
            *("evaluate", str(tmp_path / "out"), "--data", str(folders / "evaluation.txt")),
            *("--length", str(LENGTH)),
        ],
    )
    assert said.exit_code == 0, said.output


def test_what_cannot_be_learned_from_or_measured_on_is_one_line(folders, tmp_path):
    def told(*more):
        return refused(run(folders, tmp_path / "out", *more))

    assert "is the same" in told("--held-out", str(folders / "training.txt"))
    assert "length=4096" in told("--length", "4096", "--tokens", "9000")
    assert "samples=0" in told("--samples", "0")
    assert "tokens=3" in told("--tokens", "3")
    assert ".txt, .jsonl or .parquet" in told("--data", "nosuch")
    assert not (tmp_path / "out").exists()


def test_without_held_out_text_it_is_said_that_nothing_was_measured(folders, tmp_path):
    said = CliRunner().invoke(
        app,
        [
            *("recover", str(folders / "small"), "--teacher", str(folders / "teacher")),
            *("--data", str(folders / "training.txt"), "--length", str(LENGTH)),
            *("--tokens", "60", "--out", str(tmp_path / "out")),
        ],
    )
    assert said.exit_code == 0, said.output
    assert "--held-out FILE" in said.stdout
    assert json.loads((tmp_path / "out" / "result.json").read_text())["quality"] is None


def test_what_was_recovered_is_not_compared_with_a_masked_model(folders, tmp_path):
    assert run(folders, tmp_path / "out", "--tokens", "60").exit_code == 0
    said = CliRunner().invoke(app, ["verify", str(folders / "teacher"), str(tmp_path / "out")])
    assert "was trained since" in refused(said)


def test_images_of_another_shape_are_refused_by_name(tmp_path):
    words = ("recover", "mlp", "--teacher", "mlp", "--data", "digits", "--out", tmp_path / "out")
    said = CliRunner().invoke(app, [str(word) for word in words])
    assert "data='digits'" in refused(said)
    assert not (tmp_path / "out").exists()
