"""Files written whole or not at all, and trees of tensors kept without pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from natsel.common.errors import first_line, refuse
from natsel.common.interrupts import clearing_up
from natsel.common.json_data import read_json as read_json
from natsel.common.writing import writing

# One metadata key only: safetensors writes several in random order, and equal trees should give
# equal files.
_MARK = b'"natsel.tree":"sha256:'
_UNSIGNED = b"0" * 64
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")


@contextlib.contextmanager
def replacing(path: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """Lend a temporary path beside ``path``; it takes the place of ``path`` on success."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with clearing_up():
        try:
            with writing(path):
                # Some writers, tempfile and safetensors among them, would leave the file private.
                temporary.touch(exist_ok=False)
                mode = temporary.stat().st_mode
                yield temporary
                temporary.chmod(mode)
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                _put(temporary, path, exclusive)
        finally:
            temporary.unlink(missing_ok=True)


def _put(temporary: Path, path: Path, exclusive: bool) -> None:
    if exclusive:
        try:
            os.link(temporary, path)
            return
        except FileExistsError:
            raise
        except OSError:  # a file system without links, where the folder's lock has to do
            if os.path.lexists(path):
                raise
    os.replace(temporary, path)


def write_atomic(path: str | os.PathLike[str], content: bytes, *, exclusive: bool = False) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Args:
        path: where to; its folder must exist.
        content: the whole content.
        exclusive: write a new file only.

    Raises:
        FileExistsError: if there is such a file and it has to be a new one.
        OSError: if it cannot be written; the old file is then untouched.
    """
    with replacing(Path(path), exclusive=exclusive) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def json_last(path: str | os.PathLike[str], obj: Any) -> Iterator[None]:
    """Write a file as :func:`write_json` does, around what has to be written before it.

    There is room for the file before the block begins; it appears once the block has ended.

    Args:
        path: where to.
        obj: what ``json`` can write.

    Raises:
        ValueError: if the object holds NaN or infinity.
        OSError: if it cannot be written; the block is not run then.
    """
    content = _as_json(path, obj)
    with replacing(Path(path)) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield


def sweep(folder: str | os.PathLike[str], *, below: bool = False, seconds_old: float = 0.0) -> None:
    """Remove the temporary files that a killed process left in a folder that nobody writes to.

    Args:
        folder: where to look; nothing happens if it is missing.
        below: look into folders in it, too; links are not followed.
        seconds_old: leave files that were changed later than so many seconds ago.
    """
    found = [Path(folder)]
    if below:
        found = [Path(where) for where, _, _ in os.walk(folder)]
    for path in (path for where in found for path in where.glob(".*.tmp") if is_temporary(path)):
        with contextlib.suppress(FileNotFoundError):
            if seconds_old <= 0 or path.stat().st_mtime < time.time() - seconds_old:
                path.unlink()


def is_temporary(path: Path) -> bool:
    """Say whether a file is one that a write in this module left unfinished, by its name."""
    return _TEMPORARY.fullmatch(path.name) is not None


def write_json(path: str | os.PathLike[str], obj: Any, *, exclusive: bool = False) -> None:
    """Write an object as JSON, atomically; the order of keys is kept.

    Args:
        path: where to.
        obj: what ``json`` can write; NaN and infinity are not JSON and are refused.
        exclusive: write a new file only.

    Raises:
        ValueError: if the object holds NaN or infinity.
        OSError: as :func:`write_atomic`.
    """
    write_atomic(path, _as_json(path, obj), exclusive=exclusive)


def _as_json(path: str | os.PathLike[str], obj: Any) -> bytes:
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} is not written: {error}") from None
    return (text + "\n").encode()


def save_tree(path: str | os.PathLike[str], tree: Any) -> None:
    """Save a tree of tensors and plain values as one safetensors file, atomically.

    Each tensor is stored once per leaf, contiguous, on the CPU and without its gradient; mappings
    come back as ``dict``, named tuples as ``tuple``. Any safetensors reader can open the file.

    Args:
        path: where to.
        tree: nested dicts, lists and tuples; leaves are tensors, int, float, bool, str or None,
            dictionary keys the same without tensors.

    Raises:
        ValueError: if the tree holds anything else; the message names its place.
    """
    target = Path(path)
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    skeleton = json.dumps(_encode(tree, (), tensors, storages), allow_nan=False)
    with replacing(target) as temporary:
        metadata = {"natsel.tree": f"sha256:{_UNSIGNED.decode()}{skeleton}"}
        try:
            with writing(target):
                save_file(tensors, temporary, metadata=metadata)
        except (SafetensorError, KeyError) as error:
            reason = "safetensors cannot hold one of its tensors"
            raise ValueError(f"{target} is not written: {reason} ({error})") from None
        position = _signature_position(temporary)
        assert position is not None
        digest = _digest(temporary, position)
        with temporary.open("rb+") as file:
            file.seek(position)
            file.write(digest)


def load_tree(path: str | os.PathLike[str]) -> Any:
    """Load what :func:`save_tree` saved; every byte of the file is checked first.

    Args:
        path: the file.

    Returns:
        The tree, with its tensors on the CPU.

    Raises:
        ValueError: if the file was truncated, altered or is no such file; the message names it.
        FileNotFoundError: if there is no such file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_tree(f"{folder}/state.safetensors", {"step": 3, "betas": (0.9, 0.999)})
        ...     load_tree(f"{folder}/state.safetensors")
        {'step': 3, 'betas': (0.9, 0.999)}
    """
    source = Path(path)
    position = _signature_position(source)
    if position is None:
        raise ValueError(f"{source} is damaged or is not a file that natsel saved")
    with source.open("rb") as file:
        file.seek(position)
        signature = file.read(len(_UNSIGNED))
    if signature != _digest(source, position):
        raise ValueError(f"{source} is damaged: its checksum does not match its content")
    try:
        tensors = load_file(source)
        header = _header(source)
        assert header is not None
        text = json.loads(header)["__metadata__"]["natsel.tree"]
        skeleton = json.loads(text[len("sha256:") + len(_UNSIGNED) :])
        return _decode(skeleton, tensors)
    except RecursionError:
        raise ValueError(f"{source} is not a file that natsel can read: nested too deep") from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        told = first_line(error)
        raise ValueError(f"{source} is not a file that natsel can read: {told}") from None


def _header(path: Path) -> bytes | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(length) if 0 < length <= size - 8 else None


def _signature_position(path: Path) -> int | None:
    # A quote inside a JSON string is always escaped, so no tensor name can imitate the mark.
    found = (_header(path) or b"").find(_MARK)
    return None if found < 0 else 8 + found + len(_MARK)


def _digest(path: Path, position: int) -> bytes:
    """Hash the file as it was before it was signed."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(position))
        digest.update(_UNSIGNED)
        file.seek(len(_UNSIGNED), os.SEEK_CUR)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest().encode()


