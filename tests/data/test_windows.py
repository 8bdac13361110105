"""Texts of any source become documents, and these windows of tokens: the same ones every time."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from natsel.data import read_corpus, same_text, shared_run, token_batches, tokens_of, windows


def letters(text):
    return {"input_ids": [ord(c) - 97 for c in text]}


class Ending:
    """A tokenizer of letters with an end of its own, as those of the transformers library."""

    model_max_length, eos_token_id = 4, 99

    def __call__(self, text, add_special_tokens=True, verbose=True):
        assert not add_special_tokens
        assert not verbose
        return letters(text)


def test_documents_are_joined_with_the_end_of_text_behind_each():
    assert tokens_of(["abc", "d"], Ending()).tolist() == [0, 1, 2, 99, 3, 99]
    assert tokens_of(["abc", "d"], letters).tolist() == [0, 1, 2, 3]


def test_which_windows_are_taken():
    def cut(**options):
        return windows(["abcdefghijk"], letters, length=2, **options).tolist()

    assert cut(samples=None) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert cut(samples=2, place="start") == [[0, 1], [2, 3]]
    assert cut(samples=2, place="end") == [[7, 8], [9, 10]]
    assert cut(samples=2) == [[2, 3], [6, 7]]
    assert cut(samples=5) == cut(samples=None)


@given(st.integers(2, 9), st.integers(1, 12), st.integers(0, 30))
def test_windows_are_contiguous_and_apart(length, samples, more):
    tokens = torch.arange(length * samples + more)
    for place in ("start", "end", "spread"):
        found = windows(["x"], lambda _: tokens, length=length, samples=samples, place=place)
        assert found.shape == (samples, length)
        assert bool((found.diff(dim=1) == 1).all())
        assert found.flatten().unique().numel() == found.numel()


def test_batches_hold_few_tokens_and_their_own_labels():
    rows = torch.arange(6 * 100).view(6, 100)
    found = token_batches(rows)
    assert [len(batch["input_ids"]) for batch in found] == [5, 1]
    assert torch.equal(torch.cat([batch["labels"] for batch in found]), rows)
    assert len(token_batches(torch.zeros(3, 600))) == 3


def test_a_shared_run_is_found_wherever_it_lies():
    one = torch.arange(200)
    assert shared_run([one[:100]], [one[100:]]) == 0
    assert shared_run([one[:100]], [one[36:136]]) == 64
    assert shared_run([one[:100]], [one[37:137]]) == 0
    assert shared_run([torch.zeros(100)], [torch.zeros(100)]) == 0  # padding, or an empty page


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"length": 12}, "data='these documents' is not allowed: expected a text of at least 12 "),
        ({"length": 4, "samples": 3}, "it has 11, enough for 2 (samples, length)"),
        ({"length": 1}, "length=1 is not allowed"),
        ({"length": 2, "samples": 0}, "samples=0 is not allowed"),
        ({"length": 2, "samples": True}, "samples=True is not allowed"),
        ({"length": 2, "samples": 1, "place": "middle"}, "place='middle' is not allowed"),
    ],
)
def test_windows_that_cannot_be_cut(arguments, told):
    with pytest.raises(ValueError, match="is not allowed") as error:
        windows(["abcdefghijk"], letters, **{"samples": 1, **arguments})
    assert told in str(error.value)


def test_tokenizers_that_are_none():
    for tokenizer in (None, lambda _: ["a"], lambda _: [0.5]):
        with pytest.raises(ValueError, match="tokenizer="):
            windows(["abcdefgh"], tokenizer, length=2, samples=1)


def test_files_of_every_format(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = ["one\r\nline", "  ", "zwölf"]
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\nline".encode())
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": r, "n": 1}) for r in rows))
    pq.write_table(pyarrow.table({"n": [1, 2, 3], "text": rows}), tmp_path / "a.parquet")
    assert read_corpus(tmp_path / "a.txt").documents == ("one\r\nline",)
    assert read_corpus(tmp_path / "a.jsonl").documents == ("one\r\nline", "zwölf")
    assert read_corpus(tmp_path / "a.parquet").documents == ("one\r\nline", "zwölf")
    assert read_corpus(tmp_path / "a.parquet", limit=11).documents == ("one\r\nline", "zw")


def test_a_named_text_has_a_part_of_its_own_to_measure_on(tmp_path, monkeypatch):
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text("abcdefghij" * 2)
    monkeypatch.setenv("NATSEL_DATA", str(tmp_path))
    assert read_corpus("tinyshakespeare").documents == ("abcdefghijabcdefgh",)
    assert read_corpus("tinyshakespeare", held_out=True).documents == ("ij",)


OWN = """
import itertools
import torch

strings = ["one", "two"]

def endless():
    return ("word " * 100 for _ in itertools.count())

def batches():
    for _ in range(3):
        yield {"input_ids": torch.zeros(2, 4).long(), "attention_mask": torch.ones(2, 4)}

def mixed():
    return ["one", {"input_ids": torch.zeros(1, 1)}]

number = 3
"""


def test_a_users_own_texts_and_batches(tmp_path, monkeypatch):
    (tmp_path / "own_texts.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_texts", raising=False)
    assert read_corpus("own_texts:strings").documents == ("one", "two")
    assert sum(map(len, read_corpus("own_texts:endless", limit=1200).documents)) == 1000
    assert len(read_corpus("own_texts:batches").batches) == 3
    for name in ("mixed", "number", "nothing"):
        with pytest.raises(ValueError, match=f"data='own_texts:{name}' is not allowed"):
            read_corpus(f"own_texts:{name}")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"", "a text that is not empty"),
        ("a.txt", b" \n ", "a text that is not empty"),
        ("a.txt", "zwölf".encode("latin-1"), "text in UTF-8"),
        ("a.txt", "text".encode("utf-16"), "text in UTF-8"),
        ("a.txt", "text".encode("utf-16-le"), "it holds a zero byte"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}', "'text' in every row (line 2 has txt)"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 3}', "(line 2 holds int)"),
        ("a.jsonl", b'{"text": "a"}\n"b"', "(line 2 has str)"),
        ("a.jsonl", b'{"text": "a"\n', "one JSON object a line (line 1"),
        ("a.jsonl", b"", "a text that is not empty"),
        ("a.parquet", b"no parquet", "a parquet file that can be read"),
        ("a.md", b"text", "a .txt, .jsonl or .parquet file"),
    ],
)
def test_files_that_are_no_text(tmp_path, name, content, told):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"held_out=.* is not allowed") as error:
        read_corpus(tmp_path / name, argument="held_out")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_parquet_file_without_the_column(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    pq.write_table(pyarrow.table({"content": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a column 'text', it has content"):
        read_corpus(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a file that is there"):
        read_corpus(tmp_path / "none.txt")


def test_one_text_under_several_names(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "copy.txt").write_text("words")
    (tmp_path / "other.txt").write_text("other words")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    one = read_corpus(tmp_path / "a.txt")
    assert same_text(one, read_corpus(tmp_path / "copy.txt"))
    assert same_text(one, read_corpus(tmp_path / "link.txt"))
    assert not same_text(one, read_corpus(tmp_path / "other.txt"))
