"""Experts of small Mixtrals: half of them gone for good, and fewer for each token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import natsel
from natsel.common.errors import choose, refuse
from natsel.common.extras import require
from natsel.common.files import write_json
from natsel.common.json_data import read_object
from natsel.common.numbers import check_whole
from natsel.common.paired import PairedSamples, sign_flips
from natsel.common.progress import Progress, silent
from natsel.fitness import Fitness
from natsel.integrations.transformers.library import without_bars
from natsel.runs import environment, folder
from natsel_bench.language import CHARACTERS, cut_text
from natsel_bench.language_models import (
    SMALL_MIXTRAL,
    byte_tokens,
    prepared,
    small_mixtral,
    windows,
)
from natsel_bench.language_random import random

SCORERS: Mapping[str, str | Fitness] = {
    **{name: name for name in ("reap", "frequency", "output-norm", "magnitude", "taylor")},
    "random": random,
}
"""Who of the experts stays, side by side."""

LIVE: Mapping[str, tuple[str, str, tuple[float, ...]]] = {
    "router-layer": ("router", "layer", (0.25, 0.5, 0.75)),
    "router-token": ("router", "token", (0.25, 0.5, 0.75)),
    "router-threshold": ("router-threshold", "token", (0.25, 0.5, 0.75)),
    "router-random": ("router-random", "token", (0.25, 0.5, 0.75)),
}
"""Methods with their scopes, and shares that go; for a threshold, its levels."""

BATCH = 16
STEPS = 800
"""Of training: a minute or two on a core."""


def bench_experts(
    text: str | Path,
    out: str | Path,
    *,
    seeds: int = 3,
    length: int = 128,
    samples: int = 64,
    steps: int = STEPS,
    share: float = 0.5,
    only: Sequence[str] = (),
    resume: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Take experts from small Mixtrals that are trained on a text, and say what it costs.

    The beginning of the text calibrates, its end evaluates, and what lies between trains.

    Args:
        text: a text file, UTF-8.
        out: folder for the models and one result for each.
        seeds: how many models are trained.
        length: tokens, that is bytes, in a window.
        samples: windows of calibration, and as many of evaluation.
        steps: of training.
        share: of the experts that goes for good.
        only: names of scorers and live methods; by default all.
        resume: go on with what the folder holds.
        progress: called after every model.

    Returns:
        For each row the perplexity and its ratio to that of the whole models, with paired
        intervals over windows (of losses that are means over the models), and tests against
        "reap" or "router-token".

    Raises:
        ValueError: if an argument is not allowed, or the text is too short.
    """
    for name in only:
        choose("only", name, (*SCORERS, *LIVE))
    given = {"seeds": seeds, "length": length, "samples": samples, "steps": steps}
    for argument, value in given.items():
        check_whole(argument, value)
    if not 0 < share < 1:
        refuse("share", share, "a share in (0, 1)")
    require("transformers", "transformers")
    parts = cut_text(Path(text), CHARACTERS * length * samples)
    target = Path(out)
    config = {"kind": "bench experts", "text": str(text), **given, "share": share}
    config["only"] = list(only)
    with folder.claim(target, config, resume):
        folder.take(target, config)
        found = []
        for seed in range(seeds):
            progress(f"experts: model {seed + 1}", seed, seeds)
            kept = target / f"losses-{seed}.json"
            if not kept.is_file():
                write_json(kept, _losses(target, parts, config, seed))
            found.append(read_object(kept))
        progress("experts: done", seeds, seeds)
        result = {
            "bench": "experts",
            "config": config,
            "models": [model["experts"] for model in found],
            "rows": _rows(found),
            **environment.record(git=True),
        }
        write_json(target / "experts.json", result)
        return result


