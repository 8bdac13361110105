"""The gate test: a community is offered only after removing from it was shown to be masking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, call, outputs_of
from natsel.communities.broken import why_broken
from natsel.communities.community import Community, Rebinding, Refusal
from natsel.communities.program import Program
from natsel.communities.rebinding import REBOUND, alike, attempts, candidates, conflict, guesses
from natsel.communities.surgery import permute, reference, remove
from natsel.communities.trials import choices, stand_in

REMEDY = (
    "write sizes in forward as shapes of tensors, or as attributes of the module; or prune "
    "natsel.as_program(model, inputs), in which they can follow"
)


class Difference(NamedTuple):
    """How far two models are apart on the same inputs.

    Attributes:
        max_abs: the largest absolute difference over all outputs.
        max_rel: the same, relative to the largest absolute output.
        finite: whether all outputs are finite.
        same_shape: whether all outputs have the same shapes.
        scale: the largest absolute output.
    """

    max_abs: float
    max_rel: float
    finite: bool
    same_shape: bool
    scale: float = 0.0

    def within(self, tolerance: float) -> bool:
        """Tell whether the two agree to a relative tolerance."""
        return self.same_shape and self.finite and self.max_rel <= tolerance


def difference(first: nn.Module, second: nn.Module, inputs: Inputs) -> Difference:
    """Run two models on the same inputs and measure how far their outputs are apart."""
    return apart(outputs(first, inputs), outputs(second, inputs))


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the tensors in what a model returns, without gradients."""
    with torch.no_grad():
        return outputs_of(call(model, inputs))


def apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Difference:
    """Measure how far two lists of outputs are apart; the second is the scale."""
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return Difference(float("inf"), float("inf"), True, False)
    max_abs, scale, finite = 0.0, 0.0, True
    for a, b in zip(ours, theirs, strict=True):
        if not a.numel():
            continue
        a, b = a.detach().double(), b.detach().double()
        finite &= bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())
        max_abs = max(max_abs, float((a - b).abs().max()))
        scale = max(scale, float(b.abs().max()))
    return Difference(max_abs, max_abs / max(scale, 1e-30) if max_abs else 0.0, finite, True, scale)


