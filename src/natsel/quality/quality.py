"""What a model is worth before and after, with intervals and a paired test."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from natsel.common.errors import NonFiniteError, choose, refuse
from natsel.common.intervals import (
    Interval,
    clustered_interval,
    paired_ratio,
    proportion_interval,
    ratio_interval,
)
from natsel.common.paired import mcnemar
from natsel.quality.losses import Losses

Measure = Literal["accuracy", "perplexity", "loss"]
MEASURES: tuple[Measure, ...] = ("accuracy", "perplexity", "loss")
DOUBLED = 2.0
"""Times the perplexity before from which on a warning says what would help."""

LARGEST = 700.0
"""Nats beyond which exp overflows, and a perplexity says nothing more."""


@dataclass(frozen=True)
class Paired:
    """The difference that a change made, sample by sample.

    Attributes:
        of: what is subtracted: "log-perplexity" (nats a token), "accuracy" or "loss".
        difference: after minus before.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: two-sided.
        test: the name of the test.
        n: how many pairs.
    """

    of: str
    difference: float
    low: float
    high: float
    p_value: float
    test: str
    n: int


@dataclass(frozen=True)
class Quality:
    """What a model is worth on held-out data; beside what it was before, if that is known.

    A token is no observation of its own, since those of one window depend on each other: intervals
    and the test are over windows, Student's on the scale of the loss, with a ratio's standard error
    by linearisation where windows hold different numbers of tokens. The mean of a perplexity is the
    exponential of the mean loss a token, and so are the ends of its interval.

    Attributes:
        measure: "accuracy", "perplexity" or "loss".
        before: mean, 95 % interval and number of samples of the model that it is compared with;
            None if it is compared with none.
        after: the same of the model itself.
        ratio: after over before; None where nothing is compared, or before is 0.
        paired: the difference over the same samples; None where nothing is compared.
    """

    measure: Measure
    before: Interval | None
    after: Interval
    ratio: float | None = None
    paired: Paired | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, with its summary."""
        return {
            "measure": self.measure,
            "before": self.before and self.before._asdict(),
            "after": self.after._asdict(),
            "ratio": self.ratio,
            "paired": self.paired and asdict(self.paired),
            "summary": self.summary(),
        }

    def summary(self) -> str:
        """Say it in words.

        Example:
            >>> found = Losses(torch.tensor([9.0, 10.0]), torch.tensor([5, 5]), torch.ones(2))
            >>> quality_of(found, measure="perplexity").summary()
            'perplexity 6.686 (1.876 to 23.82; 2 windows)'
        """
        what = "samples" if self.measure == "accuracy" else "windows"
        after = self._shown(self.after)
        if self.before is None or self.paired is None:
            return f"{self.measure} {after}; {self.after.n} {what})"
        pair = self.paired
        if self.measure == "perplexity":
            ends = [math.exp(min(x, LARGEST)) for x in (pair.difference, pair.low, pair.high)]
            change = "x {:.4g} ({:.4g} to {:.4g})".format(*ends)
        elif self.measure == "accuracy":
            change = f"{pair.difference:+.2%} ({pair.low:+.2%} to {pair.high:+.2%})"
        else:
            change = f"{pair.difference:+.4g} ({pair.low:+.4g} to {pair.high:+.4g})"
        return (
            f"{self.measure} {self._shown(self.before)}) -> {after}): {change}, "
            f"p = {pair.p_value:.2g}, {pair.test}, {pair.n} {what}"
        )

    def _shown(self, found: Interval) -> str:
        if self.measure == "accuracy":
            return f"{found.mean:.2%} ({found.low:.2%} to {found.high:.2%}"
        return f"{found.mean:.4g} ({found.low:.4g} to {found.high:.4g}"

    @property
    def doubled(self) -> bool:
        """Whether the perplexity more than doubled."""
        return self.measure == "perplexity" and self.ratio is not None and self.ratio > DOUBLED


