"""One trial: a part of a model with and without some of its populations, in float64."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from natsel.common.calls import outputs_of
from natsel.common.memory import give_back
from natsel.communities.community import Community
from natsel.communities.copies import copied
from natsel.communities.proof.broken import why_broken
from natsel.communities.proof.doubled import in_float64
from natsel.communities.proof.gap import TOLERANCE, VISIBLE, Gap, gap
from natsel.communities.proof.influence import influences, is_masked_by_zeros
from natsel.communities.proof.loud import MAX_DOUBLE_ELEMENTS, Made, loud, loud_input, with_noise
from natsel.communities.proof.parts import Part
from natsel.communities.proof.rebinding import conflict
from natsel.communities.proof.settled import is_deep, settle
from natsel.communities.surgery.surgery import permute, reference, remove
from natsel.communities.tensors import tensors_of

NO_RUN = "the small model does not run"
SILENT = "removing has no effect that shows in the outputs: nothing can be proven"
UNSTEADY = "nothing can be proven: two runs on the same inputs differ (dropout in eval?)"
NUM_TRIALS = 4
"""How many copies with other weights are tried where nothing shows."""

FEW_LEFT = 2
"""Of so few that do not show, each is sooner tried alone than all on other weights."""

LOUDER = 64.0
"""How much larger a tensor is where what reads with it was not heard."""

NUM_LOOKS = 2
"""In how many selections it is looked whether a community shows among others."""


class Outcome(NamedTuple):
    """What a trial showed.

    Attributes:
        reason: why removing is not masking; None if it is.
        relative: the largest error, relative to the effect of the removal.
        silent: whether no removal had an effect that shows.
        final: whether no larger part can show otherwise: all that is returned differs.
    """

    reason: str | None
    relative: float = float("inf")
    silent: bool = False
    final: bool = False


class Stage:
    """A model, or a part of it, on which removals are tried.

    Args:
        part: what is tried.
        communities: of the part, with their names in it.
        faithful: try the weights and inputs as they are first, but for constants.
        made: loud parameters that the stages of one model share, see :func:`loud`.
    """

    def __init__(
        self,
        part: Part,
        communities: Iterable[Community],
        *,
        faithful: bool = False,
        made: Made | None = None,
    ) -> None:
        self._part = part
        self._owned = {s.tensor for c in communities for s in c.slices}
        self._faithful = faithful
        self._made = made
        self._copies: dict[int, _Copy] = {}

    def outcome(
        self, communities: Sequence[Community], selections: Iterable[Mapping[str, Tensor]]
    ) -> Outcome:
        """Remove populations and compare with the masked part.

        Args:
            communities: of the part.
            selections: survivors of some of them, each tried.

        Returns:
            What it showed on the first copy of the part on which anything shows.
        """
        if (number := conflict(communities)) is not None:
            return Outcome(f"two communities would set the same number {number}")
        chosen = list(selections)
        found = Outcome(SILENT, silent=True)
        for level in range(NUM_TRIALS + self._faithful):
            copy = self._copy(level)
            if (reason := copy.unfit) is not None:
                found = Outcome(reason) if found.reason == SILENT else found
                continue
            found = copy.outcome(communities, chosen)
            if not found.silent:
                break
        if found.reason is not None or self._faithful or len(communities) > 1:
            return found
        # What is heard in one way alone can be wrong in another one, behind a threshold, say, that
        # nothing passes on these weights.
        unheard = copy.unheard(communities[0], chosen[0])
        for other in (copy.louder(unheard), self._own) if unheard else ():
            if other.unfit is None:
                shown = other.outcome(communities, chosen)
                if shown.reason is not None and shown.relative < float("inf"):
                    return shown
        return found

    def shown_together(
        self, communities: Sequence[Community], selections: Iterable[Mapping[str, Tensor]]
    ) -> set[str] | None:
        """Remove populations of all and compare with the masked part; see whose removal shows.

        Args:
            communities: of the part.
            selections: survivors of all of them, each tried.

        Returns:
            The names of those that make a difference on some copy of the part, to which the error
            is as small as it must be; None if any selection is not exact on any copy.
        """
        chosen = list(selections)
        shown: set[str] = set()
        for level in range(NUM_TRIALS + self._faithful):
            copy = self._copy(level)
            if copy.unfit is not None:
                continue
            found = copy.shown_together(communities, chosen, shown)
            if found is None:
                return None
            shown |= found
            if len(communities) - len(shown) <= FEW_LEFT:
                break
        return shown

    def _copy(self, level: int) -> _Copy:
        if level not in self._copies:
            if self._faithful and level == 0:
                copy = with_noise(self._part.module, self._owned)
            else:
                trial = level - self._faithful
                copy = loud(self._part.module, self._owned, trial=trial, made=self._made)
            self._copies[level] = _Copy(copy, self._part)
            is_loud = not (self._faithful and level == 0)
            if is_loud and (level > self._faithful or is_deep(copy)):
                self._copies[level].settle()
        return self._copies[level]

    @cached_property
    def _own(self) -> _Copy:
        """The weights as they are, but for constants, in float64: what is cut may be scaled."""
        model = with_noise(self._part.module, self._owned)
        wide = {
            id(t): nn.Parameter(t.detach().double()) if isinstance(t, nn.Parameter) else t.double()
            for t in tensors_of(model).values()
            if t.is_floating_point()
        }
        return _Copy(copied(model, wide), self._part)


class _Copy:
    """A copy of a part with the inputs that it is tried on."""

    def __init__(self, model: nn.Module, part: Part) -> None:
        self._model = model
        self._part = part
        self._is_large = sum(p.numel() for p in model.parameters()) > MAX_DOUBLE_ELEMENTS
        self._given = (part.args, part.kwargs)
        self._inputs = self._given

    def outcome(
        self, communities: Sequence[Community], selections: Iterable[Mapping[str, Tensor]]
    ) -> Outcome:
        found = self._outcome(communities, selections)
        if found.reason is None or found.silent or self._repeats:
            return found
        return Outcome(UNSTEADY)

    def _outcome(
        self, communities: Sequence[Community], selections: Iterable[Mapping[str, Tensor]]
    ) -> Outcome:
        relative, effect, visible = 0.0, 0.0, False
        for survivors in selections:
            try:
                found = self._gap(communities, survivors)
            except Exception as error:  # noqa: BLE001 - a broken forward is what is looked for
                return Outcome(f"{NO_RUN}: {why_broken(error)}")
            if not found.same_shape:
                return Outcome("removing changes the shape of an output")
            if not found.finite:
                return Outcome("removing makes outputs infinite or NaN")
            if not found.within():
                return Outcome(
                    f"removing is not masking: outputs differ by {found.error:.3g}",
                    found.relative,
                    final=not found.agrees,
                )
            relative, effect = max(relative, found.relative), max(effect, found.effect)
            visible |= found.visible
        if not visible:
            return Outcome(SILENT, silent=True)
        for community in communities:
            if not community.exact and (reason := self._mixing(community, effect)) is not None:
                return Outcome(reason)
        return Outcome(None, relative)

    def shown_together(
        self,
        communities: Sequence[Community],
        selections: Iterable[Mapping[str, Tensor]],
        known: Collection[str],
    ) -> set[str] | None:
        if self._is_large:
            # Gradients would hold all of its weights in float64.
            return None
        shown: set[str] = set()
        remade: set[str] = set()
        try:
            for number, survivors in enumerate(selections):
                smaller = remove(self._model, communities, survivors, share=True)
                remade |= _with_other_code(self._model, smaller)
                small = self._outputs(smaller)
                twin = reference(self._model, communities, survivors, share=True)
                masked = self._outputs(twin)
                found = gap(small, masked, self._dense)
                if not found.within():
                    return None
                # What does not show in the first ones shows on no other of these weights.
                if number < NUM_LOOKS and len(shown) + len(known) < len(communities):
                    moved = influences(twin, self._model, communities, survivors, self._outputs)
                    least = VISIBLE * max(float(x.abs().max()) for x in masked if x.numel())
                    for name, heard in moved.items():
                        value = min(heard.values(), default=0.0)
                        if value > least and found.error <= TOLERANCE * value:
                            shown.add(name)
        except Exception:  # noqa: BLE001 - a broken forward is what is looked for
            return None
        # Code that is another one as soon as anything of a module is cut can make up for what the
        # removal of one community alone breaks there.
        return shown - {c.name for c in communities if _is_in(c, remade)}

    def unheard(self, community: Community, survivors: Mapping[str, Tensor]) -> set[str]:
        """Return what reads a community and does not move the outputs, of several that do read it.

        Where it is masked otherwise than by zeros in what reads it, nobody asks, nor of a large
        model as a whole: its own weights are tried in any case.
        """
        readers = {part.tensor for part in community.silenced}
        if self._is_large or len(readers) < 2 or not is_masked_by_zeros(community):
            return set()
        twin = reference(self._model, [community], survivors, share=True)
        least = VISIBLE * max((float(x.abs().max()) for x in self._dense if x.numel()), default=0)
        moved: Mapping[str, Mapping[str, float]] = {}
        with suppress(Exception):  # operators that have no gradients
            moved = influences(twin, self._model, [community], survivors, self._outputs)
        heard = moved.get(community.name, {})
        return {name for name in readers if not heard.get(name, 0.0) > least}

    def louder(self, names: Collection[str]) -> _Copy:
        """Return a copy in which some tensors are many times as large."""
        same = {id(t): t for n, t in tensors_of(self._model).items() if n not in names}
        model = copied(self._model, same)
        with torch.no_grad():
            for name in names:
                tensors_of(model)[name].mul_(LOUDER)
        return _Copy(model, self._part)

    def settle(self) -> None:
        """Let normalisations hold the statistics of what passes through them here."""
        self._inputs = self._loud_inputs()
        with suppress(Exception):  # what does not run is found unfit
            settle(self._model, lambda: self._outputs(self._model))

    @cached_property
    def unfit(self) -> str | None:
        """Why nothing can be shown on this copy, or None; chooses the inputs."""
        reason = None
        for inputs in (self._loud_inputs(), self._given):
            self._inputs = inputs
            if (reason := self._unfit()) is None:
                break
        return reason

    def _unfit(self) -> str | None:
        self.__dict__.pop("_dense", None)
        try:
            dense = self._dense
        except Exception as error:  # noqa: BLE001 - whatever forward raises is the message
            return f"nothing can be proven in float64: {why_broken(error)}"
        if not dense or not any(bool(x.any()) for x in dense):
            return "nothing can be proven: the model returns no tensor, or only zeros"
        if not gap(dense, dense, dense).finite:
            return "nothing can be proven: outputs are not finite on the example inputs"
        return None

    @cached_property
    def _repeats(self) -> bool:
        """Whether two runs on the same inputs give the same."""
        return gap(self._outputs(self._model), self._dense, self._dense).within()

    def _loud_inputs(self) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(0)
        louder: tuple[Any, Any] = tree_map(
            lambda x: loud_input(x, generator) if isinstance(x, Tensor) else x, self._given
        )
        return louder

    @cached_property
    def _dense(self) -> list[Tensor]:
        return self._outputs(self._model)

    def _outputs(self, model: nn.Module, *, gradients: bool = False) -> list[Tensor]:
        args, kwargs = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, self._inputs)
        with in_float64(), torch.set_grad_enabled(gradients):
            return outputs_of(model(*args, **kwargs))

    def _gap(self, communities: Sequence[Community], survivors: Mapping[str, Tensor]) -> Gap:
        small = self._outputs(remove(self._model, communities, survivors, share=True))
        if self._is_large:
            give_back()  # of the small one, whose tensors had other sizes
        masked = self._outputs(reference(self._model, communities, survivors, share=True))
        return gap(small, masked, self._dense)

    def _mixing(self, community: Community, effect: float) -> str | None:
        """Return that populations are told apart by more than what they own, or None."""
        order = torch.arange(community.size).roll(1)
        moved = self._outputs(permute(self._model, community, order))
        found = gap(moved, self._dense, self._dense)
        if found.same_shape and found.finite and found.error <= TOLERANCE * effect:
            return None
        return f"its populations cannot change places: outputs differ by {found.error:.3g}"


def _with_other_code(dense: nn.Module, small: nn.Module) -> set[str]:
    """Return the paths of modules that have another class in a small model."""
    kinds = {path: type(module) for path, module in dense.named_modules()}
    return {path for path, module in small.named_modules() if type(module) is not kinds.get(path)}


def _is_in(community: Community, paths: Collection[str]) -> bool:
    """Tell whether some of what a community owns is in one of some modules."""
    heads = tuple(f"{path}." if path else "" for path in paths)
    return any(part.tensor.startswith(heads) for part in community.slices)
