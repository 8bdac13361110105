"""A data set as training, validation and test tensors; the test split is never tuned on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from natsel.common.errors import choose, refuse
from natsel.common.importing import names_own
from natsel.data import TEXTS, load, load_text, masked_characters, names, next_characters, split
from natsel.models import TASKS
from natsel.runs.own_data import read_data

SPLIT_SEED = 20260114
WINDOW = 64
"""Characters in a window of a text."""

VALIDATION = {"digits": 200}


@dataclass(frozen=True)
class Splits:
    """Inputs and labels of each split.

    Of images: standardised ``[N, C, H, W]`` and ``[N]``. Of a text: the numbers of the characters
    of each window, ``[N, T]``, and what is predicted at each place, ``[N, T]``.

    Attributes:
        name: of the data set.
        classes: a name for each label: the classes of images, the alphabet of a text.
        train: what networks learn from.
        validation: taken from the training part; settings are chosen on it.
        test: what is reported.
        task: what is predicted of a text; None for the class of an image.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    task: str | None = None

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train[0].shape[1:])


def check_fit(dataset: str, model: str) -> None:
    """Refuse a data set that a network cannot read.

    Raises:
        ValueError: naming the data sets that it can.
    """
    if names_own(dataset) or names_own(model):
        return  # which shows when the network runs on them
    reads_text = model in TASKS
    if (dataset in TEXTS) != reads_text:
        fitting = TEXTS if reads_text else names()
        what = "text" if reads_text else "images"
        refuse("dataset", dataset, f"{' or '.join(fitting)}: {model} reads {what}")


def check_data(name: str, *, argument: str = "data") -> None:
    """Refuse what names no data.

    Args:
        name: of a data set, or ``module:name`` of a loader, which is imported when it is read.
        argument: what the caller calls it.

    Raises:
        ValueError: if there is no data set of this name.
    """
    if not names_own(name):
        choose(argument, name, (*names(), *TEXTS))


def load_splits(
    name: str, *, task: str | None = None, batches: Sequence[Any] | None = None
) -> Splits:
    """Load a data set and set a validation split aside, the same one every time.

    A text is cut in three contiguous parts before each is cut into windows, so that no window
    shares a place with another split. Of what a user's own loader yields, a fifth is the test
    split and a fifth the validation split.

    Args:
        name: of the data set, or ``module:name`` of a loader (see
            :func:`natsel.runs.own_data.read_data`).
        task: what is predicted of a text: "next character" or "masked character".
        batches: what a user's own loader yields, if that was read before.

    Returns:
        The three splits.

    Raises:
        ValueError: if the data set is unknown or cannot be read.
    """
    if names_own(name):
        return _own_splits(name, batches)
    choose("data", name, names() if task is None else TEXTS)
    if task is not None:
        return _text_splits(name, task)
    dataset = load(name)
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    train, validation = split(dataset, validation=VALIDATION.get(name, 5000), generator=generator)
    inputs, labels = dataset.train_inputs, dataset.train_labels
    return Splits(
        name,
        dataset.classes,
        (dataset.normalized(inputs[train]), labels[train]),
        (dataset.normalized(inputs[validation]), labels[validation]),
        (dataset.normalized(dataset.test_inputs), dataset.test_labels),
    )


def _own_splits(name: str, batches: Sequence[Any] | None) -> Splits:
    inputs, labels = read_data(name, seed=SPLIT_SEED, batches=batches)
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(len(inputs), generator=generator)
    fifth = len(inputs) // 5
    train, validation, test = order[2 * fifth :], order[:fifth], order[fifth : 2 * fifth]
    return Splits(
        name,
        tuple(str(label) for label in range(int(labels.max()) + 1)),
        (inputs[train], labels[train]),
        (inputs[validation], labels[validation]),
        (inputs[test], labels[test]),
    )


def _text_splits(name: str, task: str) -> Splits:
    text = load_text(name)
    parts = (text.train, text.validation, text.test)
    if task == "next character":
        cut = [next_characters(part, length=WINDOW) for part in parts]
    else:
        cut = [
            masked_characters(part, length=WINDOW, mask=len(text.characters), seed=SPLIT_SEED + i)
            for i, part in enumerate(parts)
        ]
    return Splits(name, text.characters, cut[0], cut[1], cut[2], task)
