"""What compensation did, told consumer by consumer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from natsel.common.errors import shortened
from natsel.extraction.consumers import Consumer

_WHEN = ("before", "fitted")


@dataclass(frozen=True)
class Absorbed:
    """What became of one consumer.

    Attributes:
        consumer: the weight that read removed populations.
        communities: whose.
        kept: how many of its inputs are left.
        removed: how many are gone.
        reason: why it was left as it is; empty if it was compensated.
        effective_rank: how many directions of the kept inputs were in use.
        rows: how many calibration rows (samples, places or tokens) it saw.
        unexplained: the share of what its output lacks that the kept inputs do not give, in the
            sample: 1 before compensation.
        error_before: squared error that removing leaves in its output over the calibration data,
            relative to the output without its bias; of a kernel, each tap alone. Where the output
            is added to a stream, the error of the sum: what was lost before it counts, too.
        error_after: the same after compensation, over samples that were held out: each is
            predicted from others. None where nothing could be held out, or of a file from before
            anything was.
        error_fitted: the same over the very samples that it was found on, which flatters.
        ridge: the penalty that was used.
        gap: of a weight that also adds what branches behind it had added, the last layer of these;
            the errors are those of the stream there.
    """

    consumer: str
    communities: tuple[str, ...]
    kept: int
    removed: int
    reason: str = ""
    effective_rank: float = 0.0
    rows: int = 0
    unexplained: float = 1.0
    error_before: float = 0.0
    error_after: float | None = 0.0
    error_fitted: float = 0.0
    ridge: float | None = None
    gap: str = ""

    @classmethod
    def left(cls, consumer: Consumer, reason: str) -> Absorbed:
        """Return what became of a consumer that was left as it is."""
        sizes = (len(consumer.kept), len(consumer.removed))
        return cls(consumer.tensor, consumer.communities, *sizes, reason=reason)


@dataclass(frozen=True)
class Compensation:
    """What compensation did, consumer by consumer.

    Attributes:
        consumers: one for each weight that read removed populations.
        tensors: names of all tensors that it changed.
        renormalized: how many BatchNorm layers were measured again.
    """

    consumers: tuple[Absorbed, ...]
    tensors: tuple[str, ...] = ()
    renormalized: int = 0

    @property
    def num_compensated(self) -> int:
        """How many consumers absorbed something."""
        return sum(not c.reason for c in self.consumers)

    def __repr__(self) -> str:
        return f"Compensation({shortened(self.summary())})"

    def summary(self) -> str:
        """Return what it did in one line, what was left as it is with the reason."""
        done = [c for c in self.consumers if not c.reason]
        gaps = [c for c in self.consumers if c.gap]
        text = f"compensated {len(done)} of {len(self.consumers)} consumers"
        if gaps:
            bridged = sum(not c.reason for c in gaps)
            text += f", {bridged} of {len(gaps)} where a stream has gaps"
        held = [c for c in done if c.error_after is not None]
        if held:
            before = median(c.error_before for c in held)
            after = median(c.error_after for c in held if c.error_after is not None)
            text += (
                f": held-out squared error in their outputs {before:.1%} -> {after:.1%} (median)"
            )
        elif done:
            before, after = (median(getattr(c, f"error_{w}") for c in done) for w in _WHEN)
            text += (
                f": squared error in their outputs {before:.1%} -> {after:.1%} (median, in the "
                "very samples that it was found on)"
            )
        if self.renormalized:
            text += f"; {self.renormalized} BatchNorm layers measured again"
        left = [f"{c.consumer} ({c.reason})" for c in self.consumers if c.reason]
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            text += f"; {len(left)} left as they are: {', '.join(left[:3])}{more}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as JSON holds it."""
        data = asdict(self)
        lines = [{**c, "communities": list(c["communities"])} for c in data["consumers"]]
        return {**data, "consumers": lines, "tensors": list(self.tensors)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Compensation:
        """Return what :meth:`to_dict` turned into plain data.

        Raises:
            ValueError: if a field is missing or unknown.
        """
        try:
            lines = [_line(line) for line in data["consumers"]]
            return cls(tuple(lines), tuple(data["tensors"]), data["renormalized"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no compensation: {error}") from None


def _line(data: Mapping[str, Any]) -> Absorbed:
    """Return one consumer; files from before anything was held out have the error in the sample."""
    line = {**data, "communities": tuple(data["communities"])}
    if "error_fitted" not in line:
        line |= {"error_fitted": line["error_after"], "error_after": None}
    return Absorbed(**line)