def tolerance_for(model: nn.Module) -> float:
    """Return the relative tolerance that a model's precision allows."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if dtypes & {torch.bfloat16, torch.float16}:
        return 5e-2
    return 1e-9 if dtypes == {torch.float64} else 1e-4


NO_RUN = "the small model does not run"


@dataclass(frozen=True, eq=False)
class Trial:
    """What communities are tested on.

    Attributes:
        model: a copy of the model on which a wrong removal shows.
        inputs: its inputs.
        tolerance: how far outputs may be apart, relative to the largest.
    """

    model: nn.Module
    inputs: Inputs
    tolerance: float

    @cached_property
    def dense(self) -> list[Tensor]:
        """What the model returns."""
        return outputs(self.model, self.inputs)

    def unfit(self) -> str | None:
        """Return why nothing can be shown on this model, or None."""
        found = apart(outputs(self.model, self.inputs), self.dense)
        if not found.finite:
            return "nothing can be proven: outputs are not finite on the example inputs"
        if found.scale == 0:
            return "nothing can be proven: the model returns no tensor, or only zeros"
        if not found.within(self.tolerance):
            return "nothing can be proven: two runs on the same inputs differ (dropout in eval?)"
        return None

    def failure(self, communities: Sequence[Community]) -> str | None:
        """Return why removing is not masking, or None if it is."""
        if (number := conflict(communities)) is not None:
            return f"two communities would set the same number {number}"
        for community in communities:
            if not community.exact and (reason := self._mixing(community)) is not None:
                return reason
        scale = 0.0
        for survivors in choices(communities):
            try:
                small = remove(self.model, communities, survivors, share=True)
                ours = outputs(small, self.inputs)
                masked = reference(self.model, communities, survivors, share=True)
                found = apart(ours, outputs(masked, self.inputs))
            except Exception as error:  # noqa: BLE001 - a broken forward is what is looked for
                return f"{NO_RUN}: {why_broken(error)}"
            if not found.same_shape:
                return "removing changes the shape of an output"
            if not found.finite:
                return "removing makes outputs infinite or NaN"
            if not found.within(self.tolerance):
                return f"removing is not masking: outputs differ by {found.max_abs:.3g}"
            scale = max(scale, found.scale)
        return None if scale else "removing leaves only zeros in the outputs: they show nothing"

    def _mixing(self, community: Community) -> str | None:
        """Return that populations are told apart by more than what they own, or None."""
        order = torch.arange(community.size).roll(1)
        found = apart(outputs(permute(self.model, community, order), self.inputs), self.dense)
        if found.within(self.tolerance):
            return None
        return f"its populations cannot change places: outputs differ by {found.max_abs:.3g}"


def prove(
    model: nn.Module,
    communities: Sequence[Community],
    inputs: Inputs,
    *,
    casts: bool = False,
) -> tuple[list[Community], list[Refusal]]:
    """Keep the communities for which extracted equals masked; say why for the others.

    Each community loses several choices of its populations, alone and together with the others.
    Where ``forward`` uses a Python number that holds a size (a head count, say), numbers of that
    value in the modules around are rebound, and the rebinding is proven by the same comparison.

    Args:
        model: the model, in evaluation mode.
        communities: what was collected.
        inputs: what the model runs on.
        casts: whether ``forward`` names a floating-point type, which limits the precision.

    Returns:
        The proven communities, with the rebindings they need, and the refusals.
    """
    trial_model, trial_inputs = stand_in(model, communities, inputs)
    tolerance = tolerance_for(trial_model)
    trial = Trial(trial_model, trial_inputs, max(tolerance, 1e-4) if casts else tolerance)
    plain = list(communities)
    found = {c.name: candidates(model, c) for c in plain}
    # All at once first: that proves everything of most models.
    for guess in guesses(plain, found):
        failure = trial.failure(guess)
        if failure is None:
            return guess, []
        if not failure.startswith(NO_RUN):
            break
    if (reason := trial.unfit()) is not None:
        return [], [Refusal(c.name, c.size, reason) for c in communities]
    # The layers of one model are mostly alike: one trial for all of a kind instead of one each.
    likely: dict[str, Community] = {}
    for kind in REBOUND:
        members = [c for c in plain if c.kind == kind]
        solved = _solve(trial, members[0], found[members[0].name]) if members else None
        if isinstance(solved, Community):
            likely |= {c.name: alike(c, found[c.name], solved) for c in members}
    guess = [likely.get(c.name, c) for c in plain]
    if likely and trial.failure(guess) is None:
        return guess, []
    proven: list[Community] = []
    refused: list[Refusal] = []
    for community in guess:
        if community.name in likely and trial.failure([community]) is None:
            proven.append(community)
            continue
        result = _solve(trial, community, found[community.name])
        if isinstance(result, Community):
            proven.append(result)
        else:
            refused.append(result)
    together, clashing = _compatible(trial, proven)
    return together, refused + clashing


def _solve(trial: Trial, community: Community, found: tuple[Rebinding, ...]) -> Community | Refusal:
    """Return a community with the rebindings that make its removal exact, or why none do."""
    reason = ""
    for attempt in attempts(community, found):
        failure = trial.failure([attempt])
        if failure is None:
            return attempt
        reason = reason or failure
    remedy = "" if isinstance(trial.model, Program) else REMEDY
    return Refusal(community.name, community.size, reason, remedy)


def _compatible(
    trial: Trial, communities: Sequence[Community]
) -> tuple[list[Community], list[Refusal]]:
    """Keep communities that are exact together, too: refuse each that breaks with those before."""
    kept: list[Community] = []
    rest = list(communities)
    refused: list[Refusal] = []
    while rest and trial.failure(kept + rest) is not None:
        good, bad = 0, len(rest)
        while bad - good > 1:
            middle = (good + bad) // 2
            if trial.failure(kept + rest[:middle]) is None:
                good = middle
            else:
                bad = middle
        last = rest[good]
        why = trial.failure([*kept, *rest[: good + 1]])
        reason = f"removing it together with others is not masking ({why})"
        refused.append(Refusal(last.name, last.size, reason))
        kept, rest = kept + rest[:good], rest[good + 1 :]
    return kept + rest, refused
