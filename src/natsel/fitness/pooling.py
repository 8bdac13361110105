"""Statistics of activations over the samples of several processes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from natsel.common.sharding.reducing import summed, summed_together
from natsel.fitness.running import Moments, Products, Running

Key = TypeVar("Key", bound=Hashable)


def pooled(
    observers: Mapping[Key, Running], sizes: Mapping[Key, int], group: Any, device: torch.device
) -> dict[Key, Tensor]:
    """Return what observers in several processes say of the samples of all of them.

    Each process has the same observers; one that saw nothing here may have seen something elsewhere
    (an expert that no sample of this process chose).

    Args:
        observers: of this process.
        sizes: how many places each looks at.
        group: the processes.
        device: where their collective calls take tensors.

    Returns:
        The statistic by observer, the same in every process; an observer that saw nothing anywhere
        is left out.
    """
    if not observers:
        return {}
    counts, wide = _counted(observers, group, device)
    found: dict[Key, Tensor] = {}
    seen = [key for key, count in zip(observers, counts.tolist(), strict=True) if count]
    total = dict(zip(observers, counts.unbind(), strict=True))
    matrices = [key for key in seen if isinstance(observers[key], Products)]
    for key in matrices:
        found[key] = _of_products(observers[key], sizes[key], total[key], group)
    rest = [key for key in seen if key not in found]
    moments = [_moments(observers[key], sizes[key], device) for key in rest]
    means = summed_together([m.mean * m.count for m in moments], group)
    means = [mean / total[key] for mean, key in zip(means, rest, strict=True)]
    squares = [
        m.count * (m.variance + (m.mean - mean).square())
        for m, mean in zip(moments, means, strict=True)
    ]
    variances = summed_together(squares, group)
    for key, mean, variance in zip(rest, means, variances, strict=True):
        count = int(total[key])
        found[key] = observers[key].of(Moments(count, mean, variance / total[key]))
    precision = torch.float64 if wide else torch.float32
    return {key: found[key].to(precision) for key in seen}


def added_up(
    sums: list[list[Tensor]], num_signals: int, masses: Sequence[Tensor], count: int, group: Any
) -> tuple[list[list[Tensor]], int]:
    """Return sums over the batches of several processes, and how many batches there were.

    They are float64 in every process, also in one that had no batch: all say the same.

    Args:
        sums: by signal and community; empty where this process had no batch that counts.
        num_signals: how many signals there are.
        masses: of each community, for their sizes.
        count: batches of this process.
        group: the processes.
    """
    mine = sums or [[torch.zeros_like(mass) for mass in masses] for _ in range(num_signals)]
    flat = torch.cat([value.double().reshape(-1) for values in mine for value in values])
    total = summed(torch.cat([flat, flat.new_tensor([float(count)])]), group)
    parts = iter(torch.split(total[:-1], [len(v) for values in mine for v in values]))
    found = [[next(parts) for _ in values] for values in mine]
    return found, int(total[-1])


def _counted(
    observers: Mapping[Key, Running], group: Any, device: torch.device
) -> tuple[Tensor, bool]:
    """Return how many samples each observer saw anywhere, and whether any were float64."""
    mine: list[int] = []
    wide = False
    for observer in observers.values():
        mine.append(_count(observer))
        if observer.seen:
            wide |= observer.precision == torch.float64
    counts = summed(torch.tensor([*mine, int(wide)], dtype=torch.float64, device=device), group)
    return counts[:-1], bool(counts[-1])


def _count(observer: Running) -> int:
    if not observer.seen:
        return 0
    return observer.sums()[0] if isinstance(observer, Products) else observer.total().count


def _moments(observer: Running, size: int, device: torch.device) -> Moments:
    if observer.seen:
        return observer.total()
    nothing = torch.zeros(size, dtype=torch.float64, device=device)
    return Moments(0, nothing, nothing)


def _of_products(observer: Running, size: int, total: Tensor, group: Any) -> Tensor:
    assert isinstance(observer, Products)
    if observer.seen:
        mine = observer.sums()[1].clone()
    else:
        mine = torch.zeros(size, size, dtype=torch.float64, device=total.device)
    return summed(mine, group) / total
