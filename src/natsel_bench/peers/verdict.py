"""How a case ended, in one word."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from natsel.common.calls import Inputs
from natsel_bench.peers.reference import (
    logits,
    masked_logits,
    removed,
    without_reference,
)

Outcome = Literal[
    "exact",
    "different",
    "no reference",
    "changed outputs",
    "broken",
    "refused",
    "nothing",
    "error",
    "time-out",
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

EXACT_WITHIN = 1e-5
"""Largest difference that counts as none: some networks normalise in float32 whatever they get."""


@dataclass(frozen=True)
class Verdict:
    """How a case ended.

    Attributes:
        outcome: in one word.
        reason: what stood in the way, or "".
        difference: largest difference from the reference, relative to the largest output.
    """

    outcome: Outcome
    reason: str = ""
    difference: float | None = None


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, and its kind."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def judge(
    dense: nn.Module, small: nn.Module, inputs: Inputs, *, has_reference: bool = True
) -> Verdict:
    """Compare what a tool made with the dense network without what it removed.

    Args:
        dense: the network after ``distinct_``, as the tool got it.
        small: what the tool made of it.
        inputs: what both run on.
        has_reference: whether a masked network can equal a smaller one at all.

    Returns:
        "nothing", "broken", "changed outputs", "no reference", "exact" or "different".
    """
    try:
        gone = removed(dense, small)
    except KeyError as error:
        return Verdict("no reference", f"parameter {error} has another name")
    if not gone:
        return Verdict("nothing")
    before = logits(dense, inputs)
    try:
        after = logits(small, inputs)
    except Exception as error:  # noqa: BLE001 - a broken forward is what is looked for
        return Verdict("broken", first_line(error))
    if before.shape != after.shape:
        change = f"{tuple(before.shape)} became {tuple(after.shape)}"
        return Verdict("changed outputs", change)
    if not has_reference:
        return Verdict("no reference", "units are normalised together")
    if (norm := without_reference(dense, small)) is not None:
        return Verdict("no reference", norm)
    difference = _apart(small, dense, gone, inputs)
    if difference <= EXACT_WITHIN:
        return Verdict("exact", difference=difference)
    finite = difference if math.isfinite(difference) else None
    return Verdict("different", "" if finite is not None else "not finite", finite)


def _apart(small: nn.Module, dense: nn.Module, gone: dict[str, Tensor], inputs: Inputs) -> float:
    try:
        ours = logits(small, inputs, double=True)
        theirs = masked_logits(dense, gone, inputs)
    except RuntimeError:
        # Some fused products have no float64.
        ours = logits(small, inputs).double()
        theirs = masked_logits(dense, gone, inputs, double=False).double()
    found = float((ours - theirs).abs().max()) / max(float(theirs.abs().max()), 1e-30)
    return found if math.isfinite(found) else math.inf
