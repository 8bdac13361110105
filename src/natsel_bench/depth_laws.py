"""Whether a law that draws the moves of a search beats plain chance, at equal evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from natsel.common.files import write_json
from natsel.common.json_data import read_object
from natsel.common.paired import sign_flips
from natsel.communities import Communities, discover
from natsel.levels import evolve_levels
from natsel.levels.judge import Judge
from natsel.selection import Parameters
from natsel_bench.language_models import STEPS, WORDS, byte_tokens, prepared, windows

if TYPE_CHECKING:
    from natsel_bench.depth import Work

PLAIN = "none"
LAWS = (PLAIN, "replicator", "wright-fisher")
SEEDS = 5
EVALUATIONS = 100
LENGTH = 128
"""Tokens, which are bytes, in a window."""
SEARCHED, DECIDING, FINAL = 32, 16, 64
"""Windows that a search races on, that it decides on, and that nothing is chosen on."""
TRAINING = STEPS


def laws(work: Work) -> dict[str, Any]:
    """Search the same budget with and without a law, on a small GPT-2 trained on the text.

    Each seed has windows and chance of its own, the same for every law. What counts is the
    divergence of the plan that was found, on windows from the end of the text.

    Args:
        work: what the rows share; searches that ended are kept in its folder.

    Returns:
        Final divergences by law and seed, with paired tests against no law: over seeds, and over
        the last windows, each the mean over seeds.
    """
    text = work.text.read_bytes().decode()
    kept = LENGTH * (FINAL + 1)
    tokens = byte_tokens(text)
    before, last = tokens[:-kept], windows(tokens, LENGTH, FINAL, from_end=True)
    if len(before) < LENGTH * (SEARCHED + DECIDING):
        return {"missing": f"the text has {len(tokens):,} bytes: too few"}
    known = before.numpy().astype("uint8").tobytes().decode(errors="ignore")
    folder = prepared(work.out / "laws-network", known, length=LENGTH, steps=TRAINING)
    communities = _communities(folder)
    final: dict[str, list[list[float]]] = {law: [] for law in LAWS}
    for number in range(SEEDS * len(LAWS)):
        seed, law = number // len(LAWS), LAWS[number % len(LAWS)]
        work.progress(f"laws: {law}, seed {seed}", number, SEEDS * len(LAWS))
        file = work.out / f"laws-{law}-{seed}.json"
        if not file.is_file():
            write_json(file, {"divergences": _one(communities, before, last, law, seed)})
        final[law].append(read_object(file)["divergences"])
    of_seeds = {law: torch.tensor(each).double() for law, each in final.items()}
    told, tests = [], {}
    for law in LAWS[1:]:
        seeds = sign_flips(-of_seeds[law].mean(1), -of_seeds[PLAIN].mean(1))
        each = sign_flips(-of_seeds[law].mean(0), -of_seeds[PLAIN].mean(0))
        tests[law] = {"seeds": seeds._asdict(), "windows": each._asdict()}
        told.append(
            f"{law} against plain elitism, {EVALUATIONS} evaluations each: divergence "
            f"{float(of_seeds[law].mean()):.4f} against {float(of_seeds[PLAIN].mean()):.4f}; sign "
            f"flips over {SEEDS} seeds p = {seeds.p_value:.2g} (the least possible is "
            f"{2 / 2**SEEDS:.2g}), over {FINAL} held-out windows p = {each.p_value:.2g}."
        )
    means = {law: each.mean(1).tolist() for law, each in of_seeds.items()}
    return {"divergences": means, "tests": tests, "told": told}


def _communities(folder: Path) -> Communities:
    from natsel.io import open_model

    example = {"input_ids": torch.arange(LENGTH)[None] % WORDS}
    return discover(open_model(str(folder)).model, example).only("neuron", "head")


def _one(
    communities: Communities, before: Tensor, last: Tensor, law: str, seed: int
) -> list[float]:
    """Return the divergence of each last window under the plan that one search finds."""
    generator = torch.Generator().manual_seed(seed)
    grid = windows(before, LENGTH, len(before) // LENGTH)
    chosen = grid[torch.randperm(len(grid), generator=generator)[: SEARCHED + DECIDING]]
    batches = [{"input_ids": row[None], "labels": row[None]} for row in chosen]
    levels = evolve_levels(
        communities,
        Parameters(0.7),
        batches[:SEARCHED],
        held_out=batches[SEARCHED:],
        evaluations=EVALUATIONS,
        dynamics=None if law == PLAIN else law,
        generator=generator,
    )
    judge = Judge(communities, {"input_ids": last})
    found: list[float] = (judge.totals(levels.found) / judge.places).tolist()
    return found
