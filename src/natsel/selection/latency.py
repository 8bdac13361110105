"""A budget of time: the small model is built and measured on this device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor, nn

from natsel.common.calls import Inputs
from natsel.common.errors import choose, refuse, refuse_together
from natsel.common.numbers import check_whole, is_number
from natsel.common.timing import WARM_UP, batch_of, median, time_in_turn
from natsel.communities import Communities
from natsel.communities.gates.gates import folded
from natsel.communities.surgery.surgery import remove
from natsel.selection.budget import Gauge, is_share, percent, rest
from natsel.selection.decoding import Decoding, prompt_of

NUM_STEPS = 8

Work = Literal["forward", "decode"]
"""What is timed: a pass over the example inputs, or one token more with a cache."""

WORDS = {"forward": "a forward pass", "decode": "a decoded token"}


@dataclass(frozen=True, repr=False)
class Latency:
    """At most so much time for a forward pass, or a decoded token, as measured: 0.7 keeps 70 %.

    It is measured on the device of the example inputs.

    The search builds and measures a small model at every step: medians of passes that alternate
    with those of the dense model. It stops within 1/256 of what may be removed, and what it
    returns was itself measured to meet the budget; another measurement differs by its noise.

    Attributes:
        share: the share of the dense model's time that stays, a float in (0, 1].
        ms: or milliseconds.
        batch_size: how many samples at once, repeated from the example inputs.
        repeats: passes of each model per measurement.
        of: "forward", a pass over the example inputs (of a language model that is the prefill), or
            "decode", one token of a causal language model whose cache holds some already.
        context: of "decode", how many it holds at first: the example's, over and over.

    Example:
        >>> Latency(0.5, batch_size=64)
        Latency(0.5): keeps 50 % of the time of a forward pass at batch 64
        >>> Latency(0.75, of="decode")
        Latency(0.75): keeps 75 % of the time of a decoded token at batch 1
    """

    share: float | None = None
    ms: float | None = None
    batch_size: int = 1
    repeats: int = 30
    of: Work = "forward"
    context: int = 128

    def __repr__(self) -> str:
        of = f"the time of {WORDS[self.of]}"
        given = f"ms={self.ms!r}" if self.share is None else repr(self.share)
        left = f"{self.ms} ms" if self.share is None else f"{percent(self.share)} of {of}"
        return f"Latency({given}): keeps {left} at batch {self.batch_size}"

    @classmethod
    def kept(
        cls, share: float, *, batch_size: int = 1, repeats: int = 30, of: Work = "forward"
    ) -> Self:
        """Return the budget that keeps a share of the time."""
        return cls(share, batch_size=batch_size, repeats=repeats, of=of)

    @classmethod
    def removed(
        cls, share: float, *, batch_size: int = 1, repeats: int = 30, of: Work = "forward"
    ) -> Self:
        """Return the budget that removes a share of the time."""
        return cls(rest(share, "latency"), batch_size=batch_size, repeats=repeats, of=of)

    @classmethod
    def decode(cls, share: float) -> Self:
        """Return the budget that keeps a share of the time of a decoded token.

        Example:
            >>> Latency.decode(0.75) == Latency(0.75, of="decode")
            True
        """
        return cls(share, of="decode")

    def __post_init__(self) -> None:
        if (self.share is None) == (self.ms is None):
            given = {"share": self.share, "ms": self.ms}
            refuse_together(given, "either a share or ms=, not both")
        if self.share is not None and not is_share(self.share):
            refuse("latency", self.share, "a share such as 0.5 in (0, 1], or ms=")
        if self.ms is not None and not (is_number(self.ms) and 0 < self.ms < math.inf):
            refuse("ms", self.ms, "a number of milliseconds > 0")
        for name in ("batch_size", "repeats", "context"):
            check_whole(name, getattr(self, name))
        choose("of", self.of, WORDS)

    def gauge(self, communities: Communities) -> Gauge:
        """Return how to measure the time that some survivors of a model take."""
        dense = folded(communities.model)
        batch = batch_of(communities.example_inputs, self.batch_size)

        def read(survivors: Mapping[str, Tensor]) -> float:
            small = remove(dense, communities.values(), survivors)
            models, timed = self._timed({"dense": dense, "small": small}, batch)
            times = time_in_turn(models, timed, repeats=self.repeats)
            found = {name: median(values).median for name, values in times.items()}
            return found["small"] if self.share is None else found["small"] / found["dense"]

        wanted = self.share if self.share is not None else self.ms
        assert wanted is not None
        unit = "ms" if self.share is None else "of the dense model's time"
        where = f"at batch {self.batch_size}"
        if self.of == "decode":
            where += " for a decoded token"
        return Gauge(
            name="latency" if self.share is not None else "ms",
            asked=wanted,
            limit=wanted,
            read=read,
            describe=lambda value: f"{value:.4g} {unit} {where}, as measured",
            num_steps=NUM_STEPS,
        )

    def _timed(
        self, models: dict[str, nn.Module], batch: Inputs
    ) -> tuple[dict[str, nn.Module], Inputs]:
        """Return what is run, and on what: the same work for a table and for the plan it finds."""
        if self.of == "forward":
            return models, batch
        room = WARM_UP + self.repeats
        tokens = prompt_of(models["dense"], batch, context=self.context, room=room)
        return {name: Decoding(m, tokens) for name, m in models.items()}, (tokens[:, :1],)
