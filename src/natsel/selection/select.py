"""Scores and a budget give survivors: the asked count, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from natsel.common.errors import NonFiniteError, choose, refuse
from natsel.communities import Communities
from natsel.selection.budget import Sparsity
from natsel.selection.normalize import Normalization, normalized, order
from natsel.selection.survivors import Survivors


def select(
    scores: Mapping[str, Tensor],
    budget: Sparsity,
    *,
    communities: Communities | None = None,
    scope: Literal["community", "global"] = "community",
    normalize: Normalization = "rank",
    floor: int = 1,
    ties: Mapping[str, Tensor] | None = None,
) -> Survivors:
    """Remove the least fit, exactly as many as the budget asks.

    Equal scores are decided by ``ties`` (a fitness, say) and then by index, so that a saturated
    score removes neither nothing nor everything. No community falls below ``floor``.

    Args:
        scores: one tensor per community, any shape; higher is fitter.
        budget: what must be reached.
        communities: what the scores belong to; taken from ``scores`` where they know it.
        scope: "community" removes the share in each, "global" ranks all populations together.
        normalize: how scores become comparable across communities ("global" only): "rank",
            "mean" or None. None compares raw scores, which may empty a community to its floor.
        floor: how many populations of each community survive at least.
        ties: a second score per community that decides among equals.

    Returns:
        The survivors.

    Raises:
        ValueError: if a name, shape or option is wrong, or the floor leaves too few to remove.
        NonFiniteError: if a score is NaN or infinite.

    Example:
        >>> select({"a": torch.tensor([0.3, 0.1, 0.2])}, Sparsity(0.34))["a"]
        tensor([ True, False,  True])
    """
    choose("scope", scope, ("community", "global"))
    if normalize is not None:
        choose("normalize", normalize, ("rank", "mean"))
    if not isinstance(budget, Sparsity):
        refuse("budget", budget, "natsel.Sparsity(share)")
    if isinstance(floor, bool) or not isinstance(floor, int) or floor < 0:
        refuse("floor", floor, "a whole number >= 0")
    if not scores:
        refuse("scores", {}, "at least one community with scores")
    communities = communities if communities is not None else getattr(scores, "communities", None)
    flat = {name: _flat(name, value) for name, value in scores.items()}
    second = {name: _tie(name, flat[name], ties) for name in flat}
    if communities is not None:
        for name, value in flat.items():
            if name not in communities or communities[name].size != value.numel():
                refuse("scores", name, f"scores for {communities!r}")
    if scope == "community":
        masks = {
            name: _keep(value, budget.count(value.numel()), floor, second[name], name)
            for name, value in flat.items()
        }
    else:
        masks = _global(flat, budget, normalize, floor, second)
    shaped = {name: mask.reshape(scores[name].shape) for name, mask in masks.items()}
    return Survivors(shaped, communities)


def _flat(name: str, value: Tensor) -> Tensor:
    value = value.detach().reshape(-1).cpu()
    if value.numel() == 0:
        refuse(f"scores[{name!r}]", "an empty tensor", "at least one score")
    if not bool(torch.isfinite(value).all()):
        raise NonFiniteError(f"scores[{name!r}] holds NaN or infinity")
    return value.double()


def _tie(name: str, value: Tensor, ties: Mapping[str, Tensor] | None) -> Tensor | None:
    if ties is None or name not in ties:
        return None
    tie = ties[name].detach().reshape(-1).cpu().double()
    if tie.shape != value.shape:
        refuse(f"ties[{name!r}]", tuple(ties[name].shape), f"{value.numel()} numbers")
    if not bool(torch.isfinite(tie).all()):
        raise NonFiniteError(f"ties[{name!r}] holds NaN or infinity")
    return tie


def _keep(score: Tensor, num_removed: int, floor: int, tie: Tensor | None, name: str) -> Tensor:
    size = score.numel()
    if num_removed > max(size - floor, 0):
        refuse("sparsity", f"{num_removed} of {size} in {name!r}", f"a floor of {floor} kept")
    mask = torch.ones(size, dtype=torch.bool)
    mask[order(score, tie)[size - num_removed :]] = False
    return mask


def _global(
    flat: dict[str, Tensor],
    budget: Sparsity,
    normalize: Normalization,
    floor: int,
    ties: dict[str, Tensor | None],
) -> dict[str, Tensor]:
    sizes = [v.numel() for v in flat.values()]
    num_removed = budget.count(sum(sizes))
    values, seconds, protected = [], [], []
    for name, score in flat.items():
        tie = ties[name]
        values.append(normalized(score, normalize, tie))
        seconds.append(normalized(tie, "mean") if tie is not None else torch.zeros_like(values[-1]))
        safe = torch.zeros(score.numel(), dtype=torch.bool)
        safe[order(score, tie)[:floor]] = True
        protected.append(safe)
    value, second, safe = torch.cat(values), torch.cat(seconds), torch.cat(protected)
    if num_removed > int((~safe).sum()):
        reachable = int((~safe).sum()) / sum(sizes)
        refuse(
            "sparsity",
            budget.value,
            f"at most {reachable:.4f} with a floor of {floor} in each of {len(flat)} communities",
        )
    ranked = order(value, second)
    ranked = ranked[~safe[ranked]]
    mask = torch.ones(sum(sizes), dtype=torch.bool)
    mask[ranked[len(ranked) - num_removed :]] = False
    return dict(zip(flat, torch.split(mask, sizes), strict=True))
