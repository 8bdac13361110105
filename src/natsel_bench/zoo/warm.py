"""What every process of the zoo needs, imported once by the one that they are copies of."""

from __future__ import annotations

import contextlib
import importlib

import torch

from natsel.common.extras import MissingExtraError
from natsel_bench.zoo.catalog import libraries

torch.set_num_threads(1)
for _library in (libraries.timm, libraries.transformers, libraries.diffusers):
    with contextlib.suppress(MissingExtraError):
        _library()
importlib.import_module("natsel.io")
importlib.import_module("natsel_bench.zoo.trial")
