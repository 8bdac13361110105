"""``natsel live``: what a thinned cache still knows, and what it costs, in one folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import natsel
from natsel.common.errors import choose, refuse
from natsel.common.files import write_atomic, write_json
from natsel.common.json_data import read_object
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.common.timing import one_thread
from natsel.data.text import raw_text
from natsel.live_populations import needs_of_heads
from natsel.runs import environment, folder
from natsel.runs.material import found_tokenizer
from natsel_bench.live.answering import QUESTIONS, answers
from natsel_bench.live.costs import costs
from natsel_bench.live.plateau import (
    pairs_of,
    perplexity_against_plain,
    recall_against_plain,
)
from natsel_bench.live.rows import READ_FROM, Parts, compared, perplexity_row, recall_row
from natsel_bench.live.tasks import TASKS, Document, continuations, documents, reader
from natsel_bench.live.told import markdown, sentences, tables
from natsel_bench.live.ways import FULL, Way, ways_of
from natsel_bench.texts import content_of

TEXT = "text"
"""The task whose answer is what follows in a text: its perplexity is read."""
WINDOWS = 8
"""Texts on which it is measured what each head needs."""
CONTINUED = 64
"""Tokens whose perplexity is read."""


def bench_live(
    model: str,
    out: str | Path,
    *,
    methods: Sequence[str] = ("newest", "key-norm", "snapkv", "evolution"),
    shares: Sequence[float] = (0.5, 0.75),
    tasks: Sequence[str] = ("needle", "keys", "copy", TEXT),
    questions: Sequence[str] = QUESTIONS,
    text: str | Path | None = None,
    num_documents: int = 24,
    length: int = 256,
    batch: int = 8,
    repeats: int = 3,
    seed: int = 0,
    tokenizer: str | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Thin the cache of a language model by each method, and ask what it still knows.

    Each task is read by the whole cache first; only those at which it reaches 80 % are asked of
    the methods. The hay is the second half of the text: the first is left to choose defaults on.
    Parts are kept one by one.

    Args:
        model: folder of a language model with its tokenizer.
        out: folder for parts and ``result.json``.
        methods: names, with options as ``snapkv+kernel=7``.
        shares: of the entries that go.
        tasks: names in ``TASKS``, and "text" for the perplexity of what follows.
        questions: "after" (the prompt is thinned before it is asked), "inside" (it is a part of
            the prompt), or both.
        text: a text file for hay, UTF-8; None for tinyshakespeare under ``NATSEL_DATA``.
        num_documents: cases of each task.
        length: tokens of a prompt.
        batch: documents side by side.
        repeats: rounds of the costs; 0 for none.
        seed: of the cases.
        tokenizer: a folder with one, where the model has none.
        resume: go on with what the folder holds.
        progress: called after every part.

    Returns:
        Rows of recall, perplexity and costs, and the comparisons of methods.

    Raises:
        ValueError: if an argument is not allowed.
    """
    for task in tasks:
        choose("tasks", task, (*TASKS, TEXT))
    for question in questions:
        choose("question", question, QUESTIONS)
    for argument, values in (("tasks", tasks), ("question", questions)):
        if not values or len(set(values)) != len(values):
            refuse(argument, list(values), "at least one, none of them twice")
    sizes = {"documents": num_documents, "length": length, "batch": batch}
    for argument, value in sizes.items():
        check_whole(argument, value)
    check_whole("repeats", repeats, 0)
    check_whole("seed", seed, 0)
    network, cases, windows = opened(model, text, tokenizer, tasks, num_documents, length, seed)

    measured: dict[float, Mapping[int, Tensor]] = {}

    def needs(share: float) -> Mapping[int, Tensor]:
        if share not in measured:
            progress(f"live: needs of heads at {share:g}", 0, 1)
            measured[share] = needs_of_heads(network, windows(), natsel.Sparsity(share))
        return measured[share]

    ways = ways_of(network, methods, shares, needs, length=length)
    target = Path(out)
    config = {
        **{"kind": "live", "model": model, "methods": list(methods), "shares": list(shares)},
        **{"tasks": list(tasks), "questions": list(questions)},
        **{"text": None if text is None else str(text), **sizes, "repeats": repeats, "seed": seed},
        "tokenizer": tokenizer,
    }
    with folder.claim(target, config, resume):
        folder.take(target, config)
        work = _Work(network, target, batch, progress)
        full = {task: work.parts(task, cases[task], {"full": FULL}, "after") for task in tasks}
        recall = {t: sum(full[t]["full"]["right"]) / num_documents for t in tasks if t != TEXT}
        read = [task for task in recall if recall[task] >= READ_FROM]
        rows, pairs, plateau, featured = [], [], [], pairs_of(ways)
        for question in questions:
            found = {t: work.parts(t, cases[t], ways, question) for t in read}
            rows += [recall_row(t, question, w, found[t], full[t]) for t in read for w in ways]
            pairs += compared(question, read, list(ways), found) if read else []
            plateau += recall_against_plain(question, featured, found) if read else []
        worth = []
        if TEXT in tasks:
            thinned = work.parts(TEXT, cases[TEXT], ways, "after")
            worth = [perplexity_row(way, thinned, full[TEXT]) for way in ways]
            plateau += perplexity_against_plain(featured, thinned)
        result = {
            "kind": "live",
            "config": config,
            "full": recall,
            "not_read": [task for task in recall if task not in read],
            "recall": rows,
            "over_tasks": pairs,
            "perplexity": worth,
            "plateau": plateau,
            "needs": {
                f"{share:g}": {str(layer): found.tolist() for layer, found in heads.items()}
                for share, heads in measured.items()
            },
            "costs": work.costs(next(iter(cases.values())), ways, repeats),
            **environment.record(git=True),
        }
        write_json(target / "result.json", result)
        write_atomic(target / "table.md", markdown(tables(result), sentences(result)).encode())
        progress("live: done", 1, 1)
        return result


