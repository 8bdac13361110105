"""What decides the outcome of a recovery, beside the models and the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from natsel.common.errors import refuse, refuse_together

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a recovery trains.

    Attributes:
        steps: of the optimizer.
        batch: samples of a step.
        samples: of all steps together, where the last one has fewer; None for whole steps.
        rows: samples that run together; their gradients add up.
        learning_rate: of AdamW, at its highest.
        warmup: share of the steps in which it rises from nothing; it falls as a cosine after them.
        kl: weight of the divergence from the teacher's logits.
        cross_entropy: weight of the cross-entropy of the labels.
        blocks: weight of the distance of block outputs.
        temperature: of the divergence.
        clip: greatest norm of the gradient; infinity for none.
        seed: of the order of the samples, of dropout, and of what is initialised.
        lora: rank of the adapters that are trained in place of the weights; None for these.
        autocast: "bfloat16", "float16" or None.
    """

    steps: int
    batch: int
    rows: int
    learning_rate: float
    warmup: float
    kl: float
    cross_entropy: float
    blocks: float
    temperature: float
    clip: float
    seed: int
    lora: int | None
    autocast: str | None
    samples: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "rows"):
            _check_count(name, getattr(self, name))
        if self.lora is not None:
            _check_count("lora", self.lora)
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 < value < math.inf:
                refuse(name, value, "a number above 0")
        for name in ("kl", "cross_entropy", "blocks"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < math.inf:
                refuse(name, value, "a number, 0 or more")
        if not _is_number(self.warmup) or not 0 <= self.warmup < 1:
            refuse("warmup", self.warmup, "a share of the steps in [0, 1)")
        if not _is_number(self.clip) or not self.clip > 0:
            refuse("clip", self.clip, "a number above 0; infinity for none")
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            refuse("seed", self.seed, "a whole number from 0 to 2**63 - 1")
        if self.autocast is not None and self.autocast not in PRECISIONS:
            refuse("autocast", self.autocast, f"None or one of {', '.join(PRECISIONS)}")
        weights = {n: getattr(self, n) for n in ("kl", "cross_entropy", "blocks")}
        if not any(weights.values()):
            refuse_together(weights, "at least one weight above 0")

    @property
    def num_samples(self) -> int:
        """How many samples all steps read together."""
        return self.steps * self.batch if self.samples is None else self.samples

    def size(self, step: int) -> int:
        """Return how many samples a step reads, counted from 0."""
        return min(self.batch, self.num_samples - step * self.batch)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0.

        Example:
            >>> from natsel.recovery.settings import usual
            >>> [round(usual(steps=4, warmup=0.5, learning_rate=1.0).rate(k), 3) for k in range(4)]
            [0.5, 1.0, 0.854, 0.146]
        """
        rising = math.ceil(self.warmup * self.steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        done = (step - rising + 0.5) / (self.steps - rising)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def usual(**given: object) -> Settings:
    """Return settings with the defaults that :func:`natsel.recover` has."""
    return Settings(**{**DEFAULTS, **given})  # type: ignore[arg-type]


DEFAULTS: dict[str, object] = {
    **{"steps": 100, "batch": 1, "rows": 1, "learning_rate": 3e-4, "warmup": 0.1},
    **{"kl": 1.0, "cross_entropy": 0.0, "blocks": 0.0, "temperature": 1.0, "clip": 1.0},
    **{"seed": 0, "lora": None, "autocast": None},
}


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        refuse(name, value, "a whole number >= 1")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
