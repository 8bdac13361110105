"""torch-pruning, used as its README and its examples for transformers do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from natsel.common.calls import Inputs, logits_of
from natsel.common.extras import require
from natsel_bench.peers.networks import Heads, Hints
from natsel_bench.peers.tools import RATIO, Made


class TorchPruning:
    """``BasePruner`` with group magnitude, told nothing but model, inputs and ratio."""

    def prepare(self) -> None:
        """Import the library."""
        self.library: Any = require("torch_pruning", "bench")

    def prune(self, model: nn.Module, inputs: Inputs, hints: Callable[[], Hints]) -> Made:
        """Make one step of the pruner."""
        self.pruner(model, inputs).step()
        return Made(model)

    def pruner(self, model: nn.Module, inputs: Inputs, **options: Any) -> Any:
        """Return the pruner of the README's quick start."""
        return self.library.pruner.BasePruner(
            model,
            inputs,
            importance=self.library.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=RATIO,
            **options,
        )

    def reload(self, small: nn.Module, dense: nn.Module, folder: Path) -> nn.Module:
        """Save and load the whole module object, which is the documented way."""
        small.zero_grad()
        torch.save(small, folder / "model.pth")
        loaded: nn.Module = torch.load(folder / "model.pth", weights_only=False)
        return loaded


class TorchPruningWithHints(TorchPruning):
    """The same, told the output layers, the attention layers and where the logits are.

    The options are those of its examples for BERT and for language models: whole heads go, and
    afterwards the numbers in the attention modules are set by hand.
    """

    keeps_width = False

    def prune(self, model: nn.Module, inputs: Inputs, hints: Callable[[], Hints]) -> Made:
        """Make one step with what a user would say, and set the numbers that follow."""
        said = hints()
        find = model.get_submodule
        num_heads = {}
        for heads in said.heads:
            num_heads[find(heads.queries)] = heads.num_queries
            for name in (heads.keys, heads.values):
                if name:
                    num_heads[find(name)] = heads.num_keys
        options: dict[str, Any] = {}
        if num_heads:
            options = {
                "num_heads": num_heads,
                "prune_num_heads": True,
                "prune_head_dims": False,
                "head_pruning_ratio": RATIO,
            }
        kept = (*said.outputs, said.width) if self.keeps_width and said.width else said.outputs
        pruner = self.pruner(
            model,
            inputs,
            ignored_layers=[find(name) for name in kept],
            output_transform=logits_of,
            **options,
        )
        pruner.step()
        for heads in said.heads:
            _follow(model, heads, pruner.num_heads)
        return Made(model)


class TorchPruningKeepingWidth(TorchPruningWithHints):
    """The same, told to keep the width that normalisations read: what is left can be judged."""

    keeps_width = True


def _follow(model: nn.Module, heads: Heads, left: dict[nn.Module, int]) -> None:
    """Set the numbers of an attention module, as the library's examples do after pruning."""
    module, queries = model.get_submodule(heads.module), model.get_submodule(heads.queries)
    count = left[queries]
    held = vars(queries)
    width: int = held["out_features"] if "out_features" in held else held["nf"]
    width = width if heads.keys else width // 3
    values = {heads.count: count, heads.size: width // max(count, 1), heads.width: width}
    if heads.keys:
        values[heads.groups] = max(1, count // max(1, left[model.get_submodule(heads.keys)]))
    for attributes, value in values.items():
        for attribute in attributes:
            setattr(module, attribute, value)
