"""First-order signals: what the loss would change by if the population's influence did.

With mass m_i in front of everything that reads population i, the chain rule gives, exactly and
for any activation function,

    m_i dL/dm_i = <V[:, i], dL/dV[:, i]>,

where V is the (ungated) weight of the linear map that reads the population and V[:, i] its slice.
Both are at hand after ``backward``: no hook on activations, no second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from natsel.fitness.registry import Fitness, Parts, gradient_of, register, total


def mass_gradient(parts: Parts) -> Tensor:
    r"""Return m dL/dm per population, from weights and their gradients.

    $m_i\,\partial L/\partial m_i = \sum_c \langle V_c[:, i], \partial L/\partial V_c[:, i]\rangle$
    over the consumers c of the population.

    Args:
        parts: the consumers of a community, with gradients.

    Returns:
        ``[size]``, signed, in units of the loss.
    """
    products = []
    for part in parts.consumers:
        products.append(part.per_population(part.weight * gradient_of(part)))
    return total(products)


def taylor(parts: Parts) -> Tensor:
    """Return |m dL/dm|: the loss at stake, to first order (Molchanov et al., 1611.06440)."""
    return mass_gradient(parts).abs()


def fisher(parts: Parts) -> Tensor:
    """Return (m dL/dm)^2: averaged over batches, the loss at stake to second order.

    The mean square of the gradient is the diagonal of the empirical Fisher information, which
    stands for that of the Hessian (Theis et al., 1801.05787). It is sharper the fewer samples a
    batch holds.
    """
    return mass_gradient(parts).square()


def alignment(parts: Parts) -> Tensor:
    """Return -m dL/dm: positive where more of the population lowers the loss."""
    return -mass_gradient(parts)


OF_MASS_GRADIENT: Mapping[Callable[[Parts], Tensor], Callable[[Tensor], Tensor]] = {
    taylor: torch.abs,
    alignment: torch.neg,
    fisher: torch.square,
}
"""Signals that look at m dL/dm and nothing else, with what they make of it, element by element."""

register(Fitness("taylor", taylor, needs_gradient=True, branches=True, by_sums=True))
register(Fitness("fisher", fisher, needs_gradient=True, branches=True, by_sums=True))
register(
    Fitness("alignment", alignment, needs_gradient=True, signed=True, branches=True, by_sums=True)
)
