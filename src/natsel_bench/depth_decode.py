"""A budget of decode time for a language model: depth, width, and all kinds together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from natsel.common.json_data import read_object
from natsel.common.paired import sign_flips
from natsel.extraction import extract
from natsel.levels import evolve_levels
from natsel.selection import Latency

if TYPE_CHECKING:
    from natsel_bench.depth import Work

SHARE = 0.75
"""Of the time of a decoded token that stays."""
KINDS = {"depth": ("branch",), "width": ("neuron", "head"), "all": ("neuron", "head", "branch")}
"""What gives, by the name of the row."""
REPEATS = 10
"""Tokens of both models, in turn, of each measurement."""
SCORED = 8
WINDOWS = 4
"""On how many windows a generation races."""


def decoding(work: Work, how: str) -> dict[str, Any]:
    """Search for 0.75 of the decode time, solve the remaining weights anew, and time the result.

    Args:
        work: what the rows share.
        how: "depth", "width" or "all".

    Returns:
        The loss of each held-out window, and the share of the time by a measurement of its own. Of
        "all" the paired test against the better one of the two others, where they were run.
    """
    communities = work.kinds.only(*KINDS[how])
    batches = work.batches()
    half = len(work.rows) * 3 // 4
    budget = Latency(SHARE, of="decode", repeats=REPEATS)
    levels = evolve_levels(
        communities,
        budget,
        batches[:half],
        held_out=batches[half:],
        fitness=work.fitness,
        evaluations=work.evaluations,
        windows=WINDOWS,
        cache=work.out / f"decode-{how}-state",
        progress=work.progress,
    )
    found = work.of(extract(work.dense, levels.survivors, compensate=work.batches(SCORED)))
    again = Latency(SHARE, of="decode", repeats=4 * REPEATS).gauge(communities)
    branches = [n for n, c in communities.items() if c.branches]
    return {
        "out": [int(b) for n in branches for b in (~levels.survivors[n]).nonzero().flatten()],
        "kept": {n: int(mask.sum()) for n, mask in levels.survivors.items()},
        "parameters": communities.price(levels.survivors).parameters,
        "losses": found,
        "time": again.read(levels.survivors),
        "judged": levels.evaluations,
        "sentence": levels.sentence,
        **(_against_one_kind(work, found) if how == "all" else {}),
    }


def _against_one_kind(work: Work, found: list[float]) -> dict[str, Any]:
    files = {how: work.out / f"decode-{how}.json" for how in ("depth", "width")}
    if missing := [how for how, file in files.items() if not file.is_file()]:
        return {"told": [f"All kinds are compared with nothing: decode-{missing[0]} was not run."]}
    others = {how: torch.tensor(read_object(file)["losses"]) for how, file in files.items()}
    best = min(others, key=lambda how: float(others[how].mean()))
    test = sign_flips(-torch.tensor(found), -others[best])
    sentence = (
        f"Decode time {SHARE}: all kinds together against pure {best}, the better one: "
        f"log-perplexity {-test.difference:+.4f} ({-test.high:+.4f} to {-test.low:+.4f}), "
        f"p = {test.p_value:.2g}, sign flips over {test.n} held-out windows."
    )
    return {"test": {"against": best, **test._asdict()}, "told": [sentence]}
