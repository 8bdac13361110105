"""Streamed second moments of what enters a module."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Count, mean and scatter of rows that come batch by batch, in float64.

    Batches are centred before they are multiplied, and merged (Chan, Golub and LeVeque 1983): sums
    of squares would cancel where the mean is large.

    Example:
        >>> moments = Moments()
        >>> for rows in ([[0., 1.], [2., 1.]], [[4., 4.]]):
        ...     moments.add(torch.tensor(rows))
        >>> moments.count, moments.mean.tolist()
        (3, [2.0, 2.0])
        >>> moments.second(about_mean=True)[0, 0]
        tensor(2.6667, dtype=torch.float64)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.empty(0)
        self.scatter = torch.empty(0)

    def add(self, rows: Tensor) -> None:
        """Take rows ``[N, n]`` in; products are in their precision, float32 at least."""
        if not len(rows):
            return
        rows = rows if rows.dtype == torch.float64 else rows.float()
        # No float64 on Apple's accelerators.
        home = torch.device("cpu") if rows.device.type == "mps" else rows.device
        centre = rows.mean(0)
        centred = rows - centre
        # What the rounding of the centre left over would not cancel.
        rest = centred.mean(0)
        mean = centre.to(home).double() + rest.to(home).double()
        product = (centred.T @ centred).to(home).double()
        product -= len(rows) * torch.outer(rest.to(home).double(), rest.to(home).double())
        if not self.count:
            self.count, self.mean, self.scatter = len(rows), mean, product
            return
        total = self.count + len(rows)
        step = mean - self.mean
        self.scatter += product + torch.outer(step, step) * (self.count * len(rows) / total)
        self.mean += step * (len(rows) / total)
        self.count = total

    def second(self, *, about_mean: bool) -> Tensor:
        """Return the second moments, about the mean or about 0: ``[n, n]``."""
        found = self.scatter / max(self.count, 1)
        return found if about_mean else found + torch.outer(self.mean, self.mean)
