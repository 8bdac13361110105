"""Second moments of what enters many layers, in one look; layers that read the same share one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.hooks import entering, watching
from natsel.single_weights.matrices import rows_entering


class Second:
    """Second moments about 0 of rows that come batch by batch.

    Products are in float32 at least, sums in float64 where the device has it.

    Example:
        >>> second = Second()
        >>> second.add(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
        >>> second.mean
        tensor([[5., 1.],
                [1., 2.]], dtype=torch.float64)
    """

    def __init__(self) -> None:
        self.count = 0
        self._total = torch.empty(0)

    def add(self, rows: Tensor) -> None:
        """Take rows ``[N, n]`` in."""
        rows = rows if rows.dtype == torch.float64 else rows.float()
        home = torch.device("cpu") if rows.device.type == "mps" else rows.device
        product = (rows.T @ rows).to(home, torch.float64)
        self._total = self._total + product if self.count else product
        self.count += len(rows)

    @property
    def mean(self) -> Tensor:
        """The mean of x x^T."""
        return self._total / max(self.count, 1)


def second_moments(layers: Mapping[str, nn.Module], look: Callable[[], None]) -> dict[str, Second]:
    """Return the second moments of what enters some layers.

    Layers that are handed the very same tensors get one and the same object.

    Args:
        layers: by name; matrices.
        look: runs them over all data.

    Returns:
        Moments of every layer that ran.

    Example:
        >>> layers = {"a": nn.Linear(2, 1), "b": nn.Linear(2, 1)}
        >>> x = torch.ones(3, 2)
        >>> found = second_moments(layers, lambda: [l(x) for l in layers.values()])
        >>> found["a"] is found["b"], found["a"].count
        (True, 3)
    """
    try:
        return _looked(layers, look, shared=True)
    except _PartedError:
        return _looked(layers, look, shared=False)


class _PartedError(Exception):
    """Two layers that read the same tensor once read different ones now."""


def _looked(
    layers: Mapping[str, nn.Module], look: Callable[[], None], *, shared: bool
) -> dict[str, Second]:
    leader: dict[str, str] = {}
    last: dict[str, Tensor] = {}
    turns: dict[str, int] = {}
    found: dict[str, Second] = {}

    def add(name: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = entering(args, named)
        if name not in leader:
            same = (n for n, t in last.items() if t is x and turns[n] == 1)
            leader[name] = next(same, name) if shared else name
        first = leader[name]
        turns[name] = turns.get(name, 0) + 1
        if first != name:
            if last[first] is not x or turns[name] != turns[first]:
                raise _PartedError
            return
        if turns[name] > 1 and any(
            n != name and f == name and turns[n] != turns[name] - 1 for n, f in leader.items()
        ):
            raise _PartedError
        last[name] = x
        found.setdefault(name, Second()).add(rows_entering(layers[name], x.detach()))

    with watching(layers, add), torch.no_grad():
        look()
    if any(turns[n] != turns[f] for n, f in leader.items()):
        raise _PartedError
    return {name: found[first] for name, first in leader.items() if found[first].count}
