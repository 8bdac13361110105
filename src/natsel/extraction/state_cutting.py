"""The state of an optimizer, cut like its parameters: with certainty, or refused by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from natsel.common.errors import first_line, refuse
from natsel.common.sharding.local import is_spread, spread_as, whole
from natsel.extraction.state_factors import are_means, factor
from natsel.extraction.state_layouts import Known, Layout, axes_of, layout_of_kind, layouts_of
from natsel.extraction.state_leaves import PLAIN, Leaf, Move, Part, leaves_of, replaced

REMEDY = (
    "make a new optimizer for the small model, or drop this state first: "
    "optimizer.state.pop(parameter)"
)
QUANTISED = (torch.uint8, torch.int8)


class StateCut:
    """What remains of the state of all parameters of one optimizer.

    What a tensor is follows from its class where it is known (``KNOWN``), else from its shape and
    from the shapes of the same key of other parameters. Where that leaves a doubt about a
    parameter that shrinks, the optimizer is refused.

    Args:
        label: what to call the optimizer in messages.
        known: of its keys.
        states: the state of each parameter.
        total: how many numbers all parameters of the optimizer have.
    """

    def __init__(
        self,
        label: str,
        known: Mapping[str, Known],
        states: Sequence[tuple[Move, Mapping[Any, Any]]],
        *,
        total: int = 0,
    ) -> None:
        self._label = label
        self._known = known
        self._leaves: dict[tuple[str, str], Leaf] = {}
        self._by_path: dict[str, list[Leaf]] = defaultdict(list)
        for move, state in states:
            for path, value in leaves_of(state):
                if isinstance(value, Tensor):
                    leaf = Leaf(move, path, value)
                    self._leaves[move.name, path] = leaf
                    self._by_path[path].append(leaf)
                    if value.numel() == total > move.old.numel():
                        self._refuse(leaf, "as large as all parameters together")
                elif move.kept and not isinstance(value, PLAIN):
                    self._unknown(move, path, value)

    def of(self, move: Move, state: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return what remains of the state of one parameter.

        Raises:
            ValueError: naming the optimizer, the parameter, the key and the shape.
        """
        if not move.kept:
            return dict(state)

        def at(path: str, value: Tensor) -> Tensor:
            leaf = self._leaves[move.name, path]
            try:
                return self._cut(leaf)
            except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
                self._refuse(leaf, f"that cannot be indexed ({first_line(error)})")

        return {key: replaced(value, at, str(key)) for key, value in state.items()}

    def _cut(self, leaf: Leaf) -> Tensor:
        value, move = leaf.value, leaf.move
        known = self._known.get(leaf.path)
        if value.numel() == 1 or (known is not None and known.kind == "constant"):
            return value
        if value.dtype in QUANTISED or value.is_quantized:
            self._refuse(leaf, f"of {value.dtype}, whose scales are elsewhere")
        layout = self._layout(leaf, known)
        if layout is None:
            return value
        part = Part.of(layout, move)
        summed = known is not None and known.kind == "sum"
        if part.gram and not summed:
            self._refuse(leaf, "a matrix of one axis with itself: of a statistic or of its root?")
        if part.missing and not summed:
            if is_spread(value):
                self._refuse(leaf, "a statistic over an axis that shrinks, spread over processes")
            return self._factored(leaf, part, layout, known)
        if not part.places:
            return value
        # Of state that is spread over processes, one tensor at a time is gathered.
        result = whole(value).detach()
        for dim, index in part.places.items():
            result = result.index_select(dim, index.to(value.device))
        result = result.contiguous()
        return result if move.new is None else spread_as(result, move.new)

    def _layout(self, leaf: Leaf, known: Known | None) -> Layout | None:
        """Return which axes a leaf has, None where it has none of the parameter's."""
        shape, mine = tuple(leaf.move.old.shape), tuple(leaf.value.shape)
        if known is not None and known.kind != "sum":
            layout = layout_of_kind(known.kind, mine, len(shape))
            if layout is None or layout not in layouts_of(mine, shape):
                self._refuse(leaf, f"not what {leaf.path!r} has")
            return layout
        holders = self._by_path[leaf.path]
        if self._constant(holders):
            return None
        alike = [h for h in holders if h.move.old.dim() == len(shape) and h.value.numel() > 1]
        found = layouts_of(mine, shape)
        for other in alike:
            found &= layouts_of(other.value.shape, other.move.old.shape)
        if not found:
            self._refuse(leaf, "which its axes do not explain")
        first, *others = sorted(found, key=str)
        part = Part.of(first, leaf.move)
        if not all(part.same_as(Part.of(other, leaf.move)) for other in others):
            self._refuse(leaf, "which may be either axis")
        return first

    @staticmethod
    def _constant(holders: Sequence[Leaf]) -> bool:
        """Tell whether a key has one shape everywhere, which no parameter's axes explain."""
        shapes = {tuple(h.value.shape) for h in holders}
        return (
            len(shapes) == 1
            and any(not layouts_of(h.value.shape, h.move.old.shape) for h in holders)
            and len({tuple(h.move.old.shape) for h in holders}) > 1
        )

    def _factored(self, leaf: Leaf, part: Part, layout: Layout, known: Known | None) -> Tensor:
        """Return what remains of a statistic over an axis that shrinks."""
        if (axis := self._averaged(leaf, layout)) is not None:
            for other in self._partners(leaf, known):
                theirs = self._layout(other, self._known.get(other.path))
                across = self._averaged(other, theirs) if theirs is not None else None
                if across is None or across == axis:
                    continue
                if known is not None or are_means(leaf, axis, other, across):
                    return factor(leaf, part, axis, other, across)
        self._refuse(leaf, "a statistic over an axis that shrinks: a mean, a sum or a maximum?")

    def _partners(self, leaf: Leaf, known: Known | None) -> list[Leaf]:
        if known is not None:
            found = self._leaves.get((leaf.move.name, known.partner))
            return [] if found is None else [found]
        others = (o for (name, _), o in self._leaves.items() if name == leaf.move.name)
        return [o for o in others if o is not leaf and o.value.numel() > 1 and self._told(o)]

    def _told(self, leaf: Leaf) -> bool:
        """Tell whether the layout of a leaf is known without a doubt."""
        try:
            return self._layout(leaf, self._known.get(leaf.path)) is not None
        except ValueError:
            return False

    @staticmethod
    def _averaged(leaf: Leaf, layout: Layout) -> int | None:
        """Return the one axis that a leaf lacks, None if it lacks none or several."""
        shape = leaf.move.old.shape
        lacks = [axis for axis in range(len(shape)) if axis not in axes_of(layout)]
        spans = [span for span in layout if span is not None]
        if len(lacks) != 1 or any(stop - first > 1 for first, stop in spans):
            return None
        return lacks[0] if len(set(spans)) == len(spans) else None

    def _refuse(self, leaf: Leaf, why: str) -> NoReturn:
        refuse("optimizer", self._label, f"state that can be cut; {leaf.words}, {why}. {REMEDY}")

    def _unknown(self, move: Move, path: str, value: object) -> NoReturn:
        what = f"state {path!r} of {move.name} is a {type(value).__name__}"
        refuse("optimizer", self._label, f"state that can be cut; {what}. {REMEDY}")
