"""How many candidates a search sees per second, against the loop that one would write."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from natsel.adaptive.adaptive import STATISTIC
from natsel.adaptive.arena import Arena
from natsel.adaptive.race import race
from natsel.common.errors import refuse
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.common.timing import one_thread
from natsel.communities import Communities, discover
from natsel.communities.surgery.surgery import silence
from natsel.features import feature_class, fuse, matrices
from natsel.features.search.random import uniform
from natsel.fitness import score
from natsel.runs import environment
from natsel.runs.material import open_for
from natsel.runs.measure import predictions
from natsel.selection import Sparsity, Survivors, select

CLASS = "A5_Log6"


def bench_search(
    model: str,
    data: str,
    *,
    sparsity: float = 0.7,
    images: int = 2000,
    population: int = 16,
    repeats: int = 3,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Time generations of random fusion weights, by the plain loop and by a race, in turn.

    The plain loop copies the model, zeroes what reads the removed populations, and runs every
    image. Processor seconds of this process, one thread.

    Args:
        model: what ``natsel.open_model`` opens; a trained one, or nothing can be told apart.
        data: name of a data set of images.
        sparsity: share of the neurons that goes.
        images: of the search split.
        population: candidates in a generation.
        repeats: generations, each of other candidates.
        progress: called after every generation.

    Returns:
        Candidates per second of both, their ratio with its range over repeats, and whether the
        race's winner is the plain loop's (or how far behind).
    """
    for argument, value in (("images", images), ("population", population), ("repeats", repeats)):
        check_whole(argument, value, 2)
    opened, splits = open_for(model, data, 0)
    if splits is None or splits.task is not None:
        refuse("data", data, "a data set of images with one class each")
    inputs, labels = (t[:images] for t in splits.validation)
    communities = discover(opened.model, (inputs[:2],)).only("neuron")
    phi = matrices(score(communities, STATISTIC), feature_class(CLASS).features)
    rows = []
    with one_thread():
        for repeat in range(repeats):
            generator = torch.Generator().manual_seed(repeat)
            weights = uniform(population, len(feature_class(CLASS).features), generator)
            candidates = [
                select(fuse(phi, w), Sparsity(sparsity), communities=communities) for w in weights
            ]
            rows.append(_generation(communities, candidates, inputs, labels))
            progress("search", repeat + 1, repeats)
    ratios = [r["plain_seconds"] / r["race_seconds"] for r in rows]
    middle = int(np.argsort(ratios)[len(ratios) // 2])
    return {
        "bench": "search",
        "model": opened.description,
        "sparsity": sparsity,
        "images": images,
        "population": population,
        "ratio": ratios[middle],
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "plain_per_second": population / rows[middle]["plain_seconds"],
        "race_per_second": population / rows[middle]["race_seconds"],
        "behind": max(r["behind"] for r in rows),
        "rows": rows,
        **environment.record(),
    }


def _generation(
    communities: Communities, candidates: Sequence[Survivors], inputs: Tensor, labels: Tensor
) -> dict[str, float]:
    arena = Arena(communities, inputs, labels)
    arena.correct(candidates[0])  # the incumbent is known before a generation begins
    started = time.process_time()
    values = race(arena, candidates, candidates[0])
    raced = time.process_time() - started
    started = time.process_time()
    plain = []
    for candidate in candidates:
        masked = silence(communities.model, communities.values(), candidate)
        plain.append(float(predictions(masked, inputs, labels).double().mean()))
    looped = time.process_time() - started
    return {
        "plain_seconds": looped,
        "race_seconds": raced,
        "behind": max(plain) - plain[int(values.argmax())],
    }
