"""Named tensors spread over several safetensors files: read one by one, written piece by piece."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.common.json_data import read_json
from natsel.common.tensorfiles import Place, places
from natsel.common.writing import writing

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
ROOM = 2**20
"""Bytes that are left for the header of a file, which is written last."""

ENTRY = 200
"""Bytes that a header takes for a tensor at most, besides its name."""


class Shards:
    """The tensors of a folder by name; nothing but headers is read until one is asked for.

    Args:
        folder: with ``model.safetensors``, or with several files and their index.

    Raises:
        ValueError: if there are none, one is missing, or a file is damaged.

    Example:
        >>> import tempfile
        >>> from natsel.common.tensorfiles import write_tensors
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tensors(Path(folder) / WHOLE, {"weight": torch.ones(2)})
        ...     shards = Shards(folder)
        ...     list(shards), shards.read("weight")
        (['weight'], tensor([1., 1.]))
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.files = tuple(_files(self.folder))
        self._places: dict[str, tuple[Path, Place]] = {}
        for path in self.files:
            for name, place in places(path).items():
                if name in self._places:
                    refuse("model", str(folder), f"{name} in one file, not in two")
                self._places[name] = (path, place)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    def place(self, name: str) -> Place:
        """Return what is known of a tensor without reading it."""
        return self._places[name][1]

    def read(self, name: str) -> Tensor:
        """Read one tensor into memory of its own; no file stays open or mapped."""
        path, place = self._places[name]
        tensor = torch.empty(place.shape, dtype=place.dtype)
        if tensor.numel():
            with path.open("rb", buffering=0) as file:
                file.seek(place.start)
                _fill(file, tensor.reshape(-1).view(torch.uint8).numpy().data, path)
        return tensor


def _fill(file: Any, room: memoryview, path: Path) -> None:
    while room:
        count = file.readinto(room)
        if not count:
            raise ValueError(f"{path} is damaged: it ends too early")
        room = room[count:]


def _files(folder: Path) -> Iterator[Path]:
    index = folder / INDEX
    if not index.is_file():
        if not (folder / WHOLE).is_file():
            refuse("model", str(folder), f"a folder with {WHOLE} or {INDEX}")
        yield folder / WHOLE
        return
    data = read_json(index, finite=False)
    named = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(named, dict) or not all(isinstance(n, str) for n in named.values()):
        refuse("model", str(index), "an index with a weight_map from names to files")
    for name in dict.fromkeys(named.values()):
        if Path(name).name != name or not (folder / name).is_file():
            refuse("model", str(folder), f"a folder with {name}, which its index names")
        yield folder / name


@dataclass
class _Shard:
    """A file that grows: where its tensors lie, after the room for its header."""

    length: int
    entries: dict[str, dict[str, Any]]

    def takes(self, tensors: Mapping[str, Tensor], size: int, most: int) -> bool:
        """Say whether there is room for some more tensors, and for what the header says of them."""
        header = sum(len(name) + ENTRY for name in (*self.entries, *tensors))
        return not self.entries or (self.length - ROOM + size <= most and header <= ROOM)


class ShardWriter:
    """Tensors appended to files of bounded size, which a killed process can go on with.

    The files have names that nothing loads. What :meth:`state` returned is what they hold, however
    much more was appended when the process ended.

    Args:
        folder: where the files grow.
        most: bytes of a file; one addition is never split, and may be more alone.
        state: of an earlier writer, to go on from.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer = ShardWriter(folder, most=8)
        ...     writer.add({"a": torch.ones(2)})
        ...     writer.add({"b": torch.zeros(1)})
        ...     names = writer.finish(Path(folder))
        ...     list(names), Shards(folder).read("b")
        (['a', 'b'], tensor([0.]))
    """

    def __init__(
        self, folder: str | Path, *, most: int, state: list[dict[str, Any]] | None = None
    ) -> None:
        self._folder, self._most = Path(folder), most
        self._folder.mkdir(parents=True, exist_ok=True)
        self._shards = [_Shard(s["length"], dict(s["entries"])) for s in state or []]

    def state(self) -> list[dict[str, Any]]:
        """Return what was added, as plain data."""
        return [{"length": s.length, "entries": dict(s.entries)} for s in self._shards]

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Append tensors and put them on the disk; all of them or none.

        Raises:
            OSError: if there is no room; the files are then as they were.
        """
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        if not self._shards or not self._shards[-1].takes(tensors, size, self._most):
            self._shards.append(_Shard(ROOM, {}))
        number = len(self._shards) - 1
        shard, path = self._shards[-1], self._path(number)
        length, entries = shard.length, {}
        if length > ROOM and (not path.is_file() or path.stat().st_size < length):
            refuse("out", str(self._folder), f"the {path.name} that was written there")
        try:
            with writing(path), path.open("r+b" if path.exists() else "w+b") as file:
                file.truncate(length)
                file.seek(length)
                for name, tensor in tensors.items():
                    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                    file.write(content.numpy().data)
                    start, length = length - ROOM, length + content.numel()
                    entries[name] = _entry(tensor, start, length - ROOM)
                file.flush()
                self.sync(file.fileno())
        except BaseException:
            with suppress(OSError):
                os.truncate(path, shard.length)
            raise
        shard.length = length
        shard.entries.update(entries)

    def finish(self, out: Path) -> dict[str, str]:
        """Give the files their headers and final names, and write the index if there are several.

        It may be called again after a process was killed in it.

        Returns:
            The file of each tensor.
        """
        count = len(self._shards)
        names = [_name(number, count) for number in range(count)]
        for number, (shard, name) in enumerate(zip(self._shards, names, strict=True)):
            path = self._path(number)
            if not path.exists() and (out / name).exists():
                continue  # it has its name already
            if not path.is_file() or path.stat().st_size < shard.length:
                refuse("out", str(self._folder), f"the {path.name} that was written there")
            header = json.dumps({"__metadata__": {"format": "pt"}, **shard.entries}).encode()
            assert len(header) <= ROOM - 8
            with writing(out / name), path.open("r+b") as file:
                file.truncate(shard.length)
                file.write((ROOM - 8).to_bytes(8, "little") + header.ljust(ROOM - 8))
                file.flush()
                self.sync(file.fileno())
            path.replace(out / name)
        found = {n: names[i] for i, s in enumerate(self._shards) for n in s.entries}
        if count > 1:
            size = sum(s.length - ROOM for s in self._shards)
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(found.items()))}
            with writing(out / INDEX):
                (out / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        return found

    sync = staticmethod(os.fsync)

    def _path(self, number: int) -> Path:
        return self._folder / f"shard-{number + 1:05d}.growing"


def _name(number: int, count: int) -> str:
    return WHOLE if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


_CODES = {
    **{torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16"},
    **{torch.int32: "I32", torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.float32: "F32", torch.float64: "F64"},
}


def _entry(tensor: Tensor, start: int, end: int) -> dict[str, Any]:
    if tensor.dtype not in _CODES:
        refuse("dtype", tensor.dtype, "numbers that safetensors hold")
    return {
        "dtype": _CODES[tensor.dtype],
        "shape": list(tensor.shape),
        "data_offsets": [start, end],
    }
