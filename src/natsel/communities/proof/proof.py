"""The gate test: a community is offered only after removing from it was shown to be masking.

Everything is decided in float64 and relative to what the removal changes, whatever the size and
the precision of the model. Structure is proven where it is: a community in the smallest part of
the model that holds it, on weights and inputs on which a wrong removal shows, and once for all
parts that are built alike. Then pairs that meet in a tensor, and all together in the whole model.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn
from torch.export import ExportedProgram

from natsel.common.calls import Inputs
from natsel.communities.community import Community, Rebinding, Refusal
from natsel.communities.programs.program import Program
from natsel.communities.proof.jointly import (
    LEAST,
    RUNS_ALONE,
    RUNS_TOGETHER,
    WIDTHS,
    can_be_tried_together,
    exact_together,
    selections,
)
from natsel.communities.proof.likeness import Likeness, likeness
from natsel.communities.proof.loud import MAX_DOUBLE_ELEMENTS, Made
from natsel.communities.proof.parts import Part, Parts
from natsel.communities.proof.rebinding import attempts, candidates
from natsel.communities.proof.selections import alone, choices
from natsel.communities.proof.shrink import shrunk
from natsel.communities.proof.trial import Outcome, Stage

REMEDY = (
    "write sizes in forward as shapes of tensors, or as attributes of the module; or prune "
    "natsel.as_program(model, inputs), in which they can follow"
)

WRONG_INSIDE = "removing is not masking: a part of the model shows that a number does not follow"


def prove(
    model: nn.Module,
    communities: Sequence[Community],
    inputs: Inputs,
    program: ExportedProgram,
) -> tuple[list[Community], list[Refusal]]:
    """Keep the communities for which extracted equals masked; say why for the others.

    Where ``forward`` uses a Python number that holds a size (a head count, say), numbers of that
    value in the modules around are rebound, and the rebinding is proven by the same comparison.

    Args:
        model: the model, in evaluation mode.
        communities: what was collected.
        inputs: what the model runs on.
        program: the exported model, which tells what parts are alike.

    Returns:
        The proven communities, with the rebindings they need, and the refusals.
    """
    return _Proof(model, communities, inputs, Likeness(program)).run()


class _Proof:
    """What is known so far of the communities of one model."""

    def __init__(
        self,
        model: nn.Module,
        communities: Sequence[Community],
        inputs: Inputs,
        parts_alike: Likeness,
    ) -> None:
        self._model = model
        self._communities = list(communities)
        # Structure is tried on small pictures; all together on those given.
        few = inputs if isinstance(model, Program) else shrunk(model, inputs)
        self._parts = Parts(model, communities, few)
        self._known: dict[tuple[Any, ...], _Found] = {}
        self._clashes: dict[tuple[Any, ...], str | None] = {}
        self._exact: list[set[tuple[Any, ...]]] = []
        self._exact_in_whole: set[str] = set()
        self._proven_in: dict[str, Part] = {}
        self._numbers: dict[str, int] = {}
        self._likeness = parts_alike
        self._stages: dict[str, Stage] = {}
        is_large = sum(p.numel() for p in model.parameters()) > MAX_DOUBLE_ELEMENTS
        # As much as one copy of the model in float64, which of a large one is too much.
        self._made: Made | None = None if is_large else {}
        whole = self._parts.whole
        if few is not inputs:
            whole = Parts(model, (), inputs).whole
        # Of a large model no copy is made: its parts were tried on loud weights.
        self._as_tried = whole is self._parts.whole and not is_large
        self._whole = (
            self._stage(whole) if self._as_tried else Stage(whole, communities, faithful=is_large)
        )

    def run(self) -> tuple[list[Community], list[Refusal]]:
        """Return the proven communities and the refusals."""
        self._try_all_together()
        self._try_together()
        solved = [(c, self._solved(c)) for c in self._communities]
        proven, refused = self._sorted(solved)
        proven, clashing = self._without_clashes(proven)
        refused += clashing
        if self._as_tried and {c.name for c in proven} <= self._exact_in_whole:
            return proven, refused
        if self._is_exact(proven):
            return proven, refused
        # A number outside its part may have to follow, or what is exact alone is not together.
        proven, failed = self._sorted([(c, self._solved_whole(c)) for c in proven])
        proven, clashing = self._compatible(proven)
        return proven, refused + failed + clashing

    def _sorted(
        self, solved: Iterable[tuple[Community, Community | str]]
    ) -> tuple[list[Community], list[Refusal]]:
        proven: list[Community] = []
        refused: list[Refusal] = []
        remedy = "" if isinstance(self._model, Program) else REMEDY
        for community, found in solved:
            if isinstance(found, Community):
                proven.append(found)
            else:
                refused.append(Refusal(community.name, community.size, found, remedy))
        return proven, refused

    def _try_all_together(self) -> None:
        """Try all widths in the whole model at once, where their parts one by one take longer."""
        if self._made is None:
            return
        widths = [c for c in self._communities if c.kind in WIDTHS and can_be_tried_together(c)]
        apart: dict[tuple[Any, ...], int] = {}
        for community in widths:
            part = next(self._parts.around(community))
            apart[self._number(part), likeness(part.local(community))] = _num_modules(part)
        whole = self._parts.whole
        if RUNS_ALONE * sum(apart.values()) <= RUNS_TOGETHER * _num_modules(whole):
            return
        stage = self._stage(whole)
        self._exact_in_whole = stage.shown_together(widths, selections(widths)) or set()

    def _try_together(self) -> None:
        """Note of communities that are exact together in one part that nothing has to follow."""
        members: dict[tuple[Any, ...], dict[tuple[Any, ...], tuple[Part, Community]]] = {}
        for community in self._communities:
            part = next(self._parts.around(community))
            if can_be_tried_together(community) and community.name not in self._exact_in_whole:
                local = part.local(community)
                key = (self._number(part), likeness(local), frozenset[_Wrong]())
                members.setdefault(key[:1], {}).setdefault(key, (part, local))
        for there in members.values():
            part = next(iter(there.values()))[0]
            own = {local.name: key for key, (of, local) in there.items() if of is part}
            if len(own) < LEAST:
                continue
            chosen = [there[key][1] for key in own.values()]
            for names in exact_together(self._stage(part), chosen):
                self._exact.append({own[name][:2] for name in names})
                for name in names:
                    self._known[own[name]] = _Found((), "", frozenset())

    # One community.

    def _solved(self, community: Community) -> Community | str:
        """Return a community with the rebindings that make its removal exact, or why none do."""
        if community.name in self._exact_in_whole:
            self._proven_in[community.name] = self._parts.whole
            return community
        reason = ""
        wrong: list[tuple[Part, frozenset[Rebinding]]] = []
        for part in self._parts.around(community):
            local = part.local(community)
            known = frozenset(_Wrong.told(inner, bound, part) for inner, bound in wrong)
            key = (self._number(part), likeness(local), known)
            if key not in self._known:
                self._known[key] = self._rebindings(part, local, known)
            found = self._known[key]
            if found.rebindings is not None:
                self._proven_in[community.name] = part
                return part.outer(replace(local, rebindings=found.rebindings))
            reason = found.reason
            wrong += [
                (part, frozenset(part.outer(replace(local, rebindings=tuple(r))).rebindings))
                for r in found.wrong
            ]
        return reason

    def _solved_whole(self, community: Community) -> Community | str:
        """The same in the whole model, where it is not exact as it is."""
        if self._whole.outcome([community], alone(community)).reason is None:
            return community
        bare = replace(community, rebindings=())
        known = frozenset([_Wrong("", frozenset(community.rebindings))])
        found = self._rebindings(self._parts.whole, bare, known)
        if found.rebindings is None:
            return found.reason
        return replace(community, rebindings=found.rebindings)

    def _rebindings(self, part: Part, community: Community, wrong: frozenset[_Wrong]) -> _Found:
        """Return the fewest numbers that have to follow in a part, or why none suffice.

        Args:
            part: where they are tried.
            community: of the part.
            wrong: what smaller parts have shown to be wrong: a larger one can hide the error, for
                example in a softmax that is saturated by what enters it.
        """
        stage, reason = self._stage(part), ""
        shown: set[frozenset[Rebinding]] = set()
        for tried in attempts(community, candidates(part.module, community)):
            exact = []
            for number, attempt in enumerate(tried):
                if any(w.holds_of(attempt) for w in wrong):
                    continue
                outcome = stage.outcome([attempt], alone(attempt))
                if outcome.reason is None:
                    exact.append((_size(outcome), number))
                    continue
                reason = reason or outcome.reason
                if outcome.final:
                    shown.add(frozenset(attempt.rebindings))
            if exact:
                return _Found(tried[min(exact)[1]].rebindings, "", frozenset())
        return _Found(None, reason or WRONG_INSIDE, frozenset(shown))

    # Several communities.

    def _without_clashes(
        self, communities: Sequence[Community]
    ) -> tuple[list[Community], list[Refusal]]:
        """Refuse each that is not exact together with one before that owns places of its tensors.

        Those that meet in the whole model alone are tried there, all together.
        """
        met = self._meetings(communities)
        # All that meet in a part are cut there at once; who clashes is asked where that fails.
        unclear = {
            path for path, (part, pairs) in met.items() if not self._is_clear(part, pairs.values())
        }
        kept: list[Community] = []
        refused: list[Refusal] = []
        for community in communities:
            reason = next(
                (
                    reason
                    for first in kept
                    for path in unclear
                    if (first.name, community.name) in met[path][1]
                    and (reason := self._clash(met[path][0], first, community)) is not None
                ),
                None,
            )
            if reason is None:
                kept.append(community)
            else:
                refused.append(_clashing(community, reason))
        return kept, refused

    def _meetings(self, communities: Sequence[Community]) -> dict[str, _Meeting]:
        """Return, by the path of a part, which communities meet in tensors of it."""
        found: dict[str, _Meeting] = {}
        owners: dict[str, dict[str, Community]] = defaultdict(dict)
        for second in communities:
            mine = dict.fromkeys(s.tensor for s in second.slices)
            for first in {n: c for t in mine for n, c in owners[t].items()}.values():
                part = self._around_both(first, second)
                if part is not self._parts.whole:
                    meeting = found.setdefault(part.path, _Meeting(part, {}))
                    meeting.pairs[first.name, second.name] = first, second
            for tensor in mine:
                owners[tensor][second.name] = second
        return found

    def _around_both(self, first: Community, second: Community) -> Part:
        # A smaller part may return what the model does not, such as a width that is cut.
        both_hold = [self._proven_in[first.name].path, self._proven_in[second.name].path]
        around = self._parts.around(first)
        return next(p for p in around if all(p.holds(path) for path in both_hold))

    def _is_clear(self, part: Part, pairs: Iterable[tuple[Community, Community]]) -> bool:
        """Tell whether all communities that meet in a part are exact there together."""
        members = {c.name: part.local(c) for pair in pairs for c in pair}
        return self._clash_of(part, list(members.values())) is None

    def _clash(self, part: Part, first: Community, second: Community) -> str | None:
        return self._clash_of(part, [part.local(first), part.local(second)])

    def _clash_of(self, part: Part, members: list[Community]) -> str | None:
        alike = {(self._number(part), likeness(c)) for c in members if not c.rebindings}
        if len(alike) == len(members) and any(alike <= exact for exact in self._exact):
            return None
        key = (self._number(part), *((likeness(c), c.rebindings) for c in members))
        if key not in self._clashes:
            self._clashes[key] = self._stage(part).outcome(members, choices(members)).reason
        return self._clashes[key]

    def _is_exact(self, communities: Sequence[Community]) -> bool:
        return not communities or self._together(communities).reason is None

    def _together(self, communities: Sequence[Community]) -> Outcome:
        return self._whole.outcome(communities, choices(communities))

    def _compatible(
        self, communities: Sequence[Community]
    ) -> tuple[list[Community], list[Refusal]]:
        """Keep communities that are exact together: refuse each that breaks with those before."""
        kept: list[Community] = []
        rest = list(communities)
        refused: list[Refusal] = []
        while rest and not self._is_exact(kept + rest):
            good, bad = 0, len(rest)
            while bad - good > 1:
                middle = (good + bad) // 2
                if self._is_exact(kept + rest[:middle]):
                    good = middle
                else:
                    bad = middle
            last = rest[good]
            why = self._together([*kept, *rest[: good + 1]]).reason or "unknown"
            refused.append(_clashing(last, why))
            kept, rest = kept + rest[:good], rest[good + 1 :]
        return kept + rest, refused

    # Where they are tried.

    def _stage(self, part: Part) -> Stage:
        """Return the stage of a part; of a large model the last one and that of the whole stay."""
        if part.path not in self._stages:
            if self._made is None:
                whole = self._stages.get("")
                self._stages = {} if whole is None else {"": whole}
            local = [part.local(c) for c in self._communities if part in self._parts.around(c)]
            self._stages[part.path] = Stage(part, local, made=self._made)
        return self._stages[part.path]

    def _number(self, part: Part) -> int:
        if part.path not in self._numbers:
            self._numbers[part.path] = self._likeness.number(part)
        return self._numbers[part.path]


class _Meeting(NamedTuple):
    """Communities that own places of the same tensors.

    Attributes:
        part: the smallest that holds both of each pair.
        pairs: by their names.
    """

    part: Part
    pairs: dict[tuple[str, str], tuple[Community, Community]]


class _Wrong(NamedTuple):
    """Numbers in a smaller part that are wrong, whatever follows outside of it.

    Attributes:
        inside: where the names of its numbers begin, with a dot; empty if that is everywhere.
        rebindings: all that followed there.
    """

    inside: str
    rebindings: frozenset[Rebinding]

    @classmethod
    def told(cls, inner: Part, bound: frozenset[Rebinding], part: Part) -> _Wrong:
        """Say it with the names of a larger part."""
        rest = len(f"{part.path}." if part.path else "")
        inside = f"{inner.path}."[rest:] if inner.path != part.path and inner.path else ""
        return cls(inside, frozenset(replace(b, module=b.module[rest:]) for b in bound))

    def holds_of(self, attempt: Community) -> bool:
        """Tell whether an attempt does just this in the smaller part."""
        mine = (b for b in attempt.rebindings if f"{b.module}.".startswith(self.inside))
        return frozenset(mine) == self.rebindings


class _Found(NamedTuple):
    """What was found of a community in a part.

    Attributes:
        rebindings: the numbers that have to follow; None if no choice of them is exact.
        reason: why not.
        wrong: choices that are wrong wherever the part is.
    """

    rebindings: tuple[Rebinding, ...] | None
    reason: str
    wrong: frozenset[frozenset[Rebinding]]


def _num_modules(part: Part) -> int:
    return sum(1 for _ in part.module.modules())


def _size(outcome: Outcome) -> float:
    """Return the order of magnitude of an error: less than that is rounding."""
    return round(math.log10(max(outcome.relative, 1e-13)))


def _clashing(community: Community, why: str) -> Refusal:
    reason = f"removing it together with others is not masking ({why})"
    return Refusal(community.name, community.size, reason)
