"""From a statistic to a rank: all that a feature sees of a population."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(statistic: Tensor) -> Tensor:
    r"""Return the rank of each population in its community, from 0 (least) to 1 (most).

    $u_i = \mathrm{rank}(s_i) / (n - 1)$. Among equal statistics the lower index ranks higher, as
    in a selection: whatever is strictly increasing in the statistic has the same ranks.

    Args:
        statistic: ``[n]``, finite.

    Returns:
        float64 ``[n]`` with n different values; of a single population 1.

    Example:
        >>> ranks(torch.tensor([3.0, 1.0, 1.0]))
        tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    n = statistic.numel()
    order = torch.argsort(statistic.reshape(-1), descending=True, stable=True)
    u = torch.empty(n, dtype=torch.float64, device=statistic.device)
    u[order] = torch.linspace(1, 0, n, dtype=torch.float64, device=statistic.device)
    return u
