"""How long discovery and extraction take, beside what torch-pruning takes; a row a model."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from natsel.common.calls import Inputs
from natsel.common.errors import choose, first_line
from natsel.common.extras import require
from natsel.common.files import write_json
from natsel.common.json_data import read_object
from natsel.common.progress import Progress, silent
from natsel.common.timing import one_thread
from natsel.communities import discover
from natsel.extraction import extract
from natsel.fitness import score
from natsel.runs import environment, folder
from natsel.selection import Sparsity, select
from natsel_bench.peers.torch_pruning import TorchPruning
from natsel_bench.zoo import ARCHITECTURES, Network, build_architecture

RATIO = 0.5


def resnet50() -> Network:
    """ResNet-50 on a picture of 224 x 224."""
    library = require("transformers", "transformers")
    model: nn.Module = library.ResNetForImageClassification(library.ResNetConfig())
    return model.eval(), (torch.randn(1, 3, 224, 224),)


def vit_base() -> Network:
    """ViT-Base, 12 layers of 768, on a picture of 224 x 224."""
    library = require("transformers", "transformers")
    model: nn.Module = library.ViTForImageClassification(library.ViTConfig())
    return model.eval(), (torch.randn(1, 3, 224, 224),)


REAL: dict[str, Callable[[], Network]] = {"resnet50": resnet50, "vit-base": vit_base}
"""Networks of real size, of random weights."""


def bench_discovery(
    out: str | Path,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    resume: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure discovery and extraction beside torch-pruning's building and pruning; one thread.

    Both take half of what they find, by magnitude. A model runs once before, so that nobody pays
    for what a first run loads. Times are of the processor.

    Args:
        out: folder for ``discovery.json`` and one file a row.
        only: names of models; by default the small zoo, ResNet-50 and ViT-Base.
        quick: the small zoo alone.
        resume: go on with what the folder holds.
        progress: called between models.

    Returns:
        A row a model, and the median of the ratios.

    Raises:
        ValueError: if an argument is not allowed.
        MissingExtraError: if torch-pruning is not installed.
    """
    known = {*ARCHITECTURES, *REAL}
    names = [choose("only", n, known) for n in only] or [*ARCHITECTURES, *({} if quick else REAL)]
    peer = TorchPruning()
    peer.prepare()
    target = Path(out)
    config = {"bench": "discovery", "models": names}
    with folder.claim(target, config, resume), one_thread():
        folder.take(target, config)
        rows = []
        for number, name in enumerate(names):
            progress("bench discovery", number, len(names))
            path = target / f"{name}.json"
            if not path.is_file():
                write_json(path, _row(name, peer))
            rows.append(read_object(path))
        progress("bench discovery", len(names), len(names))
        ratios = [r["ratio"] for r in rows if r["ratio"] is not None]
        result = {
            **config,
            "quick": quick,
            "rows": rows,
            "median_ratio": float(np.median(ratios)) if ratios else None,
            **environment.record(),
        }
        write_json(target / "discovery.json", result)
    return result


def _row(name: str, peer: TorchPruning) -> dict[str, Any]:
    model, inputs = _built(name)
    _ours(copy.deepcopy(model), inputs)
    row: dict[str, Any] = {"model": name, "parameters": sum(p.numel() for p in model.parameters())}
    row |= _ours(model, inputs)
    try:
        start = time.process_time()
        peer.pruner(model, inputs).step()
        row["peer_s"] = time.process_time() - start
        row["missing"] = None
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is what the row says
        row["peer_s"], row["missing"] = None, f"torch-pruning fails: {first_line(error)}"
    row["ratio"] = None if row["peer_s"] is None else row["seconds"] / row["peer_s"]
    return row


def _built(name: str) -> Network:
    if name not in REAL:
        return build_architecture(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return REAL[name]()


def _ours(model: nn.Module, inputs: Inputs) -> Mapping[str, Any]:
    start = time.process_time()
    communities = discover(model, inputs)
    found = time.process_time()
    survivors = select(score(communities, "magnitude"), Sparsity(RATIO))
    chosen = time.process_time()
    extract(model, survivors)
    end = time.process_time()
    return {
        "communities": len(communities),
        "refused": len(communities.refused),
        "discover_s": found - start,
        "extract_s": end - chosen,
        "seconds": found - start + end - chosen,
    }
