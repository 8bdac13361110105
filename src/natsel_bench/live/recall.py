"""A small decoder that recalls values by their keys: what it needs of its cache is known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from natsel.live_populations import Entries, Method
from natsel_bench.live.tasks import Document

NUM_KEYS = 24
BEGIN = 0
UNREAD = -100
LEARNT = 0.01
"""Loss at which an answer that is not the likeliest has become rare."""
VOCABULARY = 1 + 3 * NUM_KEYS
"""A token that begins, then keys, then the first and the second tokens of values."""


def recall_documents(count: int, *, num_pairs: int = 12, seed: int = 0) -> list[Document]:
    """Return lists of keys with values of two tokens, of which one is asked for.

    No token stands twice in a list, so that the answer is known, and so is who is needed: the
    entries of the pair that is asked. The asked pairs are spread evenly, the oldest first.

    Example:
        >>> (case,) = recall_documents(1, num_pairs=2)
        >>> len(case.prompt), case.prompt[1:4] == (*case.question, *case.answer)
        (7, True)
    """
    found = []
    for number in range(count):
        draw = random.Random(f"{seed} recall {number}")  # noqa: S311 - no secret
        starts = (1, 1 + NUM_KEYS, 1 + 2 * NUM_KEYS)
        parts = [draw.sample(range(start, start + NUM_KEYS), num_pairs) for start in starts]
        pairs = list(zip(*parts, strict=True))
        key, *value = pairs[number * num_pairs // count]
        prompt = (BEGIN, *(token for pair in pairs for token in pair))
        found.append(Document(prompt, (key,), tuple(value)))
    return found


def needed(case: Document) -> tuple[int, ...]:
    """Return where the key stands that is asked for, and its value.

    Example:
        >>> needed(Document((0, 5, 31, 51, 7, 40, 60), (7,), (40, 60)))
        (4, 5, 6)
    """
    at = case.prompt.index(case.question[0])
    return tuple(range(at, at + 1 + len(case.answer)))


def oracle(cases: Sequence[Document]) -> Method:
    """Return the method that knows what will be asked: the pair stays, then the newest.

    Args:
        cases: the rows of the one batch that it judges.
    """
    wanted = torch.tensor([needed(case) for case in cases])

    def score(entries: Entries) -> Tensor:
        places = wanted.to(entries.positions.device)[:, None, None, :]
        asked = (entries.positions[..., None] == places).any(-1)
        return entries.positions.double() + asked * len(cases[0].prompt) * 2.0

    return Method("oracle", score)


def recall_model(*, num_steps: int = 800, num_pairs: int = 12, seed: int = 0) -> Any:
    """Return a Llama of two layers that has learnt to recall, the same every time.

    Its lists begin with two pairs and grow. That long lists can only be told apart by their keys
    is what teaches it: with lists of two it finds other ways, and stays there.

    Args:
        num_steps: of training, with 64 lists each; 40 seconds on one core.
        num_pairs: of the longest lists.
        seed: of weights and lists; of 0, 1 and 2 one does not learn in 800 steps.

    Raises:
        RuntimeError: if it has not learnt.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=64,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                bos_token_id=BEGIN,
                eos_token_id=BEGIN,
            )
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    draws = torch.Generator().manual_seed(seed)
    for step in range(num_steps):
        rest = (num_steps - step) / num_steps
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 50, rest / 0.3)
        pairs = min(num_pairs, 2 + 2 * num_pairs * step // num_steps)
        lists = _lists(64, pairs, draws)
        logits = model(lists[:, :-1]).logits[:, 3 * pairs + 1 :]
        answers = lists[:, 3 * pairs + 2 :].clone()
        answers[:, 2::3] = UNREAD  # which key is asked next, nobody knows
        loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=UNREAD)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    if loss.item() > LEARNT:
        raise RuntimeError(f"not learnt in {num_steps} steps: the loss is {loss.item():.3f}")
    return model.eval()


def _lists(count: int, num_pairs: int, draws: torch.Generator) -> Tensor:
    """Return lists of pairs, and the same pairs once more in another order."""
    starts = (1, 1 + NUM_KEYS, 1 + 2 * NUM_KEYS)
    parts = [
        torch.rand(count, NUM_KEYS, generator=draws).argsort(-1)[:, :num_pairs] + start
        for start in starts
    ]
    pairs = torch.stack(parts, -1)
    order = torch.rand(count, num_pairs, generator=draws).argsort(-1)
    again = pairs.gather(1, order[..., None].expand_as(pairs))
    return torch.cat([torch.full((count, 1), BEGIN), pairs.flatten(1), again.flatten(1)], 1)
