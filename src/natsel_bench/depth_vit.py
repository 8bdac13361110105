"""A vision transformer at 60 % of its multiply-accumulates: levels by search against adaptive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from natsel.adaptive import adapt
from natsel.common.paired import mcnemar
from natsel.communities import discover
from natsel.extraction import extract
from natsel.levels import evolve_levels
from natsel.runs.measure import predictions
from natsel.runs.splits import load_splits
from natsel.runs.trained import trained_network
from natsel.runs.training import Recipe
from natsel.selection import MACs

if TYPE_CHECKING:
    from natsel_bench.depth import Work

DATASET = "cifar10"
OPTIONS: dict[str, Any] = {
    "dim": 96,
    "depth": 3,
    "heads": 3,
    "mlp_ratio": 3.0,
    "patch": 4,
    "pool": "mean",
}
"""The network of ``natsel reproduce plateau --preset cpu``."""
RECIPE = Recipe(epochs=2, batch_size=128, learning_rate=1e-3)
"""Its recipe, but for fewer epochs: minutes on a core."""
SHARE = 0.6
IMAGES = 600
"""Of the validation split, that both choose on."""
EVALUATIONS = 64


def vit(work: Work) -> dict[str, Any]:
    """Cut the same network to the same budget in both ways; count right test images.

    Args:
        work: what the rows share; the network that was trained is kept in its folder.

    Returns:
        Accuracies on the test split, as cut and with the survivors' weights solved anew, with
        McNemar's exact test over its images.
    """
    from natsel.io import open_model

    try:
        splits = load_splits(DATASET)
    except (OSError, ValueError, ImportError) as error:
        return {"missing": f"{DATASET} is not at hand ({error})"}
    where = work.out / "vit-network"
    saved, _ = trained_network(
        where, splits, OPTIONS, RECIPE, seed=0, device="cpu", progress=work.progress
    )
    model = open_model(saved).model
    inputs, labels = (x[:IMAGES] for x in splits.validation)
    communities = discover(model, inputs[:1])
    exact = communities.only(*sorted({c.kind for c in communities.values() if c.exact}))
    budget = MACs(SHARE)
    adapted = adapt(exact, budget, inputs, labels, generator=torch.Generator().manual_seed(0))
    levels = evolve_levels(
        exact,
        budget,
        [(inputs, labels)],
        rivals={"adaptive": adapted.survivors},
        evaluations=EVALUATIONS,
        cache=work.out / "vit-state",
        progress=work.progress,
    )
    plans = {"searched": levels.found, "kept": levels.survivors, "adaptive": adapted.survivors}
    calibration = [(inputs[i : i + 100],) for i in range(0, len(inputs), 100)]
    right: dict[str, dict[str, Tensor]] = {"as cut": {}, "compensated": {}}
    for name, plan in plans.items():
        for how, data in (("as cut", None), ("compensated", calibration)):
            small = extract(model, plan, compensate=data)
            right[how][name] = predictions(small, *splits.test)
    dense = float(predictions(model, *splits.test).double().mean())
    told, tests = [f"ViT on {DATASET}, dense: {dense:.4f} of the test images right."], {}
    for how, each in right.items():
        shares = {name: float(x.double().mean()) for name, x in each.items()}
        tests[how] = {name: mcnemar(each[name], each["adaptive"])._asdict() for name in plans}
        told.append(
            f"ViT at {SHARE:.0%} of its multiply-accumulates, {how}: "
            + ", ".join(f"{name} {share:.4f}" for name, share in shares.items())
            + f"; searched against adaptive p = {tests[how]['searched']['p_value']:.2g}, kept "
            f"against adaptive p = {tests[how]['kept']['p_value']:.2g} (McNemar, exact, "
            f"{len(splits.test[0]):,} images)."
        )
        tests[how]["accuracy"] = shares
    return {
        "dense": dense,
        "tests": tests,
        "chosen": levels.kept,
        "adaptive": adapted.sentence,
        "sentence": levels.sentence,
        "told": told,
    }