class _Work:
    """What the parts of a run share; each part is kept when it is done."""

    def __init__(self, model: Any, out: Path, batch: int, progress: Progress) -> None:
        self._model, self._out, self._batch, self._progress = model, out, batch, progress

    def parts(
        self, task: str, cases: Sequence[Document], ways: dict[str, Way], question: str
    ) -> Parts:
        """Return what came of all cases under some ways."""
        total = math.ceil(len(cases) / self._batch)
        who = "full" if list(ways) == ["full"] else question
        found: dict[str, dict[str, list[Any]]] = {
            way: {"right": [], "loss": [], "bytes_share": []} for way in ways
        }
        for number in range(total):
            self._progress(f"live: {task}, {who}", number, total)
            kept = self._out / f"{task}-{who}-{number}.json"
            if not kept.is_file():
                some = cases[number * self._batch : (number + 1) * self._batch]
                made = answers(
                    self._model, some, list(ways.values()), question=question, batch=self._batch
                )
                write_json(kept, {w: vars(a) for w, a in zip(ways, made, strict=True)})
            for way, part in read_object(kept).items():
                for name, values in part.items():
                    found[way][name].extend(values)
        self._progress(f"live: {task}, {who}", total, total)
        return found

    def costs(
        self, cases: Sequence[Document], ways: dict[str, Way], repeats: int
    ) -> dict[str, Any] | None:
        """Return what the ways cost, and what it costs to look on."""
        if not repeats:
            return None
        kept = self._out / "costs.json"
        if not kept.is_file():
            prompt = torch.tensor([cases[0].prompt])
            nobody = {"nobody leaves 0": Way(next(iter(ways.values())).method, 0.0)}
            with one_thread():
                found = costs(
                    self._model, prompt, nobody | ways, repeats=repeats, progress=self._progress
                )
            write_json(kept, found)
        return read_object(kept)


def opened(
    model: str,
    text: str | Path | None,
    tokenizer: str | None,
    tasks: Sequence[str],
    count: int,
    length: int,
    seed: int,
) -> tuple[Any, dict[str, list[Document]], Callable[[], list[Tensor]]]:
    """Return a language model in evaluation mode, the cases of each task, and texts beside.

    The texts are read where needs of heads are measured: they are of the half that no case is of.

    Raises:
        ValueError: if the model is none, or the text cannot be read or is too short.
    """
    from natsel.io import open_model

    network = open_model(model).model.eval()
    if not hasattr(network, "generate"):
        refuse("model", model, "a language model of the transformers library")
    content = _content(text)
    read = reader(found_tokenizer(tokenizer, (model,), network))
    half = len(content) // 2
    hay = read(content[half:])
    shape = {"count": count, "length": length, "seed": seed}
    cases = {
        task: continuations(hay, num_more=CONTINUED, **shape)
        if task == TEXT
        else documents(task, read, hay, **shape)
        for task in tasks
    }
    return network, cases, partial(_windows, read, content[:half], length)


def _windows(read: Callable[[str], Sequence[int]], text: str, length: int) -> list[Tensor]:
    """Return texts of one length, spread evenly."""
    tokens = torch.tensor(read(text))
    most = len(tokens) // length
    if not most:
        refuse("text", f"{len(tokens)} tokens in its first half", f"at least {length}")
    starts = [i * most // WINDOWS * length for i in range(min(WINDOWS, most))]
    return [tokens[None, start : start + length] for start in starts]


def _content(text: str | Path | None) -> str:
    if text is None:
        return raw_text("tinyshakespeare")
    return content_of(text)
