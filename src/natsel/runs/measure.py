"""What a model costs: parameters, multiply-accumulates, measured latency, accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from natsel.common.calls import as_inputs, cross_entropy, logits_of
from natsel.common.modes import evaluating
from natsel.common.timing import batch_of, median, time_in_turn
from natsel.data import IGNORED
from natsel.quality import Quality, accuracy_of
from natsel.runs.statistics import Interval, clustered_interval, proportion_interval

EVALUATION_BATCH = 1000
STRETCH = 16
MIN_STRETCHES = 20


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


class Outcomes(NamedTuple):
    """How the predictions of a model turned out.

    Attributes:
        correct: right predictions per sample, int64 ``[N]``.
        counted: all predictions per sample: 1, or as many as a sequence has labels.
        loss: mean cross-entropy over all predictions.
    """

    correct: Tensor
    counted: Tensor
    loss: float

    @property
    def accuracy(self) -> float:
        """The share of right predictions."""
        return int(self.correct.sum()) / int(self.counted.sum())


def predictions(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return which samples a model predicts rightly, bool ``[N]``."""
    with evaluating(model), torch.no_grad():
        return torch.cat(
            [
                (model(x).argmax(-1) == y).cpu()
                for x, y in zip(torch.split(inputs, 500), torch.split(labels, 500), strict=True)
            ]
        )


def outcomes(model: nn.Module, inputs: Tensor, labels: Tensor) -> Outcomes:
    """Run a model in evaluation mode and compare what it predicts with the labels.

    Args:
        model: returns logits ``[B, K]``, or ``[B, T, K]`` for labels ``[B, T]``.
        inputs: ``[N, ...]``.
        labels: int64 ``[N]`` or ``[N, T]``; -100 where nothing is predicted.
    """
    correct, counted, loss = [], [], 0.0
    with evaluating(model), torch.no_grad():
        for x, y in zip(
            torch.split(inputs, EVALUATION_BATCH),
            torch.split(labels, EVALUATION_BATCH),
            strict=True,
        ):
            logits = logits_of(model(x))
            asked = (y != IGNORED).reshape(len(y), -1).sum(1)
            right = (logits.argmax(-1) == y).reshape(len(y), -1).sum(1)
            if num_asked := int(asked.sum()):
                loss += float(cross_entropy(logits, y)) * num_asked
            correct.append(right)
            counted.append(asked)
    total = torch.cat(counted)
    return Outcomes(torch.cat(correct), total, loss / max(int(total.sum()), 1))


def num_correct(model: nn.Module, inputs: Tensor, labels: Tensor) -> int:
    """Return how many labels are predicted."""
    return int(outcomes(model, inputs, labels).correct.sum())


def stretch(num_windows: int) -> int:
    """Return how many windows in a row an interval takes as one observation.

    Sixteen; fewer where less than twenty stretches would be left.

    Example:
        >>> stretch(871), stretch(100), stretch(4)
        (16, 5, 1)
    """
    return max(1, min(STRETCH, num_windows // MIN_STRETCHES))


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Interval, dict[str, float]]:
    """Return the share of labels that are predicted, and what else is said of sequences.

    The predictions inside a window of a text are not independent, nor are those of neighbouring
    windows: the interval, and its ``n``, rest on stretches of :func:`stretch` windows in a row.

    Returns:
        The interval, and for sequences also the mean loss in nats and the perplexity, exp(loss).
    """
    return accuracy_of_outcomes(outcomes(model, inputs, labels), sequences=labels.dim() > 1)


def accuracy_of_outcomes(
    found: Outcomes, *, sequences: bool | None = None
) -> tuple[Interval, dict[str, float]]:
    """Return what :func:`accuracy` does, of predictions that were made.

    Args:
        found: the outcomes.
        sequences: whether a sample has several labels; if not given, whether one has.
    """
    if not _of_sequences(found) if sequences is None else not sequences:
        return proportion_interval(int(found.correct.sum()), len(found.correct)), {}
    interval = clustered_interval(*_stretches(found))
    # Beyond a loss of 700 nats, where exp overflows, a perplexity says nothing more.
    return interval, {"loss": found.loss, "perplexity": math.exp(min(found.loss, 700.0))}


def accuracy_quality(after: Outcomes, before: Outcomes | None = None) -> Quality:
    """Return the accuracy with its interval and the paired comparison of the same samples."""
    if not _of_sequences(after):
        return accuracy_of(after.correct, after.counted, None if before is None else before.correct)
    correct, counted = _stretches(after)
    old = None if before is None else torch.tensor(_stretches(before)[0])
    return accuracy_of(torch.tensor(correct), torch.tensor(counted), old)


def _of_sequences(found: Outcomes) -> bool:
    return bool((found.counted != 1).any())


def _stretches(found: Outcomes) -> tuple[list[int], list[int]]:
    """Return right predictions and all of them, by stretches of windows."""
    size = stretch(len(found.correct))
    correct, counted = (
        [int(part.sum()) for part in torch.split(each, size)]
        for each in (found.correct, found.counted)
    )
    return correct, counted


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
    """Return accuracy with its interval, parameters and multiply-accumulates of a model.

    See :func:`accuracy` for what the interval rests on.
    """
    interval, more = accuracy(model, inputs, labels)
    return {
        "accuracy": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        **more,
        "parameters": num_parameters(model),
        "macs": macs(model, inputs),
    }
