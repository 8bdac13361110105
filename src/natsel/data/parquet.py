"""Encoded images in parquet files, of a folder or of the Hugging Face hub, become tensors."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from natsel.common.extras import require
from natsel.data.sources import Source

SPLITS = ("train", "test")


def find(folder: Path) -> dict[str, Path] | None:
    """Find the files of a data set.

    Args:
        folder: the folder of the data set.

    Returns:
        The file of each split, or None if the folder does not exist.

    Raises:
        ValueError: if the folder lacks a file.
    """
    if not folder.is_dir():
        return None
    files = {split: folder / f"{split}-00000-of-00001.parquet" for split in SPLITS}
    for path in files.values():
        if not path.is_file():
            raise ValueError(f"{path} is missing: {folder} must hold one file for each split")
    return files


def from_files(files: Mapping[str, Path], source: Source) -> dict[str, Tensor]:
    """Decode the files of a folder.

    Args:
        files: the file of each split.
        source: what is stated of the data set.

    Returns:
        ``train_inputs``, ``train_labels``, ``test_inputs`` and ``test_labels``.

    Raises:
        ValueError: if a file is damaged or does not hold what is stated.
    """
    datasets = require("datasets", "data")
    # Plain columns, whatever the metadata says: a label out of range is then ours to report.
    image = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features(
        {source.image_column: image, source.label_column: datasets.Value("int64")}
    )
    tensors: dict[str, Tensor] = {}
    for split, path in files.items():
        with _quiet(datasets), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            try:
                # Not load_dataset("parquet"): that counts the load over the network.
                rows = datasets.Dataset.from_parquet(
                    os.fspath(path),
                    features=features,
                    cache_dir=scratch,
                    keep_in_memory=True,
                    batch_size=1000,  # else taken from the first row group, which may be empty
                )
            except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
                # Arrow's own errors arrive wrapped in errors of datasets that name no file.
                cause = error.__cause__ or error
                reason = (str(cause).splitlines() or [type(cause).__name__])[0]
                raise ValueError(f"{path} cannot be read: {reason}") from None
            tensors |= _tensors(rows, split, source, os.fspath(path))
    return tensors


def from_hub(name: str, source: Source) -> dict[str, Tensor]:
    """Fetch a data set from the Hugging Face hub, or from the cache of ``datasets``.

    Args:
        name: what users call it.
        source: what is stated of it.

    Returns:
        As :func:`from_files`.

    Raises:
        ValueError: if the hub cannot be reached; the message tells both ways to the data.
    """
    datasets = require("datasets", "data")
    with _quiet(datasets):
        try:
            splits = datasets.load_dataset(source.hub)
        except Exception as error:
            # The client raises errors of several libraries; each of them means "not from there".
            raise ValueError(
                f"{name} was not found: set NATSEL_DATA to a folder that holds "
                f"{name}/train-00000-of-00001.parquet and {name}/test-00000-of-00001.parquet, "
                f"or allow network for {source.hub} of the Hugging Face hub "
                f"({type(error).__name__})"
            ) from error
        image = datasets.Image(decode=False)
        tensors: dict[str, Tensor] = {}
        for split in SPLITS:
            rows = splits[split].cast_column(source.image_column, image)
            tensors |= _tensors(rows, split, source, f"{source.hub} ({split})")
    return tensors


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Silence progress bars and warnings, then leave the user's settings as they were."""
    hub = require("huggingface_hub", "data")
    loud = [
        library.utils
        for library in (datasets, hub)
        if not library.utils.are_progress_bars_disabled()
    ]
    loggers = [datasets.utils.logging, hub.utils.logging]
    levels = [logger.get_verbosity() for logger in loggers]
    try:
        for utils in loud:
            utils.disable_progress_bars()
        for logger in loggers:
            # Above CRITICAL: a damaged file is told once, by our own error.
            logger.set_verbosity(logging.CRITICAL + 1)
        yield
    finally:
        for utils in loud:
            utils.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)


def _tensors(rows: Any, split: str, source: Source, where: str) -> dict[str, Tensor]:
    """Decode the rows of one split and check them against what is stated."""
    if len(rows) == 0:
        raise ValueError(f"{where} holds no rows")
    columns = rows.with_format(None)[:]
    return {
        f"{split}_inputs": _images(columns[source.image_column], source.shape, where),
        f"{split}_labels": _labels(columns[source.label_column], len(source.classes), where),
    }


def _labels(labels: list[int | None], num_classes: int, where: str) -> Tensor:
    for index, label in enumerate(labels):
        if label is None or not 0 <= label < num_classes:
            raise ValueError(
                f"{where}: label {label} at index {index} is out of range: "
                f"expected 0 to {num_classes - 1}"
            )
    return torch.tensor(labels, dtype=torch.int64)


def _images(
    encoded: list[Mapping[str, Any] | None], shape: tuple[int, int, int], where: str
) -> Tensor:
    """Decode images to ``[N, C, H, W]`` uint8."""
    image_library = require("PIL.Image", "data")
    num_channels, height, width = shape
    stack = np.empty((len(encoded), height, width, num_channels), dtype=np.uint8)
    for index, image in enumerate(encoded):
        try:
            # A row without bytes is as undecodable as one with damaged bytes.
            content = io.BytesIO((image or {}).get("bytes") or b"")
            pixels = np.asarray(image_library.open(content))
        except (OSError, SyntaxError, ValueError):  # Pillow reports a broken PNG as SyntaxError
            raise ValueError(f"{where}: the image at index {index} cannot be decoded") from None
        found = (1, *pixels.shape) if pixels.ndim == 2 else (pixels.shape[2], *pixels.shape[:2])
        if found != shape or pixels.dtype != np.uint8:
            raise ValueError(
                f"{where}: the image at index {index} is {found} {pixels.dtype}: "
                f"expected {shape} uint8 (channels, height, width)"
            )
        stack[index] = pixels.reshape(height, width, num_channels)
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()
