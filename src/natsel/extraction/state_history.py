"""The history of L-BFGS: flat vectors over all parameters, cut as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.extraction.state_leaves import Move

CURVATURE = 1e-10
"""What ``torch.optim.LBFGS`` asks of y s before it takes a pair in."""

VECTORS = ("d", "prev_flat_grad")
PAIRS = ("old_dirs", "old_stps")
OTHERS = ("func_evals", "n_iter", "al", "t", "ro", "H_diag", "prev_loss")


def cut_history(moves: Sequence[Move], state: Mapping[str, Any]) -> dict[str, Any]:
    r"""Return what remains of the state of ``torch.optim.LBFGS``.

    Every vector loses the places that the parameters lose. Of each pair of a change of the gradient
    y and a step s that curvature is learned from, what depends on both follows:
    \(\rho = 1 / y^\top s\), and \(y^\top s / y^\top y\) of the last pair. A pair whose curvature
    \(y^\top s\) is not positive any more is dropped, as the optimizer does with new ones.

    Args:
        moves: every parameter, in the order of the optimizer.
        state: as the optimizer keeps it.

    Returns:
        The state over what remains.

    Raises:
        ValueError: if the state has other keys, or vectors of another size.
    """
    if unknown := sorted(set(state) - {*VECTORS, *PAIRS, *OTHERS}):
        refuse("optimizer", "LBFGS", f"the state of torch.optim.LBFGS, without {unknown[0]!r}")
    if any(move.old.is_complex() for move in moves):
        refuse("optimizer", "LBFGS", "real parameters")
    kept, start = [], 0
    for move in moves:
        span = (0, move.old.dim())
        places = move.places(span)
        if places is None:
            places = torch.arange(move.old.numel())
        if move.new is not None:
            kept.append(places + start)
        start += move.old.numel()
    index = torch.cat(kept) if kept else torch.zeros(0, dtype=torch.int64)
    vectors = [state[key] for key in VECTORS if state.get(key) is not None]
    vectors += [vector for key in PAIRS for vector in state.get(key) or []]
    for vector in vectors:
        if vector.numel() != start:
            refuse("optimizer", "LBFGS", f"vectors of {start} numbers; one has {vector.numel()}")

    def rest(vector: Tensor) -> Tensor:
        return vector.detach().index_select(0, index.to(vector.device))

    result = dict(state)
    result |= {key: rest(state[key]) for key in VECTORS if state.get(key) is not None}
    if state.get(PAIRS[0]) is None:
        return result
    pairs = [(rest(y), rest(s)) for y, s in zip(state[PAIRS[0]], state[PAIRS[1]], strict=True)]
    bent = [(y, s) for y, s in pairs if float(y.dot(s)) > CURVATURE]
    result["old_dirs"], result["old_stps"] = [y for y, _ in bent], [s for _, s in bent]
    result["ro"] = [1.0 / y.dot(s) for y, s in bent]
    if bent:
        y, s = bent[-1]
        result["H_diag"] = y.dot(s) / y.dot(y)
    else:
        result["H_diag"] = 1
    return result
