"""Other ways to prune a language model, each in a process of its own: ``TOOL MODEL TEXT TEXT``.

They are used as their examples do, on the same windows, and measured by the same losses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import choose
from natsel.common.extras import require
from natsel.data.windows import token_batches, windows
from natsel.integrations.transformers.tokenizers import tokenizer_of
from natsel.io import open_model
from natsel.quality import losses, quality_of

Batches = Sequence[dict[str, Tensor]]


def wanda(model: nn.Module, data: Batches) -> None:
    """Zero half of each row of the Linear layers in blocks: least |w| times the norm of its input.

    One pass over the dense model; heads and embeddings stay.

    Args:
        model: a causal language model; changed.
        data: batches.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and "." in n}
    norms = {name: torch.zeros(layer.in_features) for name, layer in layers.items()}
    hooks = []
    for name, layer in layers.items():

        def add(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
            norms[name] += args[0].detach().flatten(0, -2).float().square().sum(0)

        hooks.append(layer.register_forward_pre_hook(add))
    with torch.no_grad():
        for batch in data:
            model(input_ids=batch["input_ids"], use_cache=False)
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            score = layer.weight.abs() * norms[name].sqrt()
            gone = score.argsort(dim=1, stable=True)[:, : layer.in_features // 2]
            layer.weight.scatter_(1, gone, 0.0)


def torch_pruning(model: nn.Module, data: Batches) -> None:
    """Remove 30 % of the MLP neurons by torch-pruning's GroupTaylor, as its examples do.

    Args:
        model: a causal language model of the Llama kind; changed.
        data: batches, whose gradients it reads.
    """
    library: Any = require("torch_pruning", "bench")
    mine: Any = model
    for batch in data:
        mine(**batch, use_cache=False).loss.backward()
    roots = [m for n, m in model.named_modules() if n.endswith(("gate_proj", "up_proj", "c_fc"))]
    inputs = {"input_ids": data[0]["input_ids"][:1, :64]}
    pruner = library.pruner.BasePruner(
        model,
        inputs,
        importance=library.importance.GroupTaylorImportance(),
        pruning_ratio=0.3,
        root_module_types=[nn.Linear],
        ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear) and m not in roots],
        output_transform=lambda out: out.logits.sum(),
    )
    pruner.step()
    model.zero_grad()


TOOLS: dict[str, Callable[[nn.Module, Batches], None]] = {
    "torch-pruning": torch_pruning,
    "wanda": wanda,
}


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Prune by one tool and say what the model is worth before and after.

    Args:
        arguments: the tool, the folder of the model, the text to calibrate on and the one to
            evaluate on, tokens in a window, windows.
    """
    tool, folder, calibration, evaluation, length, samples = arguments
    choose("tool", tool, TOOLS)
    model, tokenizer = open_model(folder).model, tokenizer_of(folder)
    cut = [
        token_batches(
            windows([Path(p).read_text()], tokenizer, length=int(length), samples=int(samples))
        )
        for p in (calibration, evaluation)
    ]
    before = losses(model, cut[1])
    TOOLS[tool](model, cut[0])
    found = quality_of(losses(model, cut[1]), before, measure="perplexity")
    return {"tool": tool, "quality": found.plain()}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
