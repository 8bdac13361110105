"""Extracted = masked: the comparison that every extraction has to pass."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, as_inputs, in_double
from natsel.common.errors import refuse
from natsel.common.wrappers import unwrapped
from natsel.communities import Communities
from natsel.communities.discover import evaluating
from natsel.communities.gates import folded, ungated_name
from natsel.communities.proof import Difference, difference
from natsel.communities.surgery import reference, remove, silence
from natsel.communities.tensors import tensors_of
from natsel.extraction.unstructured import check_masks, is_unstructured, masked_weights
from natsel.selection import Survivors

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
COARSE_TOLERANCE = 5e-2


class VerificationError(ArithmeticError):
    """The extracted model does not compute what the masked one does."""


@dataclass(frozen=True)
class Verification:
    """How far the extracted model is from the masked one.

    Attributes:
        max_abs_difference: largest absolute difference over all outputs, in the model's precision.
        max_rel_difference: the same, relative to the largest absolute output.
        max_abs_difference_float64: largest absolute difference when both run in float64; None
            where the model cannot.
        tolerance: what ``max_rel_difference`` may be.
        passed: whether it is, with outputs of one shape and finite.
        inexact_rel_difference: the same, to the network in which channels under a normalisation
            are masked instead of removed: what removing them changes; None if there are none.
    """

    max_abs_difference: float
    max_rel_difference: float
    max_abs_difference_float64: float | None
    tolerance: float
    passed: bool
    inexact_rel_difference: float | None = None

    def require(self) -> Verification:
        """Return itself.

        Raises:
            VerificationError: if it did not pass.
        """
        if not self.passed:
            raise VerificationError(
                f"the extracted model differs from the masked one by {self.max_abs_difference:.3g}"
                f" (relative {self.max_rel_difference:.3g}, allowed {self.tolerance:.3g})"
            )
        return self


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
    shapes = {ungated_name(n): t.shape for n, t in tensors_of(communities.model).items()}
    mine = tensors_of(model)
    for community in communities.values():
        for part in community.slices:
            found = tuple(mine[part.tensor].shape) if part.tensor in mine else None
            if part.tensor in shapes and found != tuple(shapes[part.tensor]):
                refuse(
                    "model",
                    f"{type(model).__name__} with {part.tensor} of shape {found}",
                    f"the model of the survivors, with shape {tuple(shapes[part.tensor])}",
                )


def verify(
    model: nn.Module,
    small: nn.Module,
    survivors: Mapping[str, Tensor],
    example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
    *,
    communities: Communities | None = None,
    tolerance: float | None = None,
) -> Verification:
    """Compare an extracted model with the masked one, in its own precision and in float64.

    The masked model is ``model`` with the weights that read removed populations set to 0; of masks
    of single weights, keyed by parameter, with those set to 0. Both run in evaluation mode; neither
    is changed.

    Args:
        model: the model that was extracted from.
        small: what ``extract`` returned.
        survivors: what it was extracted for.
        example_inputs: real or random inputs.
        communities: what the survivors belong to, where they do not know it themselves.
        tolerance: relative; by default 1e-5 in float32, 1e-10 in float64, 5e-2 below.

    Returns:
        The differences and whether they are within the tolerance.

    Raises:
        ValueError: if the survivors do not belong to the model.
    """
    inputs = as_inputs(example_inputs)
    base = folded(unwrapped(model))
    stated = None
    owner = communities if communities is not None else getattr(survivors, "communities", None)
    if owner is None and is_unstructured(base, survivors):
        masked = masked_weights(base, check_masks(base, survivors))
    else:
        checked, known = communities_of(survivors, communities)
        check_model(base, known)
        masked = reference(base, known.values(), checked)
        if any(not known[n].exact and not bool(mask.all()) for n, mask in checked.items()):
            stated = _compare(small, silence(base, known.values(), checked), inputs)
    found = _compare(small, masked, inputs)
    if tolerance is None:
        tolerance = _tolerance_of(model)
    exact = _in_float64(small, masked, inputs)
    return Verification(
        max_abs_difference=found.max_abs,
        max_rel_difference=found.max_rel,
        max_abs_difference_float64=exact.max_abs if exact is not None else None,
        tolerance=tolerance,
        passed=found.within(tolerance),
        inexact_rel_difference=stated.max_rel if stated is not None else None,
    )


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
    masked = reference(base, known.values(), survivors, share=True)
    compare(small, masked, known.example_inputs).require()


def compare(small: nn.Module, masked: nn.Module, inputs: Inputs) -> Verification:
    """Compare a small model with a masked one, in their own precision alone."""
    found = _compare(small, masked, inputs)
    tolerance = _tolerance_of(masked)
    return Verification(found.max_abs, found.max_rel, None, tolerance, found.within(tolerance))


def _tolerance_of(model: nn.Module) -> float:
    precisions = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return max((TOLERANCE.get(d, COARSE_TOLERANCE) for d in precisions), default=1e-5)


def _compare(small: nn.Module, masked: nn.Module, inputs: Inputs) -> Difference:
    with evaluating(small), evaluating(masked):
        return difference(small, masked, inputs)


def _in_float64(small: nn.Module, masked: nn.Module, inputs: Inputs) -> Difference | None:
    try:
        return _compare(copy.deepcopy(small).double(), masked.double(), in_double(inputs))
    except RuntimeError:
        # A model that fixes its own precision inside forward does not run in another one.
        return None
