"""Decide in float64 whether a small model equals the masked one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from natsel.common.calls import Inputs, call, outputs_of
from natsel.common.errors import first_line
from natsel.common.memory import give_back
from natsel.common.modes import evaluating
from natsel.communities import Communities
from natsel.communities.copies import copied
from natsel.communities.proof.doubled import in_float64
from natsel.communities.proof.gap import TOLERANCE, Gap, apart, gap
from natsel.communities.proof.loud import loud, loud_input
from natsel.communities.proof.trial import NUM_TRIALS
from natsel.communities.surgery.logits import keep_logits
from natsel.communities.surgery.surgery import cut, kept_indices, reference, shortened_by
from natsel.communities.tables import without_tables
from natsel.communities.tensors import tensors_of
from natsel.communities.untouched import untouched
from natsel.extraction.verification import Verification
from natsel.selection import Survivors

STATE = "state"
"""What models of the transformers library call tensors that they return for the next call."""


@dataclass(frozen=True)
class Later:
    """A model that is made whenever it is to run, and held no longer.

    Attributes:
        make: makes it, the same each time.
    """

    make: Callable[[], nn.Module]


Model = nn.Module | Later
"""Of three large models that are compared, no more than two need be there at a time."""


def decide(
    base: nn.Module,
    masked: Model,
    small: Model,
    inputs: Inputs,
    *,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Compare a small model with the masked one on given inputs.

    Args:
        base: the dense model.
        masked: the same with what was removed masked.
        small: what was extracted.
        inputs: what all three run on.
        tolerance: of the difference, relative to the effect of the removal.

    Returns:
        What float64 says; the numbers in the model's own precision are NaN.
    """
    return _decided(_gap(base, masked, small, inputs), tolerance)


def decide_removal(
    base: nn.Module,
    masked: Model,
    small: Model,
    survivors: Survivors,
    known: Communities,
    inputs: Inputs,
    *,
    tolerance: float = TOLERANCE,
) -> Verification:
    """The same of populations; where removing them has no effect, also on louder weights.

    Extinct populations have no effect, nor has a branch of zeros: then equal outputs would say
    nothing about the structure. So the same structure is compared with other weights besides.

    Args:
        base: the dense model.
        masked: the masked one.
        small: what was extracted.
        survivors: what it was extracted for.
        known: the communities that they belong to.
        inputs: what all run on.
        tolerance: of the difference, relative to the effect of the removal.

    Returns:
        What float64 says.
    """
    found = _gap(base, masked, small, inputs)
    everybody = all(bool(mask.all()) for mask in survivors.values())
    if isinstance(found, str) or found.visible or everybody or not found.within(tolerance):
        return _decided(found, tolerance)
    owned = {part.tensor for community in known.values() for part in community.slices}
    for trial in range(NUM_TRIALS):
        loud_base = loud(base, owned, trial=trial)
        loud_masked = reference(loud_base, known.values(), survivors, share=True)
        loud_small = _with_tensors_of(_made(small), loud_base, survivors, known)
        for given in (_louder(inputs), inputs):
            louder = _gap(loud_base, loud_masked, loud_small, given)
            if not isinstance(louder, str) and louder.finite and louder.visible:
                return replace(_decided(louder, tolerance), effect=found.effect)
    return _decided(found, tolerance)


def with_own(decided: Verification, small: Model, masked: Model, inputs: Inputs) -> Verification:
    """Add by how much two models differ in their own precision, which decides nothing."""
    largest, relative = stated(small, masked, inputs)
    return replace(decided, max_abs_difference=largest, max_rel_difference=relative)


def stated(small: Model, masked: Model, inputs: Inputs) -> tuple[float, float]:
    """Return the largest difference of two models in their own precision, and relative to outputs.

    Where half precision overflows nothing can be told of it: those places are left out.

    Args:
        small: one model.
        masked: the other one, whose outputs are the scale.
        inputs: what both run on.
    """
    with torch.no_grad():
        ours, theirs = _outputs(small, inputs), _outputs(masked, inputs)
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return float("inf"), float("inf")
    found = [apart(a, b) for a, b in zip(ours, theirs, strict=True)]
    largest = max((difference for difference, _ in found), default=0.0)
    scale = max((size for _, size in found), default=0.0)
    return largest, largest / max(scale, 1e-30) if largest else 0.0


