"""A folder of the transformers library whose tensors stay on the disk until they are asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from natsel.blockwise.residency import without_values
from natsel.common.errors import refuse
from natsel.common.json_data import read_json
from natsel.common.shards import Shards
from natsel.communities.surgery.adapters import adapt
from natsel.communities.tensors import all_tensors, tied_names
from natsel.integrations.transformers.bounds import check_size, stored_in
from natsel.integrations.transformers.hub import check_record
from natsel.integrations.transformers.layers import refuse_ignored
from natsel.integrations.transformers.library import build, class_named, trusted
from natsel.integrations.transformers.reshaped import reshape

CONFIG = "config.json"
_DTYPES = ("float32", "float16", "bfloat16", "float64")


@dataclass(frozen=True, eq=False)
class Folder:
    """A model in a folder, of which nothing but the configuration was read.

    Attributes:
        path: of the folder.
        kind: its class in the library.
        data: its configuration.
        shards: its tensors, under the names that they have there.
        prefix: what the model's own names begin with and the names there do not; or the names
            there do, with "-" before it.
        dtype: of the model's floating numbers.
    """

    path: Path
    kind: Any
    data: dict[str, Any]
    shards: Shards
    prefix: str
    dtype: torch.dtype

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.stored(name) in self.shards

    def read(self, name: str) -> Tensor:
        """Return a tensor of the model, as it is stored."""
        return self.shards.read(self.stored(name))

    def stored(self, name: str) -> str:
        """Return the name in the files of a tensor of the model.

        Example:
            >>> Folder(Path("."), None, {}, None, "model.", torch.float32).stored("model.norm")
            'norm'
        """
        if self.prefix.startswith("-"):
            return self.prefix[1:] + name
        return name.removeprefix(self.prefix) if self.prefix else name

    def empty(self) -> Any:
        """Return the model without values; buffers that its class computes are there."""
        return self.like(self.data)

    def like(self, data: Mapping[str, Any], *, kind: Any = None, like: Any = None) -> Any:
        """Return the model without values that another configuration describes."""
        with without_values(self.dtype):
            model = build(kind if kind is not None else self.kind, data, like=like)
        # Where its tokenizer is, for whoever saves it.
        model.name_or_path = model.config._name_or_path = str(self.path)
        return model

    def fake(self) -> tuple[FakeTensorMode, Any]:
        """Return the model with tensors that have a shape and an identity, and no values."""
        mode = FakeTensorMode()
        with mode:
            return mode, build(self.kind, self.data)

    def shapes_alone(self) -> Any:
        """Return the model on the meta device, buffers too: for tracing."""
        return build(self.kind, self.data, device="meta")


def open_folder(path: str | Path) -> Folder:
    """Open a folder that ``save_pretrained`` wrote, without reading its tensors.

    Raises:
        ValueError: if it holds no model of a class of the library, or its tensors do not have the
            names that the class gives them: what the library renames, merges or quantizes while
            loading is not read lazily.
        MissingExtraError: if the transformers library is not installed.
    """
    folder = Path(path)
    if not folder.is_dir():
        refuse("model", str(path), "a folder: only one can be read block by block")
    file = folder / CONFIG
    data = read_json(file, finite=False) if file.is_file() else None
    if not isinstance(data, dict):
        refuse("model", str(path), f"a folder with the {CONFIG} of a transformers model")
    if data.get("natsel") is not None:
        check_record(data["natsel"])
        refuse("model", str(path), "a dense model: this one has widths of its own in every layer")
    if data.get("quantization_config") is not None:
        refuse("model", str(path), "weights that are not quantized")
    names = data.get("architectures") or [None]
    kind = class_named(names[0])
    if kind is None:
        refuse(
            "model", str(path), f"a model of a class in the transformers library, not {names[0]}"
        )
    check_size(kind, data, *stored_in(folder))
    refuse_ignored(kind, data)
    shards = Shards(folder)
    data = {**trusted(data), "architectures": [kind.__name__]}
    dtype = _dtype(data, shards)
    if dtype == torch.float16 and getattr(kind, "_keep_in_fp32_modules", None):
        refuse("model", str(path), "another dtype than float16, of which this class keeps a part")
    if getattr(kind, "_keep_in_fp32_modules_strict", None):
        refuse("model", str(path), f"another class: {kind.__name__} keeps parts in float32")
    with without_values():
        empty = build(kind, data)
    return Folder(folder, kind, data, shards, _prefix(empty, shards, folder), dtype)


def _dtype(data: Mapping[str, Any], shards: Shards) -> torch.dtype:
    """Return the precision that the library loads a model in."""
    named = data.get("dtype", data.get("torch_dtype"))
    if isinstance(named, str) and named.removeprefix("torch.") in _DTYPES:
        found: torch.dtype = getattr(torch, named.removeprefix("torch."))
        return found
    floating = (shards.place(n).dtype for n in shards if shards.place(n).dtype.is_floating_point)
    return next(floating, torch.float32)


def _prefix(model: Any, shards: Shards, folder: Path) -> str:
    """Return how the names in the files differ from those in the model; they may by a prefix."""
    base = f"{model.base_model_prefix}."
    tied = tied_names(model)
    tensors = all_tensors(model)
    wanted = [n for n, _ in model.named_parameters()]
    missing: list[str] = []
    for prefix in ("", base, f"-{base}"):
        here = Folder(folder, None, {}, shards, prefix, torch.float32)
        others: dict[str, list[str]] = {}
        for other, first in tied.items():
            others.setdefault(first, []).append(other)
        absent = [n for n in wanted if not any(o in here for o in (n, *others.get(n, ())))]
        if absent:
            missing = missing or absent
            continue
        for name, tensor in tensors.items():
            if name in here and shards.place(here.stored(name)).shape != tuple(tensor.shape):
                found = shards.place(here.stored(name)).shape
                told = f"{name} of shape {tuple(tensor.shape)}, as its configuration says"
                refuse("model", str(folder), f"{told}, not {found}")
        return prefix
    named = ", ".join(missing[:3])
    allowed = f"a folder with {named} under these names; what the library renames or merges while "
    refuse("model", str(folder), f"{allowed}it loads cannot be read block by block")


def reshaped(folder: Folder, config: Mapping[str, Any]) -> Any:
    """Return the model without values that a configuration describes, with natsel's record or not.

    Args:
        folder: of the dense model.
        config: what stands in ``config.json`` of the small one.
    """
    model: nn.Module = folder.like(config)
    if config.get("natsel") is not None:
        reshape(model, json.loads(json.dumps(config["natsel"])), adapt)
    return model
