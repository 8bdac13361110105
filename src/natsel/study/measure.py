"""What a model costs: parameters, multiply-accumulates, measured latency, accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from natsel.common.calls import as_inputs
from natsel.communities.discover import evaluating
from natsel.communities.latency import batch_of, median, time_in_turn
from natsel.study.statistics import proportion_interval

EVALUATION_BATCH = 1000


def num_parameters(model: nn.Module) -> int:
    """Return the number of parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, sample: Tensor) -> int:
    """Return multiply-accumulates per sample of matrix products and convolutions.

    Args:
        model: any model.
        sample: inputs ``[N, ...]``; the first is used.

    Returns:
        Half of the floating-point operations that torch counts in one forward pass.
    """
    # The counter does not know the fused attention kernels of the CPU.
    with (
        evaluating(model),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        model(sample[:1])
    return int(counter.get_total_flops()) // 2


def predictions(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the predicted class of each input, in evaluation mode: int64 ``[N]``."""
    with evaluating(model), torch.no_grad():
        batches = torch.split(inputs, EVALUATION_BATCH)
        return torch.cat([model(batch).argmax(1) for batch in batches])


def num_correct(model: nn.Module, inputs: Tensor, labels: Tensor) -> int:
    """Return how many inputs are classified as their label says."""
    return int((predictions(model, inputs) == labels).sum())


def latency(
    models: Mapping[str, nn.Module],
    sample: Tensor,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    repeats: int = 60,
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure forward passes of several models in turn, so that drift hits all of them alike.

    Args:
        models: by name; each runs in evaluation mode without gradients, and keeps its mode.
        sample: inputs ``[N, ...]``, repeated to the batch size.
        batch_sizes: how many inputs at once.
        repeats: how often each is run, after a few passes that warm up.

    Returns:
        ``{name: {batch size: {"median_ms", "low_ms", "high_ms"}}}`` with the 95 % interval of the
        median by order statistics.
    """
    inputs = as_inputs(sample)
    result: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models}
    for size in batch_sizes:
        times = time_in_turn(models, batch_of(inputs, size), repeats=repeats)
        for name, values in times.items():
            found = median(values)
            ends = {"median_ms": found.median, "low_ms": found.low, "high_ms": found.high}
            result[name][str(size)] = ends
    return result


def describe(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return accuracy with its interval, parameters and multiply-accumulates of a model."""
    interval = proportion_interval(num_correct(model, inputs, labels), len(labels))
    return {
        "accuracy": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "parameters": num_parameters(model),
        "macs": macs(model, inputs),
    }