def _decided(found: Gap | str, tolerance: float) -> Verification:
    nan = float("nan")
    if isinstance(found, str):
        reason = f"it cannot be decided: the model does not run in float64 ({found})"
        return Verification(nan, nan, None, tolerance, False, precision=None, reason=reason)
    passed = found.within(tolerance)
    if passed:
        reason = ""
    elif not found.same_shape:
        reason = "an output has another shape"
    elif not found.finite:
        reason = "outputs are infinite or NaN"
    elif not found.visible:
        reason = f"outputs differ by {found.error:.3g} in float64, and the removal has no effect"
    else:
        reason = (
            f"outputs differ by {found.error:.3g} in float64, {found.relative:.3g} of what the "
            f"removal changes (allowed {tolerance:.3g})"
        )
    return Verification(
        max_abs_difference=nan,
        max_rel_difference=nan,
        max_abs_difference_float64=found.error,
        tolerance=tolerance,
        passed=passed,
        effect=found.effect,
        error=found.relative,
        reason=reason,
    )


def _gap(base: nn.Module, masked: Model, small: Model, inputs: Inputs) -> Gap | str:
    try:
        dense, theirs, ours = (_in_float64(model, inputs) for model in (base, masked, small))
    except Exception as error:  # noqa: BLE001 - whatever forward raises is the message
        return first_line(error)
    return gap(ours, theirs, dense)


def _in_float64(model: Model, inputs: Inputs) -> list[Tensor]:
    model = _made(model)
    # What a model keeps from call to call is neither to be read here nor to be left behind.
    with evaluating(model), without_tables(model), untouched(model), in_float64():
        return _compared(model, inputs)


def _made(model: Model) -> nn.Module:
    if not isinstance(model, Later):
        return model
    give_back()  # of the one before, whose tensors had other sizes
    return model.make()


def _outputs(model: Model, inputs: Inputs) -> list[Tensor]:
    model = _made(model)
    with evaluating(model), untouched(model):
        return _compared(model, inputs)


def _compared(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the tensors of an output, with what a state is for in place of the state.

    In a state that the library would take again populations that are gone have places too, and
    those that remain have moved. So it is handed back, and what follows from it is compared.
    """
    value = call(model, inputs)
    of_library = any(k.__module__.startswith("transformers.") for k in type(value).__mro__)
    if not (of_library and isinstance(value, Mapping) and STATE in value):
        return outputs_of(value)
    found = outputs_of({name: value[name] for name in value if name != STATE})
    given = {STATE: value[STATE]}
    again = model(**inputs, **given) if isinstance(inputs, dict) else model(*inputs, **given)
    return found + outputs_of({name: again[name] for name in again if name != STATE})


def _louder(inputs: Inputs) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    louder: Inputs = tree_map(lambda x: loud_input(x, generator), inputs)
    return louder


def _with_tensors_of(
    small: nn.Module, dense: nn.Module, survivors: Survivors, known: Communities
) -> nn.Module:
    """Return a copy of a small model with what remains of the tensors of another dense one."""
    tensors = tensors_of(dense)
    kept = kept_indices(known.values(), survivors, tensors)
    instead: dict[int, Tensor] = {}
    shortening = shortened_by(dense, known.values(), survivors)
    before = {shortening.renamed(name): name for name in tensors}
    for after, tensor in tensors_of(small).items():
        name = before.get(after, "")
        if name in tensors:
            value = cut(tensors[name], kept.get(name, {}))
            is_parameter = isinstance(tensor, nn.Parameter)
            instead[id(tensor)] = nn.Parameter(value, False) if is_parameter else value
    result = copied(small, instead)
    keep_logits(result, known.values(), survivors, kept)
    return result
