"""Plain text as characters: contiguous parts, windows of one length, and what is predicted."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from natsel.common.calls import IGNORED
from natsel.common.errors import choose, refuse

TEXTS = ("tinyshakespeare",)
FILE = "input.txt"


@dataclass(frozen=True, eq=False)
class Text:
    """A text in three contiguous parts, as numbers.

    Attributes:
        name: what :func:`load_text` calls it.
        characters: the alphabet, in the order of the code points; a number is a place in it.
        train: the beginning, int64 ``[N]``.
        validation: what follows it.
        test: the end.
    """

    name: str
    characters: tuple[str, ...]
    train: Tensor
    validation: Tensor
    test: Tensor


def load_text(name: str, *, root: str | os.PathLike[str] | None = None) -> Text:
    """Read a text whole and cut it in three: 90 %, 5 % and 5 % of its characters, in order.

    The alphabet is that of the whole text, so that no part holds an unknown character.

    Args:
        name: "tinyshakespeare".
        root: the folder with ``<name>/input.txt``; ``$NATSEL_DATA`` if it is not given.

    Returns:
        The text.

    Raises:
        ValueError: if the name is unknown, or the file is missing, empty or not UTF-8.
    """
    return text_of(name, raw_text(name, root=root))


def raw_text(name: str, *, root: str | os.PathLike[str] | None = None) -> str:
    """Read a text whole; see :func:`load_text`.

    Raises:
        ValueError: if the name is unknown, or the file is missing, empty or not UTF-8.
    """
    choose("name", name, TEXTS)
    folder = root if root is not None else os.environ.get("NATSEL_DATA")
    if not folder:
        raise ValueError(
            f"{name} was not found: set NATSEL_DATA to a folder that holds {name}/{FILE}"
        )
    path = Path(folder) / name / FILE
    try:
        content = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if not content:
        raise ValueError(f"{path} is empty")
    return content


def text_of(name: str, content: str) -> Text:
    """Number the characters of a text and cut it in three.

    Args:
        name: what to call it.
        content: the text.

    Returns:
        The text.

    Example:
        >>> text = text_of("abc", "abcabcabcabcabcabcab")
        >>> text.characters, len(text.train), text.validation.tolist(), text.test.tolist()
        (('a', 'b', 'c'), 18, [0], [1])
    """
    characters = tuple(sorted(set(content)))
    numbers = {character: number for number, character in enumerate(characters)}
    whole = torch.tensor([numbers[character] for character in content], dtype=torch.int64)
    first, second = round(0.9 * len(whole)), round(0.95 * len(whole))
    return Text(name, characters, whole[:first], whole[first:second], whole[second:])


def next_characters(part: Tensor, *, length: int) -> tuple[Tensor, Tensor]:
    """Cut a part into windows side by side; the label of each place is the character after it.

    Args:
        part: int64 ``[N]``.
        length: characters in a window.

    Returns:
        Inputs and labels, int64 ``[windows, length]``; what does not fill a window is left out.

    Raises:
        ValueError: if the part is not longer than one window.

    Example:
        >>> next_characters(torch.arange(8), length=3)
        (tensor([[0, 1, 2],
                [3, 4, 5]]), tensor([[1, 2, 3],
                [4, 5, 6]]))
    """
    count = (len(part) - 1) // length
    if length < 1 or count < 1:
        refuse("length", length, f"1 to {len(part) - 1}: a part has {len(part)} characters")
    stop = count * length
    return part[:stop].view(count, length), part[1 : stop + 1].view(count, length)


def masked_characters(
    part: Tensor, *, length: int, mask: int, share: float = 0.15, seed: int
) -> tuple[Tensor, Tensor]:
    """Cut a part into windows side by side, and hide some characters of each: they are the labels.

    Every window hides the same number of characters, at places that the seed draws.

    Args:
        part: int64 ``[N]``.
        length: characters in a window.
        mask: the number that stands for a hidden character.
        share: of the characters that are hidden, at least one in a window.
        seed: of the places.

    Returns:
        Inputs and labels, int64 ``[windows, length]``; labels are -100 where nothing is hidden.

    Raises:
        ValueError: if the part is shorter than one window, or the share is not in (0, 1].

    Example:
        >>> inputs, labels = masked_characters(
        ...     torch.arange(8), length=4, mask=9, share=0.25, seed=0)
        >>> inputs.tolist(), labels.tolist()
        ([[0, 9, 2, 3], [4, 5, 6, 9]], [[-100, 1, -100, -100], [-100, -100, -100, 7]])
    """
    if not 0 < share <= 1:
        refuse("share", share, "a number in (0, 1]")
    count = len(part) // length if length > 0 else 0
    if count < 1:
        refuse("length", length, f"1 to {len(part)}: a part has {len(part)} characters")
    windows = part[: count * length].view(count, length)
    draw = torch.rand(count, length, generator=torch.Generator().manual_seed(seed))
    places = draw.topk(max(1, round(share * length)), dim=1).indices
    hidden = torch.zeros(count, length, dtype=torch.bool).scatter_(1, places, True)
    inputs = windows.masked_fill(hidden, mask)
    return inputs, windows.masked_fill(~hidden, IGNORED)
