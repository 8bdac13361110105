"""Texts that share passages overlap, whatever windows are cut from them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natsel.data import overlap
from natsel.data.overlap import PASSAGE, shared_share


def words(seed, count=3000):
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(60)}" for _ in range(count))


def by_hand(first, second):
    """Return what is counted, by looking for each passage as Python does."""
    parts = [second[i : i + PASSAGE] for i in range(0, len(second) - PASSAGE + 1, PASSAGE)]
    return sum(part in first for part in parts) / len(parts) if parts else 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 8000), st.integers(0, 4000), st.integers(0, 3))
def test_it_counts_the_passages_that_python_finds(start, length, seed):
    first = words(seed)
    second = words(seed + 1, 500) + first[start : start + length] + words(seed + 2, 500)
    assert shared_share([first], [second]) == by_hand(first, second)


def test_texts_in_pieces_are_searched_across_their_edges(monkeypatch):
    monkeypatch.setattr(overlap, "_PIECE", 100)
    first = words(0)
    assert shared_share([first], [first[77:]]) == 1.0


@pytest.mark.parametrize(
    ("first", "second"),
    [([], ["a"]), (["short"], ["short"]), ([""], ["x" * 999]), (["é" * 300], ["e" * 300])],
)
def test_what_has_no_passage_in_common_shares_nothing(first, second):
    assert shared_share(first, second) == 0.0
