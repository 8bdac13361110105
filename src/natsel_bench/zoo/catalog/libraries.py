"""The libraries that the models are of, imported when one is asked for."""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType
from typing import Any

import torch

from natsel.common.extras import MissingExtraError, require

_DEFINED: list[Any] = []
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def torchvision() -> ModuleType:
    """Import torchvision, also where its compiled operators do not load.

    That is so where a torch for the CPU stands beside the wheel of PyPI, which is one for CUDA. Its
    networks are in Python; the few operators that it declares a shape for must exist by name.
    """
    try:
        return require("torchvision", "zoo")
    except RuntimeError as error:
        if "does not exist" not in str(error) or _DEFINED:
            raise
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    make: Any = torch.library.Library
    library = make("torchvision", "FRAGMENT")
    for schema in _OPERATORS:
        library.define(schema)
    _DEFINED.append(library)
    return require("torchvision", "zoo")


def prepare() -> None:
    """Make torchvision importable before transformers, which cannot do without, is imported."""
    with contextlib.suppress(MissingExtraError):
        torchvision()


def timm() -> ModuleType:
    """Import timm."""
    return _after_torchvision("timm")


def transformers() -> ModuleType:
    """Import transformers."""
    return _after_torchvision("transformers")


def diffusers() -> ModuleType:
    """Import diffusers."""
    return _after_torchvision("diffusers")


def ultralytics() -> ModuleType:
    """Import ultralytics."""
    return _after_torchvision("ultralytics")


def _after_torchvision(name: str) -> ModuleType:
    prepare()
    return require(name, "zoo")
