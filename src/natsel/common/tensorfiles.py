"""safetensors files of named tensors, checked before anything is allocated for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.common.json_data import parse_json
from natsel.common.writing import of_system

MAX_HEADER = 100_000_000
_DTYPES = {
    **{"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16},
    **{"I32": torch.int32, "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"F32": torch.float32, "F64": torch.float64, "C64": torch.complex64},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
    **{"U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64},
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors that share no memory as safetensors that any reader can open.

    Args:
        path: where to.
        tensors: in any layout, on any device.

    Raises:
        ValueError: if one of them has no data or cannot be kept in such a file.
        OSError: if the file cannot be written.
    """
    plain = {}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            refuse(name, f"{tensor.layout} on {tensor.device}", "a dense tensor with data")
        plain[name] = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    try:
        # Readers of other libraries ask which of them wrote the file.
        safetensors.torch.save_file(plain, path, metadata={"format": "pt"})
    except KeyError as error:
        raise ValueError(f"safetensors cannot hold tensors of type {error}") from None
    except safetensors.SafetensorError as error:
        told = OSError(f"{path.parent} cannot be written: {error}")
        raise of_system(error) or told from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what :func:`write_tensors` wrote, each tensor into memory of its own, on the CPU.

    Raises:
        ValueError: if the sizes in the file do not fit together.
    """
    described(path)
    with safetensors.safe_open(path, framework="pt") as file:
        # A clone is aligned as torch aligns tensors; the mapped file is not.
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def described(path: Path) -> dict[str, dict[str, Any]]:
    """Return shape and dtype of each tensor in a file from its header alone.

    Raises:
        ValueError: if it is no safetensors file, or its sizes do not fit together or into it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.safetensors"
        ...     write_tensors(path, {"weight": torch.zeros(2, 3)})
        ...     described(path)
        {'weight': {'shape': [2, 3], 'dtype': 'float32'}}
    """
    return {
        name: {"shape": list(place.shape), "dtype": str(place.dtype).removeprefix("torch.")}
        for name, place in places(path).items()
    }


class Place(NamedTuple):
    """Where a tensor lies in a file.

    Attributes:
        dtype: of its numbers.
        shape: of it.
        start: its first byte in the file.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int


def places(path: Path) -> dict[str, Place]:
    """Return where each tensor lies in a file, from its header alone.

    Raises:
        ValueError: if it is no safetensors file, or its sizes do not fit together or into it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 0 < length <= min(size - 8, MAX_HEADER) else b""
    try:
        entries = parse_json(header, str(path), finite=False)
        entries.pop("__metadata__", None)
        found = {name: _entry(entry, 8 + length) for name, entry in entries.items()}
        spans = sorted(tuple(entry["data_offsets"]) for entry in entries.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a safetensors file") from None
    ends = [0, *(end for _, end in spans)]
    if [start for start, _ in spans] != ends[:-1] or ends[-1] != size - 8 - length:
        raise ValueError(f"{path} is damaged: its tensors do not fill it")
    return found


def description(tensor: Tensor) -> dict[str, Any]:
    """Return shape and dtype of a tensor as plain data."""
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _entry(entry: Mapping[str, Any], data: int) -> Place:
    """Return what an entry of a header describes, if its size is that of its data."""
    dtype, shape, (start, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    count = 1
    for side in shape:
        if type(side) is not int or side < 0:
            raise ValueError(side)
        count *= side
    if count * dtype.itemsize != end - start:
        raise ValueError(shape)
    return Place(dtype, tuple(shape), data + start)