def quality_of(after: Losses, before: Losses | None = None, *, measure: Measure) -> Quality:
    """Turn what models lose on some samples into what they are worth.

    Args:
        after: of the model, from :func:`natsel.quality.losses`.
        before: of the model it is compared with, on the same samples.
        measure: "accuracy", "perplexity" or "loss".

    Returns:
        Means with 95 % intervals; with ``before`` also their ratio and a paired comparison.

    Raises:
        ValueError: if the samples are not the same.
        NonFiniteError: if a loss is NaN or infinite.

    Example:
        >>> one = Losses(torch.tensor([9.0, 10.0, 11.0]), torch.full((3,), 5), torch.ones(3))
        >>> other = Losses(torch.tensor([10.0, 11.1, 12.0]), torch.full((3,), 5), torch.ones(3))
        >>> found = quality_of(other, one, measure="perplexity")
        >>> round(found.ratio, 3), found.paired.test
        (1.23, 'paired t-test over windows')

    Reference:
        W. G. Cochran, Sampling Techniques, 3rd edition, 1977, chapters 6 and 9;
        E. Miller, Adding Error Bars to Evals, arXiv 2411.00640, 2024.
    """
    choose("measure", measure, MEASURES)
    if before is not None and not torch.equal(before.counted, after.counted):
        told = f"{len(before.counted)} samples, {int(before.counted.sum())} labels"
        refuse("before", told, "the same samples with the same labels that count")
    if measure == "accuracy":
        return accuracy_of(after.correct, after.counted, None if before is None else before.correct)
    for name, found in (("model before", before), ("model", after)):
        if found is not None and not bool(torch.isfinite(found.total).all()):
            raise NonFiniteError(f"the loss of the {name} is NaN or infinite on held-out data")
    counted = after.counted.numpy()
    means = [ratio_interval(x.total.numpy(), counted) for x in (after, before) if x is not None]
    if measure == "perplexity":
        means = [_exponential(x) for x in means]
    if before is None:
        return Quality(measure, None, means[0])
    pair = paired_ratio(before.total.numpy(), after.total.numpy(), counted)
    of = "log-perplexity" if measure == "perplexity" else "loss"
    paired = Paired(
        of, pair.difference, pair.low, pair.high, pair.p_value, "paired t-test over windows", pair.n
    )
    ratio = _ratio(means[0].mean, means[1].mean)
    if measure == "perplexity":  # also where exp overflows
        ratio = math.exp(min(pair.difference, LARGEST))
    return Quality(measure, means[1], means[0], ratio, paired)


def accuracy_of(after: Tensor, counted: Tensor, before: Tensor | None = None) -> Quality:
    """Turn right predictions into an accuracy with its interval, and a paired comparison.

    One label a sample: Wilson's interval, and the exact McNemar test. Several, as in a window: the
    interval of a ratio over samples, and a paired t-test over them.

    Args:
        after: right predictions of each sample, ``[N]``.
        counted: labels of each sample, int64 ``[N]``.
        before: right predictions of another model on the same samples.

    Example:
        >>> right, all_of = torch.tensor([1, 1, 1, 0]), torch.ones(4).long()
        >>> accuracy_of(right, all_of).summary()
        'accuracy 75.00% (30.06% to 95.44%; 4 samples)'
    """
    single = bool((counted == 1).all())

    def interval(correct: Tensor) -> Interval:
        if single:
            return proportion_interval(int(correct.sum()), len(correct))
        return clustered_interval(correct.tolist(), counted.tolist())

    mean = interval(after)
    if before is None:
        return Quality("accuracy", None, mean)
    old = interval(before)
    if single:
        exact = mcnemar(after.bool(), before.bool())
        ends = (exact.difference, exact.low, exact.high, exact.p_value)
        paired = Paired("accuracy", *ends, "exact McNemar test", exact.n)
    else:
        pair = paired_ratio(before.tolist(), after.tolist(), counted.tolist())
        ends = (pair.difference, pair.low, pair.high, pair.p_value)
        paired = Paired("accuracy", *ends, "paired t-test over samples", pair.n)
    return Quality("accuracy", old, mean, _ratio(mean.mean, old.mean), paired)


def _ratio(after: float, before: float) -> float | None:
    return after / before if before else None


def _exponential(found: Interval) -> Interval:
    mean, low, high = (math.exp(min(x, LARGEST)) for x in found[:3])
    return Interval(mean, low, high, found.n)


def advice(found: Quality, *, data_aware: bool, compensated: bool) -> str | None:
    """Say what would help where the perplexity more than doubled; None where it did not.

    Args:
        found: what came of it.
        data_aware: whether what scored read data.
        compensated: whether survivors took over what the others did.
    """
    if not found.doubled:
        return None
    helps = []
    if not data_aware:
        helps.append("a scorer that reads data (joint, with --data)")
    if not compensated:
        helps.append("compensation (--compensate, with --data)")
    helps += ["a smaller cut", "recovery (natsel recover)"]
    return (
        f"the perplexity is {found.ratio:.3g} times what it was; what would help: "
        f"{', '.join(helps[:-1])} or {helps[-1]}"
    )
