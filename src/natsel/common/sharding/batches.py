"""Calibration batches of all processes, where what is made of them is no sum."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from natsel.common.files import load_tree, save_tree
from natsel.common.sharding.reducing import device_of, gathered, num_processes

FILE = "batches.safetensors"


def everybodys(data: Iterable[Any] | None, group: Any) -> Any:
    """Return the batches of all processes of a group, those of the first one first.

    Every process gets all of them; they are sent as the tensors that they hold.

    Args:
        data: batches of this process: nested tuples, lists and mappings of tensors.
        group: the processes; None leaves the data as they are.

    Raises:
        ValueError: if a batch holds what is neither a tensor nor plain.
    """
    if data is None or group is None or num_processes(group) == 1:
        return data
    device = device_of(group)
    mine = _packed(list(data)).to(device)
    sizes = [int(size) for size in gathered(torch.tensor([len(mine)], device=device), group)]
    padded = mine.new_zeros(max(sizes))
    padded[: len(mine)] = mine
    parts = zip(gathered(padded, group), sizes, strict=True)
    return [batch for part, size in parts for batch in _unpacked(part[:size])]


def _packed(batches: list[Any]) -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        save_tree(path, batches)
        return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_bytes(packed.cpu().numpy().tobytes())
        batches: list[Any] = load_tree(path)
        return batches