def _encode(
    node: Any, place: tuple[str, ...], tensors: dict[str, Tensor], storages: set[int]
) -> Any:
    """Turn a node into JSON; its tensors go into ``tensors``."""
    where = "/".join(place) or "the root"
    if isinstance(node, Tensor):
        name = "/".join(place)
        while name in tensors or name in ("", "__metadata__"):
            name += "~"
        tensors[name] = _standalone(node, name, storages)
        return {"tensor": name}
    if isinstance(node, Mapping):
        items = []
        for key, value in node.items():
            if not (key is None or isinstance(key, (str, int, float))):
                refuse("tree", key, f"a str, int, float, bool or None as key of {where}")
            step = quote(str(key), safe=" ", errors="surrogatepass")
            encoded = _encode(value, (*place, step), tensors, storages)
            items.append([_encode(key, place, tensors, storages), encoded])
        return {"dict": items}
    if isinstance(node, (list, tuple)):
        values = [_encode(v, (*place, str(i)), tensors, storages) for i, v in enumerate(node)]
        return values if isinstance(node, list) else {"tuple": values}
    if isinstance(node, float) and not math.isfinite(node):
        return {"float": repr(float(node))}
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    refuse("tree", node, f"a tensor, int, float, bool, str, None or a container at {where}")


def _standalone(tensor: Tensor, name: str, storages: set[int]) -> Tensor:
    """Give a leaf a storage of its own: safetensors refuses tensors that share one."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        refuse("tree", str(tensor.layout), f"a dense tensor with data at {name}")
    own = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    storage = own.untyped_storage()
    whole = storage.nbytes() == own.numel() * own.element_size()
    if not whole or storage.data_ptr() in storages:
        own = own.clone()
    storages.add(own.untyped_storage().data_ptr())
    return own


def _decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(value, tensors) for value in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(_decode(value, tensors) for value in content)
    if kind == "dict":
        return {_decode(key, tensors): _decode(value, tensors) for key, value in content}
    raise ValueError(f"unknown kind of node {kind!r}")
