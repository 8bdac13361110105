"""What two measurements allow to be said, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from natsel.report.facts import as_real

Verdict = Literal["faster", "slower", "same", "unknown"]


@dataclass(frozen=True)
class LatencyComparison:
    """Latency of one batch size, before and after.

    Attributes:
        batch: the batch size, as it is written in the file.
        verdict: ``faster`` or ``slower`` only where the two intervals lie apart, ``same`` where
            they overlap, ``unknown`` where an interval is missing.
        ratio: how many times faster (or slower) by the medians; 1 unless that is the verdict.
    """

    batch: str
    verdict: Verdict
    ratio: float = 1.0


def compare_latency(before: Any, after: Any) -> list[LatencyComparison]:
    """Compare latencies at every batch size that was measured on both sides.

    Args:
        before: ``{batch size: {"median_ms", "low_ms", "high_ms"}}``.
        after: the same for the smaller network.

    Returns:
        One comparison per common batch size, smallest first.

    Example:
        >>> slow = {"median_ms": 2.0, "low_ms": 1.9, "high_ms": 2.1}
        >>> fast = {"median_ms": 1.0, "low_ms": 0.9, "high_ms": 1.1}
        >>> noisy = {"median_ms": 1.8, "low_ms": 1.5, "high_ms": 2.0}
        >>> [c.verdict for c in compare_latency({"1": slow, "64": slow}, {"1": noisy, "64": fast})]
        ['same', 'faster']
    """
    if not isinstance(before, dict) or not isinstance(after, dict):
        return []
    batches = sorted(before.keys() & after.keys(), key=batch_order)
    return [_compare(batch, before[batch], after[batch]) for batch in batches]


def batch_order(batch: str) -> tuple[int, str]:
    """Order batch sizes as numbers, though JSON keeps them as text."""
    return (int(batch) if batch.isdecimal() else 0, batch)


def _compare(batch: str, before: Any, after: Any) -> LatencyComparison:
    old, new = _interval(before), _interval(after)
    if old is None or new is None:
        return LatencyComparison(batch, "unknown")
    if new[2] < old[0]:
        return LatencyComparison(batch, "faster", old[1] / new[1])
    if new[0] > old[2]:
        return LatencyComparison(batch, "slower", new[1] / old[1])
    return LatencyComparison(batch, "same")


def _interval(entry: Any) -> tuple[float, float, float] | None:
    if not isinstance(entry, dict):
        return None
    low, median, high = (as_real(entry.get(k)) for k in ("low_ms", "median_ms", "high_ms"))
    if low is None or median is None or high is None or median <= 0:
        return None
    return low, median, high


def intervals_overlap(first: Any, second: Any) -> bool | None:
    """Tell whether two accuracies' intervals overlap; ``None`` where one is missing.

    Example:
        >>> intervals_overlap({"low": 0.97, "high": 0.98}, {"low": 0.975, "high": 0.985})
        True
    """
    if not isinstance(first, dict) or not isinstance(second, dict):
        return None
    low_a, high_a = as_real(first.get("low")), as_real(first.get("high"))
    low_b, high_b = as_real(second.get("low")), as_real(second.get("high"))
    if low_a is None or high_a is None or low_b is None or high_b is None:
        return None
    return low_a <= high_b and low_b <= high_a
