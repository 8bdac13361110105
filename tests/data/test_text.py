"""A text is cut into parts that share nothing, then into windows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from natsel import data
from natsel.data.text import text_of

TEXT = "to be or not to be, that is the question:\n" * 10


@pytest.fixture
def root(tmp_path):
    def make(content):
        (tmp_path / "tinyshakespeare").mkdir()
        (tmp_path / "tinyshakespeare" / "input.txt").write_bytes(content)
        return tmp_path

    return make


def test_the_parts_put_together_are_the_text(root, monkeypatch):
    monkeypatch.setenv("NATSEL_DATA", str(root(TEXT.encode())))
    text = data.load_text("tinyshakespeare")
    assert text.characters == tuple(sorted(set(TEXT)))
    numbers = torch.cat([text.train, text.validation, text.test]).tolist()
    assert "".join(text.characters[n] for n in numbers) == TEXT
    assert [len(p) for p in (text.train, text.validation, text.test)] == [378, 21, 21]


def test_next_characters_by_hand():
    inputs, labels = data.next_characters(torch.tensor([5, 6, 7, 8, 9, 4]), length=2)
    assert inputs.tolist() == [[5, 6], [7, 8]]
    assert labels.tolist() == [[6, 7], [8, 9]]


@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 3))
def test_windows_never_leave_their_part(size, length, seed):
    part = torch.arange(size)
    if length < size:
        inputs, labels = data.next_characters(part, length=length)
        assert torch.equal(labels, inputs + 1)
        assert labels.max() < size
        assert inputs.flatten().tolist() == list(range((size - 1) // length * length))
    if length <= size:
        inputs, labels = data.masked_characters(part, length=length, mask=-1, seed=seed)
        hidden = inputs == -1
        assert torch.equal(hidden, labels != -100)
        assert hidden.sum(1).tolist() == [max(1, round(0.15 * length))] * (size // length)
        whole = torch.where(hidden, labels, inputs).flatten()
        assert whole.tolist() == list(range(size // length * length))


def test_the_seed_decides_what_is_hidden():
    part = torch.arange(640)

    def draw(seed):
        return data.masked_characters(part, length=64, mask=-1, seed=seed)[0]

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"\xff\xfe\xff", "is not UTF-8 text")]
)
def test_a_file_that_holds_no_text_is_named(root, content, message):
    with pytest.raises(ValueError, match=rf"tinyshakespeare/input\.txt {message}"):
        data.load_text("tinyshakespeare", root=root(content))


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"input\.txt cannot be read: No such file"):
        data.load_text("tinyshakespeare", root=tmp_path)
    with pytest.raises(ValueError, match="did you mean 'tinyshakespeare'"):
        data.load_text("tinyshakespear", root=tmp_path)
    monkeypatch.delenv("NATSEL_DATA", raising=False)
    with pytest.raises(ValueError, match="set NATSEL_DATA to a folder"):
        data.load_text("tinyshakespeare")


def test_parts_that_are_too_short_are_refused():
    text = text_of("short", "abcdefghij")
    with pytest.raises(ValueError, match=r"^length=64 .*1 to 8: a part has 9 characters"):
        data.next_characters(text.train, length=64)
    with pytest.raises(ValueError, match=r"^length=64"):
        data.masked_characters(text.train, length=64, mask=0, seed=0)
    with pytest.raises(ValueError, match=r"^share=0\.0"):
        data.masked_characters(text.train, length=2, mask=0, share=0.0, seed=0)
