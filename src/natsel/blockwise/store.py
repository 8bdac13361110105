"""Where hidden states are held between two blocks: in memory, or in files."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from natsel.common.writing import writing


class Store(Protocol):
    """Tensors by number."""

    def put(self, number: int, tensor: Tensor) -> None:
        """Hold a tensor, in place of the one of this number."""

    def get(self, number: int) -> Tensor:
        """Return the tensor of a number."""


class Held:
    """Tensors in memory.

    Example:
        >>> import torch
        >>> held = Held()
        >>> held.put(0, torch.ones(2))
        >>> held.get(0)
        tensor([1., 1.])
    """

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}

    def put(self, number: int, tensor: Tensor) -> None:
        """Hold a tensor, in place of the one of this number."""
        self._tensors[number] = tensor

    def get(self, number: int) -> Tensor:
        """Return the tensor of a number."""
        return self._tensors[number]


class OnDisk:
    """Tensors in files of one folder, for more of them than memory holds.

    Args:
        folder: is made where it is not there.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def put(self, number: int, tensor: Tensor) -> None:
        """Hold a tensor, in place of the one of this number."""
        path = self._path(number)
        fresh = path.with_suffix(".new")
        with writing(path):
            save_file({"hidden": tensor.contiguous().cpu()}, fresh)
        fresh.replace(path)

    def get(self, number: int) -> Tensor:
        """Return the tensor of a number."""
        return load_file(self._path(number))["hidden"]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.safetensors"