def _losses(target: Path, parts: Mapping[str, str], config: Any, seed: int) -> dict[str, Any]:
    """Return the loss of each held-out window under each row, for one model."""
    length, samples = config["length"], config["samples"]
    place = prepared(
        target / f"{SMALL_MIXTRAL}-{seed}",
        parts["training.txt"],
        length=length,
        steps=config["steps"],
        seed=seed,
        build=small_mixtral,
    )
    library: Any = require("transformers", "transformers")
    # Router logits that leave the model, as its training needed, would fix its experts.
    with without_bars():
        kind = library.MixtralForCausalLM
        model = kind.from_pretrained(place, output_router_logits=False).eval()
    calibration = windows(byte_tokens(parts["calibration.txt"]), length, samples)
    held_out = windows(byte_tokens(parts["evaluation.txt"]), length, samples, from_end=True)
    rows = {"whole": {"part": "", "share": 0.0, "losses": _each(model, held_out)}}
    chosen = config["only"]
    names = [name for name in SCORERS if not chosen or name in chosen]
    for name, small in _smaller(model, calibration, names, config["share"]):
        rows[name] = {"part": "gone", "share": config["share"], "losses": _each(small, held_out)}
    for name, (method, scope, shares) in LIVE.items():
        if chosen and name not in chosen:
            continue
        for value in shares:
            rows[f"{name} {value:g}"] = _live(model, held_out, method, scope, value, seed)
    size, active = model.config.num_local_experts, model.config.num_experts_per_tok
    return {"experts": {"layers": len(model.model.layers), "of": size, "k": active}, "rows": rows}


def _smaller(
    model: nn.Module, calibration: Tensor, names: Sequence[str], share: float
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the model without the least fit experts, by each scorer."""
    if not names:
        return
    communities = natsel.discover(model, (calibration[:1, :8],)).only("expert")
    data = [{"input_ids": x, "labels": x} for x in torch.split(calibration, BATCH)]
    budget = natsel.Sparsity(share)
    for name in names:
        scores = natsel.score(communities, SCORERS[name], data=data)
        survivors = natsel.select(scores, budget, communities=communities)
        yield name, natsel.extract(model, survivors)


def _live(
    model: nn.Module, held_out: Tensor, method: str, scope: str, value: float, seed: int
) -> dict[str, Any]:
    threshold = method == "router-threshold"
    options: dict[str, Any] = {"level": value} if threshold else {}
    budget = None if threshold else natsel.Sparsity(value)
    held = seen = 0
    losses: list[float] = []
    with natsel.live(
        model,
        method,
        budget,
        scope=scope,
        seed=seed,
        **options,
    ) as handle:
        for batch in torch.split(held_out, BATCH):
            losses += _each(model, batch)
            held, seen = held + handle.num_held, seen + handle.num_seen
    return {"part": "live", "share": 1 - held / seen, "losses": losses}


def _each(model: nn.Module, tokens: Tensor) -> list[float]:
    """Return the mean cross-entropy of each window."""
    found: list[float] = []
    with torch.no_grad():
        for batch in torch.split(tokens, BATCH):
            logits = model(batch).logits[:, :-1].transpose(1, 2).double()
            found += F.cross_entropy(logits, batch[:, 1:], reduction="none").mean(1).tolist()
    return found


def _rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    losses = {
        name: torch.tensor([model["rows"][name]["losses"] for model in found]).double()
        for name in found[0]["rows"]
    }
    rows = []
    for name, row in found[0]["rows"].items():
        part = row["part"]
        shares = [model["rows"][name]["share"] for model in found]
        # A window is one sample: models of other seeds read the same one.
        own, whole = losses[name].mean(0), losses["whole"].mean(0)
        told: dict[str, Any] = {
            "name": name,
            "part": part,
            "share": sum(shares) / len(shares),
            "perplexity": math.exp(float(own.mean())),
            "each": losses[name].mean(1).exp().tolist(),
        }
        if part:
            told["ratio"] = _ratio(sign_flips(own, whole))
        rival = rival_of(name, losses) if part else None
        if rival is not None:
            other = losses[rival].mean(0)
            told["against"] = {
                "name": rival,
                "ratio": _ratio(sign_flips(own, other)),
                "p_worse": sign_flips(own, other).p_better,
                "models_worse": int((losses[name].mean(1) > losses[rival].mean(1)).sum()),
            }
        rows.append(told)
    return rows


def rival_of(name: str, rows: Mapping[str, Any]) -> str | None:
    """Return the row that another is compared with; None where there is none.

    Example:
        >>> rival_of("frequency", {"reap": 0}), rival_of("reap", {"reap": 0})
        ('reap', None)
    """
    if name in SCORERS:
        return "reap" if "reap" in rows and name != "reap" else None
    method, _, value = name.rpartition(" ")
    rival = f"router-token {value}"
    comparable = LIVE[method][0] != "router-threshold" and rival in rows
    return rival if comparable and rival != name else None


def _ratio(found: PairedSamples) -> dict[str, float]:
    """Return how many times the perplexity is, from differences of losses."""
    return {
        "mean": math.exp(found.difference),
        "low": math.exp(found.low),
        "high": math.exp(found.high),
        "n": found.n,
    }
