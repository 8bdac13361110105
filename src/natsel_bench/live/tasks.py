"""Synthetic tasks with exact answers: facts in hay, of which one is asked for."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from natsel.common.errors import choose, refuse

NAMES = ("Anna", "Peter", "Mary", "John", "David", "Paul", "James", "Sarah")
WORDS = (
    *("apple", "river", "stone", "green", "music", "winter", "paper", "horse", "table", "cloud"),
    *("window", "garden", "silver", "bridge", "summer", "orange", "mountain", "kitchen", "forest"),
    *("doctor", "letter", "market", "ocean", "planet", "school", "street", "village", "yellow"),
)


class Words(NamedTuple):
    """What a task says.

    Attributes:
        facts: each is put between the hay.
        question: what is read last; its continuation is the answer.
        answer: that the facts decide.
    """

    facts: tuple[str, ...]
    question: str
    answer: str


def _number(draw: random.Random) -> str:
    return str(draw.randrange(10_000, 100_000))


def needle(draw: random.Random) -> Words:
    """One fact, which is asked for."""
    number = _number(draw)
    said = "\nThe secret number is"
    return Words((f"{said} {number}.\n",), said, f" {number}")


def keys(draw: random.Random) -> Words:
    """Several facts of one form, of which one is asked for."""
    facts = {name: _number(draw) for name in draw.sample(NAMES, 3)}
    asked = draw.choice(list(facts))
    said = tuple(f"\nThe number of {name} is {number}.\n" for name, number in facts.items())
    return Words(said, f"\nThe number of {asked} is", f" {facts[asked]}")


def copy(draw: random.Random) -> Words:
    """A line of words at random, whose beginning is repeated."""
    words = draw.sample(WORDS, 6)
    line = " " + " ".join(words)
    return Words(
        (f"\nRemember:{line}.\n",), f"\nRemember: {' '.join(words[:3])}", " " + " ".join(words[3:])
    )


def variables(draw: random.Random) -> Words:
    """A value that goes from one variable to the next, twice, which is asked for at the end."""
    number = _number(draw)
    one, two, three = draw.sample("ABCDEFGHKLMNPRSTUVWXYZ", 3)
    facts = (f"\nLet {one} = {number}.\n", f"\nLet {two} = {one}.\n", f"\nLet {three} = {two}.\n")
    return Words(facts, f"\nThe value of {three}, {two} and {one} is", f" {number}")


TASKS: dict[str, Callable[[random.Random], Words]] = {
    "needle": needle,
    "keys": keys,
    "copy": copy,
    "variables": variables,
}


@dataclass(frozen=True)
class Document:
    """One case, in tokens.

    Attributes:
        prompt: the hay with the facts.
        question: that is read after it.
        answer: the tokens that have to follow.
    """

    prompt: tuple[int, ...]
    question: tuple[int, ...]
    answer: tuple[int, ...]


def documents(
    task: str,
    read: Callable[[str], Sequence[int]],
    hay: Sequence[int],
    *,
    count: int,
    length: int,
    seed: int = 0,
) -> list[Document]:
    """Return cases of a task, each with hay, places and facts of its own.

    Facts stand in the order of the task, at places drawn from all of the prompt. The same seed
    gives the same cases, and a case is the same however many follow it.

    Args:
        task: a name in ``TASKS``.
        read: from a text to tokens, without any that begins or ends a text.
        hay: tokens of a text that has nothing to do with the facts.
        count: how many cases.
        length: tokens of each prompt.
        seed: of all chance.

    Returns:
        The cases, whose prompts are equally long.

    Raises:
        ValueError: if there is no such task, or the hay or the prompt is too short.

    Example:
        >>> (case,) = documents("needle", lambda text: list(text.encode()), [46] * 99, count=1,
        ...     length=60)
        >>> bytes(case.question), len(case.prompt), bytes(case.answer) in bytes(case.prompt)
        (b'\\nThe secret number is', 60, True)
    """
    choose("task", task, TASKS)
    found = []
    for number in range(count):
        draw = random.Random(f"{seed} {task} {number}")  # noqa: S311 - no secret
        words = TASKS[task](draw)
        facts = [tuple(read(fact)) for fact in words.facts]
        question = tuple(read(words.question))
        both = tuple(read(words.question + words.answer))
        assert both[: len(question)] == question, "an answer that merges with its question"
        left = length - sum(map(len, facts))
        if left < 0:
            refuse("length", length, f"at least {length - left} tokens: the facts of {task}")
        if len(hay) < left:
            refuse("text", f"{len(hay)} tokens", f"at least {left}, for prompts of {length}")
        start = draw.randrange(len(hay) - left + 1)
        places = sorted(draw.randrange(left + 1) for _ in facts)
        prompt: list[int] = []
        for place, fact, before in zip(places, facts, [0, *places], strict=False):
            prompt += [*hay[start + before : start + place], *fact]
        prompt += hay[start + places[-1] : start + left]
        found.append(Document(tuple(prompt), question, both[len(question) :]))
    return found


def continuations(
    hay: Sequence[int], *, count: int, length: int, num_more: int, seed: int = 0
) -> list[Document]:
    """Return places of a text and what follows them, for its perplexity.

    Args:
        hay: tokens of the text.
        count: how many places.
        length: tokens that are read before.
        num_more: tokens that follow.
        seed: of the places.

    Raises:
        ValueError: if the text is too short.

    Example:
        >>> (case,) = continuations(range(6), count=1, length=4, num_more=2)
        >>> case.prompt, case.answer
        ((0, 1, 2, 3), (4, 5))
    """
    both = length + num_more
    if len(hay) < both:
        refuse("text", f"{len(hay)} tokens", f"at least {both}, for prompts of {length}")
    found = []
    for number in range(count):
        draw = random.Random(f"{seed} text {number}")  # noqa: S311 - no secret
        start = draw.randrange(len(hay) - both + 1)
        whole = tuple(hay[start : start + both])
        found.append(Document(whole[:length], (), whole[length:]))
    return found


def reader(tokenizer: Any) -> Callable[[str], list[int]]:
    """Return what turns a text into tokens, without any that begins or ends a text."""
    return lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"])
