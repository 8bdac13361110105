"""A data set as training, validation and test tensors; the test split is never tuned on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from natsel.data import load, split

SPLIT_SEED = 20260114
VALIDATION = {"digits": 200}


@dataclass(frozen=True)
class Splits:
    """Standardised inputs ``[N, C, H, W]`` and labels ``[N]`` of each split.

    Attributes:
        name: of the data set.
        classes: a name for each label.
        train: what networks learn from.
        validation: taken from the training part; settings are chosen on it.
        test: what is reported.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train[0].shape[1:])


def load_splits(name: str) -> Splits:
    """Load a data set and set a validation split aside, the same one every time.

    Args:
        name: of the data set.

    Returns:
        The three splits.

    Raises:
        ValueError: if the data set is unknown or cannot be read.
    """
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
