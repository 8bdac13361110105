"""Where a data set comes from: scikit-learn, a folder of parquet files or the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from natsel.common.errors import choose
from natsel.common.extras import require
from natsel.data import cache, parquet
from natsel.data.sources import SOURCES, Source

_LENT: dict[str, Dataset] = {}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A whole data set in memory.

    Attributes:
        name: what :func:`load` calls it.
        train_inputs: ``[N, C, H, W]`` uint8.
        train_labels: ``[N]`` int64.
        test_inputs: as the training inputs.
        test_labels: as the training labels.
        classes: a name for each label.
        mean: of each channel, in the units of the stored images.
        std: of each channel, in the units of the stored images.
    """

    name: str
    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)

    def normalized(self, images: Tensor) -> Tensor:
        """Standardise images with the mean and standard deviation of the data set.

        Args:
            images: ``[N, C, H, W]``, as stored.

        Returns:
            float32 of the same shape and on the same device.
        """
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return (images.float() - mean) / std


def names() -> tuple[str, ...]:
    """Name every data set that :func:`load` knows.

    Returns:
        The names.

    Example:
        >>> names()
        ('digits', 'mnist', 'cifar10')
    """
    return ("digits", *SOURCES)


def load(name: str, *, root: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set whole.

    "digits" (8x8, grey, values 0 to 16) comes with scikit-learn; 360 of its 1797 images, drawn
    once and for all in equal shares, are its test set. "mnist" and "cifar10" are read from
    ``<root>/<name>/{train,test}-00000-of-00001.parquet``, the layout of the Hugging Face hub, or
    else from the hub itself. Decoded images are kept under ``$NATSEL_CACHE`` (``~/.cache/natsel``).

    The CIFAR-10 images may be JPEG re-encoded, depending on the source of the files: an accuracy
    on them can differ slightly from one on the original arrays. Say so where it is published.

    Args:
        name: "digits", "mnist" or "cifar10".
        root: the folder that holds the data sets; ``$NATSEL_DATA`` if it is not given.

    Returns:
        The data set.

    Raises:
        ValueError: if the name is unknown, a file is missing or damaged, a label is out of range,
            an image has the wrong size, or the hub cannot be reached; one line that says which.
            Without a network the hub's client retries for half a minute before that, unless
            ``HF_HUB_OFFLINE=1`` is set.
        MissingExtraError: if a library of the extra ``data`` is not installed.
    """
    choose("name", name, names())
    if root is None and name in _LENT:
        return _LENT[name]
    if name == "digits":
        return _digits()
    source = SOURCES[name]
    folder = root if root is not None else os.environ.get("NATSEL_DATA")
    files = parquet.find(Path(folder) / name) if folder else None
    if files is None:
        return _dataset(name, source, parquet.from_hub(name, source))
    key = cache.key(files)
    tensors = cache.read(name, key)
    if tensors is None:
        tensors = parquet.from_files(files, source)
        cache.write(name, key, tensors)
    return _dataset(name, source, tensors)


@contextmanager
def lent(datasets: Mapping[str, Dataset]) -> Iterator[None]:
    """Let :func:`load` find data sets that somebody else has read, on a machine without files."""
    before = dict(_LENT)
    _LENT.update(datasets)
    try:
        yield
    finally:
        _LENT.clear()
        _LENT.update(before)


def _dataset(name: str, source: Source, tensors: Mapping[str, Tensor]) -> Dataset:
    return Dataset(name=name, **tensors, classes=source.classes, mean=source.mean, std=source.std)


def _digits() -> Dataset:
    bunch = require("sklearn.datasets", "data").load_digits()
    model_selection = require("sklearn.model_selection", "data")
    train, test = model_selection.train_test_split(
        range(len(bunch.target)), test_size=360, random_state=0, stratify=bunch.target
    )
    images = torch.from_numpy(bunch.images).to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    return Dataset(
        name="digits",
        train_inputs=images[train],
        train_labels=labels[train],
        test_inputs=images[test],
        test_labels=labels[test],
        classes=tuple("0123456789"),
        mean=(4.886,),
        std=(6.018,),
    )
