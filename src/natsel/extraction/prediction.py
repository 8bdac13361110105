"""What a selection will bring, said before it is carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from natsel.common.numbers import check_whole
from natsel.common.showing import html_table
from natsel.common.timing import Median, batch_of, median, time_in_turn
from natsel.common.wrappers import on_own_forward, unwrapped
from natsel.communities import Communities, Cost
from natsel.communities.gates.gates import folded
from natsel.communities.kinds import kind_of
from natsel.communities.surgery.surgery import remove
from natsel.extraction.verify import check_model, communities_of

CLEARLY_FASTER = 0.95
LITTLE_REMOVED = 0.9
GRANULARITY = 8
NUM_NAMED = 3
_HEAD = ("community", "kind", "kept", "of", "parameters saved", "MACs saved")
NOT_MEASURED = "latency: not measured (natsel.preview(..., measure=True) measures it)"


@dataclass(frozen=True)
class Line:
    """One community in a prediction.

    Attributes:
        name: of the community.
        kind: of its populations.
        kept: how many populations survive.
        size: how many there are.
        saved: what the model loses if this community alone loses its own.
    """

    name: str
    kind: str
    kept: int
    size: int
    saved: Cost


@dataclass(frozen=True)
class Timing:
    """How long the dense and the small model take, measured in turn.

    Attributes:
        batch_size: how many samples at once.
        dense: milliseconds.
        small: milliseconds.
        ratio: small to dense, of passes that were measured one after the other.
    """

    batch_size: int
    dense: Median
    small: Median
    ratio: Median

    @property
    def is_faster(self) -> bool:
        """Whether the small model is faster by 5 % at least, and not by chance."""
        return self.ratio.median < CLEARLY_FASTER and self.ratio.high < 1


@dataclass(frozen=True)
class Prediction:
    """What a selection will bring.

    Attributes:
        lines: one per community.
        dense: what the dense model costs.
        small: what the small model will cost, exactly.
        timings: one per batch size, if it was measured.
    """

    lines: tuple[Line, ...]
    dense: Cost
    small: Cost
    timings: tuple[Timing, ...] = ()

    def __repr__(self) -> str:
        kept, size = sum(line.kept for line in self.lines), sum(line.size for line in self.lines)
        said = [f"{kept:,} of {size:,} populations survive", *self._totals()]
        return f"Prediction({'; '.join([*said, *map(_timed, self.timings)])})"

    def _repr_html_(self) -> str:
        rows = (
            (n.name, n.kind, n.kept, n.size, n.saved.parameters, round(n.saved.macs))
            for n in self.lines
        )
        return html_table(_HEAD, rows, len(self.lines), self._below())

    def summary(self) -> str:
        """Return a table of the communities, the totals, and what was measured, as text."""
        rows: list[tuple[str, ...]] = [_HEAD]
        for line in self.lines:
            saved = (f"{line.saved.parameters:,}", f"{line.saved.macs:,.0f}")
            rows.append((line.name, line.kind, f"{line.kept}", f"{line.size}", *saved))
        return "\n".join([*_aligned(rows), *self._below()])

    def _below(self) -> list[str]:
        return [
            *self._totals(),
            *map(_timed, self.timings),
            *(self.slow_because(t) for t in self.timings if not t.is_faster),
            *(() if self.timings else (NOT_MEASURED,)),
        ]

    def _totals(self) -> list[str]:
        return [
            _total("parameters", self.dense.parameters, self.small.parameters),
            _total("MACs per sample", self.dense.macs, self.small.macs),
        ]

    def slow_because(self, timing: Timing) -> str:
        """Return the plain statement that a batch will not be faster, with the likely reasons."""
        reasons = []
        is_noisy = timing.ratio.median < CLEARLY_FASTER
        if is_noisy:
            reasons.append("the measurement varies too much (repeats= takes more passes)")
        left = self.small.macs / max(self.dense.macs, 1)
        if left > LITTLE_REMOVED:
            reasons.append(f"little was removed ({left:.0%} of the MACs are left)")
        faster = [t.batch_size for t in self.timings if t.is_faster]
        if any(size > timing.batch_size for size in faster):
            reasons.append(f"the batch is too small (it is faster at batch {max(faster)})")
        odd = [
            f"{line.name} keeps {line.kept}"
            for line in self.lines
            if line.kept < line.size and line.kept % GRANULARITY and kind_of(line.kind).rounded
        ]
        if odd:
            more = f" and {len(odd) - NUM_NAMED} more" if len(odd) > NUM_NAMED else ""
            named = ", ".join(odd[:NUM_NAMED]) + more
            reasons.append(f"widths that are no multiple of {GRANULARITY} ({named})")
        likely = "; ".join(reasons) or "its time is not spent on multiply-accumulates"
        verdict = "not measurably faster" if is_noisy else "not faster"
        return f"{verdict} on this device at batch {timing.batch_size}; likely because: {likely}"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Prediction:
        """Return the prediction that ``dataclasses.asdict`` turned into plain data, unmeasured.

        Raises:
            ValueError: if a field is missing or unknown.
        """
        try:
            lines = [Line(**{**line, "saved": Cost(**line["saved"])}) for line in data["lines"]]
            return cls(tuple(lines), Cost(**data["dense"]), Cost(**data["small"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no prediction: {error}") from None


@on_own_forward
def preview(
    model: nn.Module,
    survivors: Mapping[str, Tensor],
    *,
    communities: Communities | None = None,
    measure: bool = False,
    batch_sizes: Sequence[int] = (1, 64),
    repeats: int = 60,
) -> Prediction:
    """Say what a selection will bring, before it is carried out: costs, and measured latency.

    Parameters and multiply-accumulates are counted, not estimated. What a community saves is what
    the model loses if that community alone loses its own; where two meet in one tensor, savings
    overlap, so that they do not add up to the totals.

    Args:
        model: the model that the survivors' communities were found in, gated or not; it is not
            changed.
        survivors: from :func:`natsel.select` or ``Evolution.survivors``; or plain masks together
            with ``communities``.
        communities: what the survivors belong to, where they do not know it themselves.
        measure: build the small model and measure both in turn, on the device of the example
            inputs of the communities.
        batch_sizes: what to measure, repeated from the example inputs.
        repeats: passes of each model per batch size.

    Returns:
        The prediction; its ``summary()`` is a text to print.

    Raises:
        ValueError: if the survivors do not belong to the model, or an option is wrong.

    Example:
        >>> import natsel, torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> scores = natsel.score(natsel.discover(model, torch.zeros(1, 4)), "magnitude")
        >>> print(preview(model, natsel.select(scores, natsel.Parameters(0.5))).summary())
        community  kind    kept  of  parameters saved  MACs saved
        0          neuron     3   8                40          35
        parameters: 67 -> 27 (40.3%)
        MACs per sample: 56 -> 21 (37.5%)
        latency: not measured (natsel.preview(..., measure=True) measures it)
    """
    checked, known = communities_of(survivors, communities)
    base = folded(unwrapped(model))
    check_model(base, known)
    prediction = predicted(known, checked)
    if not measure:
        return prediction
    check_whole("repeats", repeats)
    for size in batch_sizes:
        check_whole("batch_sizes", size)
    models = {"dense": base, "small": remove(base, known.values(), checked)}
    timings = tuple(_measured(models, known, size, repeats) for size in batch_sizes)
    return replace(prediction, timings=timings)


def predicted(communities: Communities, survivors: Mapping[str, Tensor]) -> Prediction:
    """Return what a selection will cost, and what each community saves."""
    dense = communities.price()
    lines = []
    for name, mask in survivors.items():
        left = communities.price({name: mask})
        saved = Cost(dense.parameters - left.parameters, dense.macs - left.macs)
        kind = communities[name].kind
        lines.append(Line(name, kind, int(mask.sum()), mask.numel(), saved))
    return Prediction(tuple(lines), dense, communities.price(survivors))


def _measured(
    models: Mapping[str, nn.Module], communities: Communities, batch_size: int, repeats: int
) -> Timing:
    batch = batch_of(communities.example_inputs, batch_size)
    times = time_in_turn(models, batch, repeats=repeats)
    ratios = [s / d for d, s in zip(times["dense"], times["small"], strict=True)]
    return Timing(batch_size, median(times["dense"]), median(times["small"]), median(ratios))


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows as lines of columns, the first two to the left and numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _total(name: str, before: float, after: float) -> str:
    return f"{name}: {before:,.0f} -> {after:,.0f} ({after / max(before, 1):.1%})"


def _timed(timing: Timing) -> str:
    ratio = timing.ratio
    return (
        f"latency at batch {timing.batch_size}: {timing.dense.median:.3g} -> "
        f"{timing.small.median:.3g} ms, ratio {ratio.median:.2f} "
        f"[{ratio.low:.2f}, {ratio.high:.2f}]"
    )
