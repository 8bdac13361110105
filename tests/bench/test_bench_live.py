"""Recall of a thinned cache, on a decoder whose answers are known, and the command around it."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers")

import typer
from tests.induction import induction
from typer.testing import CliRunner

import natsel
from natsel.cli.commands import add_command
from natsel.live_populations import METHODS
from natsel_bench.live import run as room
from natsel_bench.live.answering import answers
from natsel_bench.live.cli import live as command
from natsel_bench.live.jury import Jury
from natsel_bench.live.rows import compared, perplexity_row, recall_row
from natsel_bench.live.run import _windows
from natsel_bench.live.tasks import TASKS, Document, Words, documents
from natsel_bench.live.ways import FULL, Way, parsed, ways_of


@pytest.fixture(scope="module")
def model():
    return induction()


def cases(count=6, length=40, answer=1):
    """Return prompts of different tokens; the question is one of them, the answer what follows."""
    found = []
    for number in range(count):
        draw = random.Random(number)
        prompt = (0, *draw.sample(range(1, 48), length - 1))
        at = 3 + number * (length - 4 - answer) // count
        found.append(Document(prompt, (prompt[at],), prompt[at + 1 : at + 1 + answer]))
    return found


def test_the_whole_cache_knows_everything(model):
    for question in ("after", "inside"):
        (found,) = answers(model, cases(), [FULL], question=question)
        assert found.right == [True] * 6
        assert found.bytes_share == [1.0] * 6


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_is_right_exactly_if_its_entry_is_held(model, method):
    all_of_them = cases()
    (found,) = answers(model, all_of_them, [Way(method, 0.5)], question="after", batch=1)
    held = []
    with natsel.live(model, method, natsel.Sparsity(0.5)) as handle, torch.no_grad():
        for case in all_of_them:
            model(torch.tensor([case.prompt]))
            answer = case.prompt.index(case.answer[0])
            held.append(not bool(handle.evicted(1)[0, 0, answer]))
    # One draws on from one document to the next here; the other reads the last token again, too.
    if method not in ("random", "kvzip"):
        assert found.right == held
    assert found.bytes_share == pytest.approx([0.5] * 6, abs=0.02)


def test_attention_knows_what_is_asked_only_if_the_question_is_inside(model):
    """Of two tokens the first follows from the call at whose end entries leave."""
    ways = [Way("snapkv", 0.75, {"window": 4}), Way("newest", 0.5), Way("evolution", 0.5)]
    two = cases(answer=2)
    asked, newest, evolved = answers(model, two, ways, question="inside")
    assert asked.right == [True] * 6
    assert evolved.right == [True] * 6
    assert 0 < sum(newest.right) < 6
    for found in answers(model, two, ways[::2], question="after"):
        assert sum(found.right) < 6
    (first, _) = answers(model, cases(), ways[:2], question="inside")
    assert first.right == [True] * 6


@pytest.mark.parametrize("method", METHODS)
def test_a_jury_says_what_each_way_would_say_alone(model, method):
    """A prompt of two calls, of which the engine thins the last; beside another way."""
    (case,) = cases(1, length=44)
    prompt = torch.tensor([case.prompt])
    way = Way(method, 0.5, {"seed": 3, "scope": "layer"})
    jury = Jury([Way("snapkv", 0.75), way])
    with torch.no_grad():
        with natsel.live(model, method, natsel.Sparsity(0.5), seed=3, scope="layer") as alone:
            with nullcontext() if way.bound.every_call else alone.paused():
                cache = model(prompt[:, :-1]).past_key_values
            model(prompt[:, -1:], past_key_values=cache)
            expected = [alone.positions(layer) for layer in (0, 1)]
        with natsel.live(model, jury.method, natsel.Held(44)):
            cache = model(prompt[:, :-1]).past_key_values
            model(prompt[:, -1:], past_key_values=cache)
        cache = model(prompt[:, :-1]).past_key_values
        with way.on(model, jury.verdict(1)) as live:
            model(prompt[:, -1:], past_key_values=cache)
            found = [live.positions(layer) for layer in (0, 1)]
    if way.bound.every_call:  # alone it has let go before the last token came
        assert [int(x.ge(0).sum()) for x in found] == [int(x.ge(0).sum()) for x in expected]
    else:
        assert all(map(torch.equal, found, expected))


def test_a_jury_reads_again_for_who_asks_for_it_and_says_what_they_would(model):
    (case,) = cases(1, length=44)
    prompt, said = torch.tensor([case.prompt]), {}

    def listening(entries):
        said[entries.layer] = METHODS["kvzip"].score(entries)
        return said[entries.layer]

    alone = replace(METHODS["kvzip"], score=listening)
    jury = Jury([Way("snapkv", 0.75), Way("kvzip", 0.5)])
    with torch.no_grad():
        for method in (alone, jury.method):
            with natsel.live(model, method, natsel.Held(44)):
                cache = model(prompt[:, :-1]).past_key_values
                model(prompt[:, -1:], past_key_values=cache)
    for layer, scores in jury.scores(1).items():
        torch.testing.assert_close(scores, said[layer])
        assert scores.max() > 0.5


def test_heads_share_by_what_is_measured_at_each_share(model):
    needs = {0.5: {0: torch.tensor([1.0]), 1: torch.tensor([2.0])}}
    way = ways_of(model, ["newest+heads=true"], [0.5], needs.get)["newest+heads=true 0.5"]
    ids = torch.arange(1, 25)[None]
    with torch.no_grad(), way.on(model) as live:
        model(ids)
        assert [live.held(layer).item() for layer in (0, 1)] == [8, 16]
    for text, given, told in (
        ("newest+heads=3", needs.get, "heads=true, which"),
        ("newest+heads=false", needs.get, "heads=true, which"),
        ("newest+heads=true", None, "no heads="),
    ):
        with pytest.raises(ValueError, match=told):
            ways_of(model, [text], [0.5], given)
    for wrong in ("newst", "kvzip+values=no", "newest+heads=true+scope=layer"):
        with pytest.raises(ValueError, match=r"method=|values='no'|scope='layer'"):
            # What is wrong is told before anything is measured.
            ways_of(model, ["newest+heads=true", wrong], [0.5], lambda share: pytest.fail("no"))
    assert [w.shape[1] for w in _windows(lambda text: list(range(len(text))), "." * 99, 9)] == [
        9
    ] * 8


def test_documents_are_the_same_every_time_and_hold_their_answer():
    def read(text):
        return list(text.encode())

    for task in TASKS:
        one = documents(task, read, range(300, 900), count=3, length=200, seed=4)
        more = documents(task, read, range(300, 900), count=5, length=200, seed=4)
        assert one == more[:3]
        assert len({case.prompt for case in more}) == 5
        for case in more:
            assert len(case.prompt) == 200
            words = bytes(t for t in case.prompt if t < 256).decode()
            assert bytes(case.answer).decode() in words
    said = documents("needle", read, range(300, 900), count=40, length=200)
    places = [case.prompt.index(10) for case in said]
    assert min(places) < 30
    assert max(places) > 130


def test_rows_say_what_the_answers_say():
    full = {"full": {"right": [True] * 8, "loss": [1.0] * 8, "bytes_share": [1.0] * 8}}
    half = [True, False] * 4
    found = {
        "a 0.5": {"right": half, "loss": [1.5, 2.5] * 4, "bytes_share": [0.5] * 8},
        "b 0.5": {"right": [False] * 8, "loss": [3.0] * 8, "bytes_share": [0.5] * 8},
        "b 0.9": {"right": [False] * 8, "loss": [3.0] * 8, "bytes_share": [0.1] * 8},
    }
    row = recall_row("needle", "after", "a 0.5", found, full)
    assert (row["mean"], row["full"], row["n"], row["bytes_share"]) == (0.5, 1.0, 8, 0.5)
    assert row["against_full"]["difference"] == -0.5
    assert row["against_full"]["p_value"] == pytest.approx(2 * 0.5**4)
    worth = perplexity_row("a 0.5", found, full)
    assert worth["ratio"] == pytest.approx(torch.tensor(1.0).exp().item())
    pairs = compared("after", ["x", "y"], list(found), {"x": found, "y": found})
    assert pairs[0]["n"] == 16
    assert pairs[0]["pairs"].keys() == {"b"}  # only at the same share
    assert pairs[0]["pairs"]["b"]["p_value"] == pytest.approx(2 * 0.5**8)


def _pairs(draw):
    """A task that the decoder knows: what followed a word."""
    first, second = draw.sample([f"w{n}" for n in range(20)], 2)
    return Words((f" {first} {second} ",), first, f" {second}")


@pytest.fixture
def made(tmp_path, monkeypatch):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, **{f"w{n}": n + 1 for n in range(20)}}
    words |= {f"h{n}": n + 21 for n in range(26)}
    found = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path / "model"
    induction().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=found, unk_token="<unk>").save_pretrained(folder)
    text = tmp_path / "hay.txt"
    draw = random.Random(0)
    text.write_text(" ".join(f"h{draw.randrange(26)}" for _ in range(600)))
    monkeypatch.setitem(TASKS, "pairs", _pairs)
    monkeypatch.setitem(TASKS, "lies", lambda draw: _pairs(draw)._replace(answer=" h1"))
    monkeypatch.setattr(room, "CONTINUED", 8)
    return str(folder), text


def said(*arguments):
    app = typer.Typer()
    add_command(app, "live", command)
    add_command(app, "other", lambda: None)
    return CliRunner().invoke(app, ["live", *map(str, arguments)])


def test_the_command_says_what_is_left_and_goes_on(made, tmp_path, monkeypatch):
    model, text = made
    out = tmp_path / "out"
    options = ("--text", text, "--length", 48, "--documents", 5, "--batch", 3, "--repeats", 1)
    asked = (model, "--method", "newest,snapkv+window=8", "--share", "0.5", *options, "--out", out)
    found = said(*asked, "--tasks", "pairs,lies,text", "--json")
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    assert result == json.loads((out / "result.json").read_text())
    assert result["not_read"] == ["lies"]
    assert result["full"] == {"pairs": 1.0, "lies": 0.0}
    assert result["perplexity"][0]["n"] == 5
    by = {(r["question"], r["method"]): r for r in result["recall"]}
    assert by["inside", "snapkv+window=8"]["mean"] == 1.0
    assert by["after", "newest"]["n"] == 5
    assert {round(r["bytes_share"], 1) for r in result["recall"]} == {0.5}
    assert result["costs"]["newest 0.5"]["bytes_share"] == 0.5
    assert result["costs"]["full"]["token_ratio"]["median"] == 1.0
    assert "lies: not read" in (out / "table.md").read_text()
    again = said(*asked, "--tasks", "pairs,lies,text")
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    monkeypatch.setattr(room, "answers", None)  # parts that are kept are not made again
    assert said(*asked, "--tasks", "pairs,lies,text", "--resume", "--quiet").exit_code == 0
    assert json.loads((out / "result.json").read_text())["recall"] == result["recall"]


def test_the_command_compares_methods_and_features(made, tmp_path):
    model, text = made
    rising = "snapkv+window=8,snapkv+window=8+feature=log"
    shared = (model, "--method", rising, "--share", "0.5", "--text", text, "--length", 40)
    shared = (*shared, "--documents", 4, "--json")
    found = said(*shared, "--audit", "--out", tmp_path / "audit")
    assert found.exit_code == 0, found.output
    (pair,) = json.loads(found.stdout)["pairs"]
    assert (pair["overlap"]["mean"], pair["relation"]) == (1.0, "the same survivors")
    assert "the same survivors" in (tmp_path / "audit" / "table.md").read_text()
    options = ("--tasks", "pairs,text", "--repeats", 0, "--out", tmp_path / "asked")
    found = said(*shared, *options)
    assert found.exit_code == 0, found.output
    rows = json.loads(found.stdout)["plateau"]
    assert [row["measure"] for row in rows] == ["after", "inside", "text"]
    assert {row["verdict"] for row in rows} == {"the same"}
    assert "Features of the rank" in (tmp_path / "asked" / "table.md").read_text()
    for more, told in ((("--tasks", "needle"), "--audit"), (("--method", "snapkv"), "two methods")):
        wrong = said(*shared, *more, "--audit", "--out", tmp_path / "no")
        assert wrong.exit_code == 2
        assert told in wrong.stderr
        assert wrong.stderr.count("\n") == 1
        assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--method", "snapkw"), "did you mean"),
        (("--method", "snapkv+kernel"), "snapkv+kernel=7"),
        (("--method", "snapkv+colour=3"), "colour"),
        (("--method", "snapkv,snapkv"), "twice"),
        (("--method", "newest,newest+heads=true+window=30"), "window=30"),
        (("--method", "kvzip+values=no"), "values='no'"),
        (("--share", "1"), "share"),
        (("--share", "half"), "share"),
        (("--tasks", "needles"), "tasks"),
        (("--question", "before"), "question"),
        (("--documents", "0"), "documents"),
        (("--text", "nowhere.txt"), "nowhere.txt"),
        (("--length", "100000"), "at least"),
        (("--length", "2"), "length=2"),
    ],
)
def test_bad_input_is_told_in_one_line(made, tmp_path, options, named):
    model, text = made
    given = {"--text": str(text), "--tasks": "needle", "--length": "40", "--method": "newest"}
    given |= dict([options])
    found = said(model, "--out", tmp_path / "out", *(x for pair in given.items() for x in pair))
    assert found.exit_code == 2
    assert named in found.stderr
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_options_of_methods_are_read():
    assert parsed("snapkv") == ("snapkv", {})
    assert parsed("evolution+rate=2") == ("evolution", {"rate": 2})
