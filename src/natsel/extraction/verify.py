"""Extracted = masked: the comparison that every extraction has to pass."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, as_inputs
from natsel.common.errors import refuse
from natsel.common.wrappers import on_own_forward, unwrapped
from natsel.communities import Communities
from natsel.communities.gates.gates import folded
from natsel.communities.proof.gap import TOLERANCE
from natsel.communities.surgery.logits import unrounded
from natsel.communities.surgery.surgery import kept_indices, reference, remove, silence
from natsel.communities.tensors import tensors_of
from natsel.extraction.decide import Later, Model, decide, decide_removal, stated, with_own
from natsel.extraction.unstructured import check_masks, is_unstructured, masked_weights
from natsel.extraction.verification import Verification
from natsel.selection import Survivors


def communities_of(
    survivors: Mapping[str, Tensor], communities: Communities | None
) -> tuple[Survivors, Communities]:
    """Return survivors with the communities that they belong to, checked against each other.

    Raises:
        ValueError: if nobody knows the communities, or they do not fit.
    """
    known = communities if communities is not None else getattr(survivors, "communities", None)
    if known is None:
        refuse(
            "survivors",
            "masks without communities",
            "the result of natsel.select on natsel.score, or communities= beside the masks; "
            "of single weights only format='csr' makes something smaller",
        )
    checked = survivors if isinstance(survivors, Survivors) else Survivors(survivors, known)
    checked.check(known)
    return checked, known


def check_model(model: nn.Module, communities: Communities) -> None:
    """Make sure that communities were found in a model of this architecture.

    Raises:
        ValueError: if a tensor that they own is missing or has another shape.
    """
    shapes = {n: t.shape for n, t in tensors_of(communities.model).items()}
    mine = tensors_of(model)
    for community in communities.values():
        if lost := [n for b in community.branches for n in b.gates if n not in mine]:
            told = f"{type(model).__name__} without {lost[0]}"
            refuse("model", told, "the model of the survivors")
        for part in community.slices:
            found = tuple(mine[part.tensor].shape) if part.tensor in mine else None
            if part.tensor in shapes and found != tuple(shapes[part.tensor]):
                refuse(
                    "model",
                    f"{type(model).__name__} with {part.tensor} of shape {found}",
                    f"the model of the survivors, with shape {tuple(shapes[part.tensor])}",
                )


@on_own_forward
def verify(
    model: nn.Module,
    small: nn.Module,
    survivors: Mapping[str, Tensor],
    example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
    *,
    communities: Communities | None = None,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Compare an extracted model with the masked one, in float64, by what the removal changes.

    The masked model is ``model`` with the weights that read removed populations set to 0; of masks
    of single weights, keyed by parameter, with those set to 0. Both run in evaluation mode; neither
    is changed.

    Args:
        model: the model that was extracted from.
        small: what ``extract`` returned.
        survivors: what it was extracted for.
        example_inputs: real or random inputs.
        communities: what the survivors belong to, where they do not know it themselves.
        tolerance: of the difference in float64, relative to the effect of the removal.

    Returns:
        The differences and whether they are within the tolerance.

    Raises:
        ValueError: if the survivors do not belong to the model.
    """
    inputs = as_inputs(example_inputs)
    base = folded(unwrapped(model))
    owner = communities if communities is not None else getattr(survivors, "communities", None)
    if owner is None and is_unstructured(base, survivors):
        masked = masked_weights(base, check_masks(base, survivors))
        decided = decide(base, masked, small, inputs, tolerance=tolerance)
        return with_own(decided, small, masked, inputs)
    checked, known = communities_of(survivors, communities)
    return compare_removal(base, small, checked, known, inputs, tolerance=tolerance)


@on_own_forward
def compare_removal(
    base: nn.Module,
    small: Model,
    survivors: Survivors,
    known: Communities,
    inputs: Inputs,
    *,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Say what :func:`verify` does of a small model that may be made only while it runs.

    Args:
        base: the model that was extracted from, without gates.
        small: what was extracted.
        survivors: what it was extracted for.
        known: what they belong to.
        inputs: what both run on.
        tolerance: of the difference in float64, relative to the effect of the removal.
    """
    check_model(base, known)
    masked = Later(lambda: reference(base, known.values(), survivors, share=True))
    exact = _unrounded(base, small, survivors, known) if isinstance(small, nn.Module) else small
    decided = decide_removal(base, masked, exact, survivors, known, inputs, tolerance=tolerance)
    if any(not known[n].exact and not bool(mask.all()) for n, mask in survivors.items()):
        silent = Later(lambda: silence(base, known.values(), survivors, share=True))
        decided = replace(decided, inexact_rel_difference=stated(small, silent, inputs)[1])
    return with_own(decided, small, masked, inputs)


def with_masked_values(
    model: nn.Module, small: nn.Module, survivors: Survivors, names: Collection[str]
) -> nn.Module:
    """Return a copy of a small model in which some tensors are what extraction alone gives.

    Those that compensation changed, say: then the rest can be compared with the masked model.

    Args:
        model: the dense model.
        small: what was extracted from it, and changed.
        survivors: what it holds; they know their communities.
        names: of the tensors.

    Raises:
        ValueError: if the survivors do not belong to the model, or a name is unknown.
    """
    checked, known = communities_of(survivors, None)
    base = folded(unwrapped(model))
    check_model(base, known)
    plain = tensors_of(remove(base, known.values(), checked))
    result = copy.deepcopy(small)
    mine = tensors_of(result)
    with torch.no_grad():
        for name in names:
            if name not in mine or name not in plain or mine[name].shape != plain[name].shape:
                refuse("small", type(small).__name__, f"a model with {name} as extraction cuts it")
            mine[name].copy_(plain[name])
    return result


def confirm(base: nn.Module, small: nn.Module, survivors: Survivors, known: Communities) -> None:
    """Make sure of what decides in :func:`verify`, and leave out what it merely states.

    Args:
        base: the model that was extracted from, without gates.
        small: what was extracted.
        survivors: what it was extracted for.
        known: what they belong to.

    Raises:
        VerificationError: if the two differ on the communities' example inputs.
    """
    masked = Later(lambda: reference(base, known.values(), survivors, share=True))
    exact = _unrounded(base, small, survivors, known)
    decide_removal(base, masked, exact, survivors, known, known.example_inputs).require()


def _unrounded(
    base: nn.Module, small: nn.Module, survivors: Survivors, known: Communities
) -> nn.Module:
    """Return a small model without the rounding of what was multiplied when it was cut."""
    if not any(community.scaled for community in known.values()):
        return small
    kept = kept_indices(known.values(), survivors, tensors_of(base))
    return unrounded(base, small, known.values(), survivors, kept)


def compare(base: nn.Module, small: nn.Module, masked: nn.Module, inputs: Inputs) -> Verification:
    """Compare a small model with a masked one in float64, by what masking changes."""
    return decide(base, masked, small, inputs)
