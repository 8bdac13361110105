"""Prompts read under a method, and whether what follows is the answer."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import natsel
from natsel_bench.live.jury import Jury
from natsel_bench.live.tasks import Document
from natsel_bench.live.ways import Way

QUESTIONS = ("after", "inside")
"""Whether the question comes when the prompt is thinned already, or is a part of it."""


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

    A prompt is read once, all but its last token and then that: every way judges this reading, and
    then reads the last token itself, at the end of which its entries leave. So nothing has left
    before the prompt was read, as in one call. The question (where it comes after) and the answer
    are read in one call while time stands still: that every token of the answer is the likeliest
    after those before it is what greedy generation does. Where the question is inside, the first
    token of the answer follows from the call at whose end entries leave, as it does when one
    generates.

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

    def shape(case: Document) -> tuple[int, ...]:
        return len(case.prompt), len(case.question), len(case.answer)

    with torch.no_grad():
        for _, group in groupby(cases, key=shape):
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
    new = torch.cat([asked, answer[:, :-1]], 1)
    jury = Jury(ways)
    with natsel.live(model, jury.method, natsel.Held(prompt.shape[1])):
        head = model(prompt[:, :-1], use_cache=True, **_last(model)).past_key_values
        whole = copy.deepcopy(head)
        model(prompt[:, -1:], past_key_values=head, use_cache=True)
    del head
    for number, way in enumerate(ways):
        cache = copy.deepcopy(whole)
        with way.on(model, jury.verdict(number)) as live:
            logits = model(prompt[:, -1:], past_key_values=cache, use_cache=True).logits
            share = live.num_bytes / live.num_bytes_whole
            if new.shape[1]:
                with live.paused():
                    after = model(new, past_key_values=cache, use_cache=True).logits
                logits = torch.cat([logits, after], 1)
        yield _judged(logits[:, -answer.shape[1] :].float(), answer, share)


def _judged(logits: Tensor, answer: Tensor, share: float) -> Answers:
    right = (logits.argmax(-1) == answer).all(-1)
    loss = F.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="none")
    return Answers(right.tolist(), loss.view(answer.shape).mean(-1).tolist(), [share] * len(answer))


def _last(model: Any) -> dict[str, Any]:
    """Return what spares the logits of all but the last token, where a decoder knows how."""
    known = inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in known else {}
