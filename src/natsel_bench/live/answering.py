"""Prompts read under a method, and whether what follows is the answer."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import natsel
from natsel.live_populations import METHODS
from natsel.live_populations.cache.handle import LiveCache
from natsel_bench.live.tasks import Document

QUESTIONS = ("after", "inside")
"""Whether the question comes when the prompt is thinned already, or is a part of it."""

TAIL = 32
"""Tokens at the end of a prompt that are read anew by each method, with its own thinning."""


@dataclass(frozen=True)
class Way:
    """A method with its budget, and how it is told.

    Attributes:
        method: its name; "full" for the whole cache.
        share: of the entries that goes.
        options: of :func:`natsel.live`.
    """

    method: str
    share: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[LiveCache | None]:
        """Let it thin what a model reads."""
        if self.method == "full":
            yield None
            return
        with natsel.live(model, self.method, natsel.Sparsity(self.share), **self.options) as live:
            yield live

    @property
    def reads_all(self) -> bool:
        """Whether it has to see every query of a prompt, not only those of its end."""
        if self.method == "full":
            return False
        found = METHODS[self.method] if self.method in METHODS else None
        return found is None or found.every_call or max(found.window, 1) > TAIL


FULL = Way("full")


@dataclass(frozen=True)
class Answers:
    """What came of some documents.

    Attributes:
        right: whether each answer is the model's own greedy continuation, token for token.
        loss: of the answer's tokens in nats, a mean for each document.
        bytes_share: keys and values held when the prompt was read, of those of the whole cache.
    """

    right: list[bool]
    loss: list[float]
    bytes_share: list[float]


def answers(
    model: Any, cases: Sequence[Document], ways: Sequence[Way], *, question: str, batch: int = 8
) -> list[Answers]:
    """Read each prompt, thin it by each way, and see whether the answer follows.

    All but the last tokens of a prompt are read once for all ways that judge by the newest queries:
    nobody leaves before the call ends in which the last one comes, so that this changes nothing.
    The question (where it comes after) and the answer are read in one call while time stands still:
    that every token of the answer is the likeliest after those before it is what greedy generation
    does. Where the question is inside, the first token of the answer follows from the call at
    whose end entries leave, as it does when one generates.

    Args:
        model: a decoder of the transformers library.
        cases: what is asked.
        ways: how the cache is thinned.
        question: "after" or "inside".
        batch: documents side by side.

    Returns:
        What came of the documents, in their order, for each way.
    """
    found = [Answers([], [], []) for _ in ways]
    with torch.no_grad():
        for _, group in groupby(cases, key=lambda c: (len(c.prompt), len(c.question), len(c.answer))):
            same = list(group)
            for start in range(0, len(same), batch):
                part = same[start : start + batch]
                for into, out in zip(found, _of_batch(model, part, ways, question), strict=True):
                    into.right.extend(out.right)
                    into.loss.extend(out.loss)
                    into.bytes_share.extend(out.bytes_share)
    return found


def _of_batch(
    model: Any, cases: Sequence[Document], ways: Sequence[Way], question: str
) -> Iterator[Answers]:
    device = next(model.parameters()).device
    prompt, asked, answer = (
        torch.tensor([getattr(c, name) for c in cases], dtype=torch.int64, device=device)
        for name in ("prompt", "question", "answer")
    )
    if question == "inside":
        prompt, asked = torch.cat([prompt, asked], 1), asked[:, :0]
    tail = min(TAIL, prompt.shape[1] - 1)
    head = None
    if not all(way.reads_all for way in ways):
        head = model(prompt[:, :-tail], use_cache=True, **_last(model)).past_key_values
    for way in ways:
        with way.on(model) as live:
            if way.reads_all:
                read = model(prompt, use_cache=True, **_last(model))
            else:
                cache = copy.deepcopy(head)
                read = model(prompt[:, -tail:], past_key_values=cache, use_cache=True, **_last(model))
            share = 1.0 if live is None else live.num_bytes / live.num_bytes_whole
            new = torch.cat([asked, answer[:, :-1]], 1)
            logits = read.logits[:, -1:]
            if new.shape[1]:
                cache = read.past_key_values
                if live is None:
                    after = model(new, past_key_values=cache, use_cache=True).logits
                else:
                    with live.paused():
                        after = model(new, past_key_values=cache, use_cache=True).logits
                logits = torch.cat([logits, after], 1)
        yield _judged(logits[:, -answer.shape[1] :].float(), answer, share)


def _judged(logits: Tensor, answer: Tensor, share: float) -> Answers:
    right = (logits.argmax(-1) == answer).all(-1)
    loss = F.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="none")
    return Answers(
        right.tolist(), loss.view(answer.shape).mean(-1).tolist(), [share] * len(answer)
    )


def _last(model: Any) -> dict[str, Any]:
    """Return what spares the logits of all but the last token, where a decoder knows how."""
    known = inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in known else {}
