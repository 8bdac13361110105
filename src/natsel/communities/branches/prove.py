"""The gate test of branches: one is offered only where its removal was shown to be masking.

Masked is the model in which the gates of a branch are 0. It is compared in float64 with the model
whose modules are gone, on loud weights: once for all branches that are built alike, and then many
together. A block goes as a whole where that, too, was shown.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, call, outputs_of
from natsel.common.errors import first_line
from natsel.common.modes import evaluating
from natsel.communities.branches.branch import LEAST, Branch, mean_cost
from natsel.communities.branches.removal import blocks_around, shorten, shortening_of
from natsel.communities.community import Community, Refusal
from natsel.communities.copies import copied
from natsel.communities.proof.doubled import in_float64
from natsel.communities.proof.gap import Gap, gap
from natsel.communities.proof.loud import MAX_DOUBLE_ELEMENTS, loud, with_noise
from natsel.communities.tensors import tensors_of

NO_EFFECT = "removing it has no effect that shows in the outputs: nothing can be proven"


def prove_branches(
    model: nn.Module, communities: Sequence[Community], inputs: Inputs
) -> tuple[list[Community], list[Refusal]]:
    """Keep the branches for which extracted equals masked; say why for the others.

    Args:
        model: in evaluation mode; not changed.
        communities: of branches.
        inputs: what the model runs on.

    Returns:
        Communities of proven branches, with the blocks that go with them, and the refusals.
    """
    everyone = [b for c in communities for b in c.branches]
    if not everyone:
        return [], []
    trials = _Trials(model, everyone, inputs)
    reasons: dict[Branch, str | None] = {}
    known: dict[tuple[object, ...], str | None] = {}
    for branch in everyone:
        like = _likeness(model, branch)
        if like not in known:
            known[like] = trials.reason([branch])
        reasons[branch] = known[like]
    proven = [b for b in everyone if reasons[b] is None]
    whole = _with_blocks(model, proven, trials)
    if whole is None:
        for some in _halves(proven):
            if trials.reason(some) is not None:  # what is alike may still differ in a number
                for branch in some:
                    reasons[branch] = reasons[branch] or trials.reason([branch])
        whole = {b.name: b for b in everyone}
    refused = [
        Refusal(b.name, 1, f"removing is not masking: {why}")
        for b, why in reasons.items()
        if why is not None
    ]
    kept = []
    for community in communities:
        left = tuple(whole[b.name] for b in community.branches if reasons[b] is None)
        if len(left) >= LEAST:
            kept.append(replace(community, branches=left, size=len(left), cost=mean_cost(left)))
        else:
            refused += [Refusal(b.name, 1, "it is the only branch of its stream") for b in left]
    return kept, refused


class _Trials:
    """Removals that are tried on a loud copy of a model."""

    def __init__(self, model: nn.Module, branches: Sequence[Branch], inputs: Inputs) -> None:
        self.branches = branches
        self._inputs = inputs
        large = sum(p.numel() for p in model.parameters()) > MAX_DOUBLE_ELEMENTS
        # Of a large model no copy is made.
        self._model = with_noise(model, ()) if large else loud(model, ())
        self._dense = self._outputs(self._model)

    def reason(
        self, gone: Sequence[Branch], branches: Iterable[Branch] | None = None
    ) -> str | None:
        """Return why removing some branches is not masking; None if it is.

        Args:
            gone: those that go.
            branches: all of the model, with the blocks that go with them; by default none does.
        """
        closed = {name for b in gone for name in b.gates}
        same = {id(t): t for n, t in tensors_of(self._model).items() if n not in closed}
        masked = copied(self._model, same)
        with torch.no_grad():
            for name in closed:
                tensors_of(masked)[name].zero_()
        small = copied(self._model, {id(t): t for t in tensors_of(self._model).values()})
        try:
            known = list(self.branches if branches is None else branches)
            shorten(small, shortening_of(small, list(gone), known))
            found = gap(self._outputs(small), self._outputs(masked), self._dense)
        except Exception as error:  # noqa: BLE001 - whatever forward raises is the reason
            return f"the small model does not run ({first_line(error)})"
        return _why(found)

    def _outputs(self, model: nn.Module) -> list[Tensor]:
        with evaluating(model), torch.no_grad(), in_float64():
            return [x.clone() for x in outputs_of(call(model, self._inputs))]


def _why(found: Gap) -> str | None:
    if not found.same_shape:
        return "an output has another shape"
    if not found.within():
        return f"outputs differ by {found.error:.3g}"
    return None if found.visible else NO_EFFECT


def _likeness(model: nn.Module, branch: Branch) -> tuple[object, ...]:
    """Return what branches have in common that are built alike."""
    module = model.get_submodule(branch.holder)
    kinds = tuple(type(m) for m in module.modules())
    plain = (re.sub(r"\d+", "#", s.path) for s in branch.stands)
    return (*plain, tuple((s.zero, s.arity) for s in branch.stands), branch.scale, kinds)


def _halves(branches: Sequence[Branch]) -> list[list[Branch]]:
    if len(branches) < LEAST:
        return []
    return [list(branches[0::2]), list(branches[len(branches) // 2 :])]


def _with_blocks(
    model: nn.Module, branches: Sequence[Branch], trials: _Trials
) -> dict[str, Branch] | None:
    """Return branches with the blocks that go as a whole, inner ones first; by name.

    Lists of blocks that are built alike are tried once, and then many of all together: every
    second branch, and every branch of the later half. None if those are not exact.
    """
    able: dict[str, bool] = {}
    chosen = {b.name: "" for b in branches}
    for depth in range(1, 1 + max((len(blocks_around(model, b)) for b in branches), default=0)):
        inside: dict[str, list[Branch]] = defaultdict(list)
        for branch in branches:
            around = blocks_around(model, branch)
            if not chosen[branch.name] and len(around) >= depth:
                inside[around[-depth]].append(branch)
        for path, gone in inside.items():
            pattern = re.sub(r"\d+", "#", path)
            if pattern not in able:
                marked = {b.name: path if b in gone else "" for b in branches}
                able[pattern] = trials.reason(*_marked(gone, branches, marked)) is None
            if able[pattern]:
                chosen |= {b.name: path for b in gone}
    whole = {b.name: replace(b, block=chosen[b.name]) for b in branches}
    for some in _halves(list(whole.values())):
        if trials.reason(some, whole.values()) is not None:
            return None
    return whole


def _marked(
    gone: Sequence[Branch], branches: Sequence[Branch], blocks: Mapping[str, str]
) -> tuple[list[Branch], list[Branch]]:
    marked = {b.name: replace(b, block=blocks[b.name]) for b in branches}
    return [marked[b.name] for b in gone], list(marked.values())
