r"""How far a branch moves its stream: from the stream before and after it, in one pass.

The influence of ShortGPT (Men et al., 2403.03853) is $1 - E[\cos(s, s + b)]$ over all places of
the stream s, to which the branch adds b. It sees directions alone: of how much the *loss* needs a
branch it says nothing, and nothing of what other branches make of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.batches import Data, inputs_for
from natsel.common.calls import call, without_cache
from natsel.common.errors import refuse
from natsel.common.modes import evaluating
from natsel.common.padding import without_padding
from natsel.communities import Communities
from natsel.communities.branches.branch import Branch, Sight
from natsel.communities.branches.sights import only_tensor
from natsel.fitness.depth.registry import BRANCH_SCORERS, BranchScorer, Criterion

Measure = Callable[[Tensor, Tensor], Tensor]
"""From the stream before and after, float64 ``[places, n]``, to a number for each place."""


def cosine(communities: Communities, data: Data, criterion: Criterion) -> dict[str, Tensor]:
    """Return 1 - the mean cosine of the stream before and after the branch (ShortGPT): ``[size]``.

    Args:
        communities: of branches.
        data: batches; no labels are read.
        criterion: not read.
    """
    return _measured(communities, data, _turned, "cosine")


def relative_norm(communities: Communities, data: Data, criterion: Criterion) -> dict[str, Tensor]:
    """Return the mean norm of what the branch adds over that of the stream before it: ``[size]``.

    Args:
        communities: of branches.
        data: batches; no labels are read.
        criterion: not read.
    """
    return _measured(communities, data, _grown, "relative-norm")


def _turned(before: Tensor, after: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(before, after, dim=1)


def _grown(before: Tensor, after: Tensor) -> Tensor:
    added, there = (after - before).square().sum(1), before.square().sum(1)
    return added.sqrt() / there.sqrt().clamp_min(1e-30)


def _measured(
    communities: Communities, data: Data, measure: Measure, scorer: str
) -> dict[str, Tensor]:
    model = communities.model
    watch = _Watch(communities, measure, scorer)
    count = 0
    with ExitStack() as stack, evaluating(model), without_cache(model), torch.no_grad():
        for handle in watch.handles(model):
            stack.callback(handle.remove)
        for batch in data:
            watch.begin()
            call(model, inputs_for(model, batch))
            count += 1
    if not count:
        refuse("data", "empty", "at least one batch")
    return {
        name: torch.stack([watch.mean(branch) for branch in community.branches])
        for name, community in communities.items()
    }


class _Watch:
    """Looks at streams while a model runs; what was compared is let go."""

    def __init__(self, communities: Communities, measure: Measure, scorer: str) -> None:
        self._measure = measure
        self._needs: dict[Branch, tuple[Sight, Sight]] = {}
        self._readers: dict[Sight, list[Branch]] = defaultdict(list)
        for community in communities.values():
            for branch in community.branches:
                other = branch.after or branch.adds
                if branch.before is None or other is None:
                    what = f"branches whose stream a module shows: {branch.name}'s none does"
                    refuse("scorer", scorer, f"{what}; loss needs none")
                self._needs[branch] = (branch.before, other)
                for sight in self._needs[branch]:
                    self._readers[sight].append(branch)
        self._sums = dict.fromkeys(self._needs, 0.0)
        self._counts = dict.fromkeys(self._needs, 0)
        self.begin()

    def begin(self) -> None:
        """Take notice of a new batch."""
        self._there: dict[Sight, tuple[nn.Module, Tensor]] = {}
        self._open = dict(self._needs)

    def handles(self, model: nn.Module) -> list[Any]:
        """Let modules tell what enters and leaves them."""
        return [self._handle(model.get_submodule(sight.path), sight) for sight in self._readers]

    def _handle(self, module: nn.Module, sight: Sight) -> Any:
        def enters(module: nn.Module, args: Any, named: Any) -> None:
            self._take(sight, module, (args, named))

        def leaves(module: nn.Module, _: Any, left: Any) -> None:
            self._take(sight, module, left)

        if sight.leaves:
            return module.register_forward_hook(leaves)
        return module.register_forward_pre_hook(enters, with_kwargs=True)

    def _take(self, sight: Sight, module: nn.Module, value: Any) -> None:
        seen = only_tensor(value)
        if seen is None:
            refuse("data", sight.path, "batches on which each module is called as it was before")
        # It may be written over in place before it is compared.
        self._there[sight] = (module, seen.clone())
        for branch in [b for b in self._readers[sight] if b in self._open]:
            before, other = self._open[branch]
            if before in self._there and other in self._there:
                del self._open[branch]
                self._compare(branch, self._there[before], self._there[other])
        needed = {s for pair in self._open.values() for s in pair}
        self._there = {s: held for s, held in self._there.items() if s in needed}

    def _compare(
        self, branch: Branch, before: tuple[nn.Module, Tensor], other: tuple[nn.Module, Tensor]
    ) -> None:
        rows = [
            without_padding(m, x, branch.axis).movedim(branch.axis, -1).flatten(0, -2).double()
            for m, x in (before, other)
        ]
        after = rows[1] if branch.after is not None else rows[0] + rows[1]
        found = self._measure(rows[0], after)
        self._sums[branch] += float(found.sum())
        self._counts[branch] += len(found)

    def mean(self, branch: Branch) -> Tensor:
        """Return the mean over all places of the stream that were seen."""
        if not self._counts[branch]:
            refuse("data", "no sample in any batch", "at least one sample")
        return torch.tensor(self._sums[branch] / self._counts[branch], dtype=torch.float64)


SCORERS: Mapping[str, Any] = {"cosine": cosine, "relative-norm": relative_norm}
for _name, _score in SCORERS.items():
    BRANCH_SCORERS.add(_name, BranchScorer(_name, _score))
