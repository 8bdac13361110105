"""Processor time of prompts and of tokens that follow, in turn with the whole cache."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from natsel.common.progress import Progress, silent
from natsel.common.timing import median
from natsel_bench.live.ways import Way

FULL = "full"
TOKENS = 16
"""That follow the prompt, one by one."""


def costs(
    model: Any,
    prompt: Tensor,
    ways: Mapping[str, Way],
    *,
    repeats: int,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Read a prompt and some tokens more by each way, there and back in one process.

    Args:
        model: a decoder.
        prompt: token ids, ``[batch, tokens]``.
        ways: by name; the whole cache is added.
        repeats: rounds in which each way has its turn.
        progress: called after every round.

    Returns:
        For each way, and for ``full``: seconds of processor time (medians) of the prompt and of one
        token; the ratios to the whole cache in the same round with their 95 % interval; bytes held.
    """
    everyone: dict[str, Way | None] = {FULL: None, **ways}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in everyone}
    held: dict[str, tuple[int, float]] = {}
    names = list(everyone)
    with torch.no_grad():
        _once(model, prompt, None)
        for number in range(repeats):
            progress("live: costs", number, repeats)
            for name in names if number % 2 == 0 else reversed(names):
                seconds, held[name] = _once(model, prompt, everyone[name])
                times[name].append(seconds)
    whole = times[FULL]
    found: dict[str, dict[str, Any]] = {}
    for name, own in times.items():
        num_bytes, share = held[name]
        found[name] = {"bytes": num_bytes, "bytes_share": share}
        for column, what in enumerate(("prompt", "token")):
            each = [seconds[column] for seconds in own]
            ratios = [a / b[column] for a, b in zip(each, whole, strict=True)]
            found[name] |= {
                f"{what}_seconds": statistics.median(each),
                f"{what}_ratio": median(ratios)._asdict(),
            }
    return found


def _once(
    model: Any, prompt: Tensor, way: Way | None
) -> tuple[tuple[float, float], tuple[int, float]]:
    with nullcontext() if way is None else way.on(model) as live:
        began = time.process_time()
        read = model(prompt, use_cache=True)
        cache, new = read.past_key_values, read.logits[:, -1:].argmax(-1)
        read_in = time.process_time() - began
        if live is None:
            layers = [x for x in cache.layers if getattr(x, "keys", None) is not None]
            held = (sum(x.keys.nbytes + x.values.nbytes for x in layers), 1.0)
        else:
            held = (live.num_bytes, live.num_bytes / live.num_bytes_whole)
        began = time.process_time()
        for _ in range(TOKENS):
            new = model(new, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
        return (read_in, (time.process_time() - began) / TOKENS), held
