"""What evolution costs a step under ``fully_shard``: time, and what is sent over the gradients."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from natsel.common.errors import choose
from natsel.common.files import write_json
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.common.sharding.reducing import counted_traffic
from natsel.common.timing import quartiles
from natsel.communities import discover
from natsel.evolution import Evolution
from natsel.models import build
from natsel.runs import environment
from natsel_bench.in_processes import WORLD, in_processes
from natsel_bench.scale_alike import alike


class Shape(NamedTuple):
    """A network that is trained on random numbers.

    Attributes:
        label: in words.
        make: the network and the list of its blocks.
        batch: inputs and labels of one process.
    """

    label: str
    make: Callable[[], tuple[nn.Module, Sequence[nn.Module]]]
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]]


def _vit() -> tuple[nn.Module, Sequence[nn.Module]]:
    options: dict[str, Any] = {"dim": 384, "depth": 4, "heads": 6, "patch": 16}
    model = build("vit", in_shape=(3, 224, 224), num_classes=10, seed=0, **options)
    return model, _longest_list(model)


def _llama() -> tuple[nn.Module, Sequence[nn.Module]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    return model, _longest_list(model)


def _images(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(4, 3, 224, 224, generator=generator)
    return x, torch.randint(10, (len(x),), generator=generator)


def _tokens(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randint(8192, (4, 129), generator=generator)
    return x[:, :-1], x[:, 1:]


SHAPES = {
    "vit": Shape("ViT-S/16 of depth 4, 4 images a process", _vit, _images),
    "llama": Shape(
        "Llama, width of SmolLM-135M, 6 layers, 4 x 128 tokens a process", _llama, _tokens
    ),
}

PAPER = {
    "Llama 3 8B": {"width": 14336, "groups": 8, "layers": 32, "parameters": 8_030_261_248},
    "Llama 3 70B": {"width": 28672, "groups": 8, "layers": 80, "parameters": 70_553_706_496},
}
"""Large models on paper: hidden units and key/value groups of each layer are their populations."""


def bench_scale(
    *,
    networks: Sequence[str] = tuple(SHAPES),
    repeats: int = 10,
    quick: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Time a training step under ``fully_shard`` in two processes, with evolution and without.

    Both take turns in the same processes. What evolution sends is counted where it is sent;
    gradients are counted as the bytes of the parameters.

    Args:
        networks: keys of ``SHAPES``.
        repeats: how many steps of each are timed.
        quick: see that it works; times mean nothing.
        progress: called as it goes.

    Returns:
        One row for each network; whether two processes come to what one does; what large models
        come to on paper; hardware and versions.

    Raises:
        ValueError: if an argument is not allowed.
    """
    for name in networks:
        choose("network", name, SHAPES)
    check_whole("repeats", repeats)
    rows = []
    for number, name in enumerate(networks):
        progress("scale", number, len(networks))
        rows.append(_measured(name, 2 if quick else repeats))
    progress("scale", len(networks), len(networks))
    same = alike()
    return {"rows": rows, "alike": same, "paper": on_paper(), **environment.record()}


def on_paper(num_ranks: int = 64) -> list[dict[str, Any]]:
    """Return what evolution comes to in large models, in float32.

    Args:
        num_ranks: over how many processes the model is spread.
    """
    rows = []
    for name, shape in PAPER.items():
        populations = (shape["width"] + shape["groups"]) * shape["layers"]
        gradient = 4 * shape["parameters"]
        rows.append(
            {
                "model": name,
                "populations": populations,
                "bytes_per_step": 4 * populations,
                "share_of_gradient": 4 * populations / gradient,
                # Mass, average, alive, below, the influence and a gate for what reads it.
                "bytes_per_rank": 6 * 4 * populations,
                "weights_per_rank": gradient // num_ranks,
            }
        )
    return rows


def _measured(name: str, repeats: int) -> dict[str, Any]:
    return in_processes(_work, name, repeats, read=_row)


def _row(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "row.json").read_text())
    return found


def _work(rank: int, folder: str, name: str, repeats: int) -> None:
    pair = [_Training(name, rank, evolves=evolves) for evolves in (False, True)]
    trained = pair[1]
    for each in pair:
        each()
    with counted_traffic() as traffic:
        trained()
    seconds: list[list[tuple[float, float]]] = [[], []]
    for number in range(repeats):
        # Whoever comes second finds caches as the first one left them: they take turns in that.
        order = (0, 1) if number % 2 else (1, 0)
        for which in order:
            dist.barrier()
            wall, mine = time.perf_counter(), time.process_time()
            pair[which]()
            seconds[which].append((time.perf_counter() - wall, time.process_time() - mine))
    if rank == 0:
        pairs = list(zip(*seconds, strict=True))
        gradient = sum(p.numel() * p.element_size() for p in trained.model.parameters())
        row = {
            "network": SHAPES[name].label,
            "processes": WORLD,
            "parameters": gradient // 4,
            "populations": trained.num_populations,
            "bytes_per_step": traffic.num_bytes,
            "calls_per_step": traffic.num_calls,
            "gradient_bytes": gradient,
            "share_of_gradient": traffic.num_bytes / gradient,
            "plain_ms": 1e3 * statistics.median(p[0] for p, _ in pairs),
            "evolving_ms": 1e3 * statistics.median(e[0] for _, e in pairs),
            **quartiles([evolving[0] / plain[0] for plain, evolving in pairs]),
            "processor_ratio": statistics.median(e[1] / p[1] for p, e in pairs),
            "repeats": repeats,
        }
        write_json(Path(folder) / "row.json", row)


class _Training:
    """One step with Adam under ``fully_shard``, each time it is called."""

    def __init__(self, name: str, rank: int, *, evolves: bool) -> None:
        shape = SHAPES[name]
        self.model, blocks = shape.make()
        self.inputs, self.labels = shape.batch(torch.Generator().manual_seed(rank))
        found = discover(self.model, (self.inputs[:2],), proof=False) if evolves else None
        for block in blocks:
            fully_shard(block)
        fully_shard(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.num_populations = 0
        if found is not None:
            Evolution(found, optimizer=self.optimizer)
            self.num_populations = found.num_populations

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        output: Any = self.model(self.inputs)
        logits: Tensor = getattr(output, "logits", output)
        loss = F.cross_entropy(logits.flatten(0, -2), self.labels.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def _longest_list(model: nn.Module) -> Sequence[nn.Module]:
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
    return list(max(lists, key=lambda m: sum(p.numel() for p in m.parameters())))
