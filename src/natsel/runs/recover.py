"""Let a pruned model in a folder win back what it lost, and write what it became."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from natsel.common.errors import first_line, refuse
from natsel.common.files import json_last, read_json, sweep
from natsel.common.progress import Progress, silent
from natsel.common.texts import LENGTH, SAMPLES
from natsel.data import TEXTS
from natsel.data.corpus import names_text, read_corpus
from natsel.data.windows import check_windows, token_batches
from natsel.extraction.store import check_room
from natsel.integrations.transformers.tokenizers import has_tokenizer
from natsel.io import open_model, save
from natsel.io.opening import Opened
from natsel.pruning.texts import Reading, check_apart, read_text
from natsel.quality import Losses, measure_for, quality_of
from natsel.recovery import Recovered
from natsel.recovery import recover as recover_in_memory
from natsel.runs import environment
from natsel.runs.folder import alone, differing, plain
from natsel.runs.material import check_fit, check_own, check_source, cuts_of, found_tokenizer
from natsel.runs.splits import Splits, load_splits

KIND = "recover"
RESULT = "result.json"
CHECKPOINT = "checkpoint"
UNMEASURED = "nothing was measured: --held-out FILE names another text for that"


@dataclass(frozen=True, kw_only=True)
class RecoverConfig:
    """What learns from what, and how.

    Attributes:
        small: what ``natsel.open_model`` opens: a folder of ``natsel prune``, mostly.
        teacher: the same, of the dense model.
        data: a text (``.txt``, ``.jsonl``, ``.parquet``, a named one, ``hub:NAME``), the name of
            an image set, or ``module:name`` of a loader.
        held_out: a text to measure on; None for the end of a named one, or the test split of an
            image set.
        tokenizer: folder of the tokenizer, or ``hf:NAME``; None for that of the teacher, or else
            of the small model.
        tokens: places to read, see :func:`natsel.recover`; None for all data once.
        length: tokens of a window.
        samples: how many windows of the held-out text are measured on, spread evenly over it.
        batch: see :func:`natsel.recover`, as for all that follows.
        learning_rate: at its highest.
        kl: weight of the divergence.
        cross_entropy: weight of the labels.
        blocks: weight of the block outputs.
        temperature: of the divergence.
        lora: rank of adapters, or None.
        keep_zeros: whether zeros stay; None to decide.
        autocast: precision of the products, or None.
        control: also train the shape from its first weights.
        device: where.
        seed: of everything left to chance.
    """

    small: str
    teacher: str
    data: str
    held_out: str | None = None
    tokenizer: str | None = None
    tokens: int | None = None
    length: int = LENGTH
    samples: int = SAMPLES
    batch: int | None = None
    learning_rate: float = 3e-4
    kl: float = 1.0
    cross_entropy: float = 0.0
    blocks: float = 0.0
    temperature: float = 1.0
    lora: int | None = None
    keep_zeros: bool | None = None
    autocast: str | None = None
    control: bool = False
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_source(self.data)
        if self.held_out is not None:
            if not self.of_text:
                refuse("held_out", self.held_out, "None: an image set has a test split")
            check_source(self.held_out, argument="held_out")
        check_windows(self.length, self.samples)
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            refuse("device", self.device, f"a device that is there ({first_line(error)})")

    @property
    def of_text(self) -> bool:
        """Whether the data are text, or batches of a loader."""
        return names_text(self.data) or self.data in TEXTS or ":" in self.data


def recover(
    config: RecoverConfig, out: str | Path, *, resume: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    """Recover a model and write it, with ``result.json``, to a folder.

    While it runs the folder holds a checkpoint, written every five minutes and when interrupted.

    Args:
        config: what to do.
        out: the folder.
        resume: go on with what was stopped; of what is finished, return the result.
        progress: called after every step.

    Returns:
        The content of ``result.json``.

    Raises:
        ValueError: if an argument is not allowed, or the folder holds something else.
        NonFiniteError: if the loss becomes NaN or infinite; the last checkpoint stays.
        OSError: if there is no space left; the run can go on from its last checkpoint.
    """
    folder = Path(out)
    _check_out(folder, config, resume)
    with alone(folder):
        found = _check_out(folder, config, resume)
        if found is not None:
            return found
        sweep(folder, below=True)
        return _recover(config, folder, progress)


def _recover(config: RecoverConfig, folder: Path, progress: Progress) -> dict[str, Any]:
    small, teacher = (open_model(name, seed=config.seed) for name in (config.small, config.teacher))
    for opened in (small, teacher):
        opened.model.to(config.device)
    data, measured, tokenizer = (
        _text(config, teacher.model) if config.of_text else (*_images(config, small, teacher), None)
    )
    if config.tokenizer is None and has_tokenizer(config.small):
        tokenizer = None  # its own goes along
    held_out = None if measured is None else measured.batches
    done = recover_in_memory(
        small.model,
        teacher.model,
        data=data.batches,
        tokens=config.tokens,
        batch=config.batch,
        learning_rate=config.learning_rate,
        kl=config.kl,
        cross_entropy=config.cross_entropy,
        blocks=config.blocks,
        temperature=config.temperature,
        lora=config.lora,
        keep_zeros=config.keep_zeros,
        autocast=config.autocast,
        control=config.control,
        held_out=held_out,
        seed=config.seed,
        checkpoint=folder / CHECKPOINT,
        progress=progress,
    )
    result: dict[str, Any] = {
        "kind": KIND,
        "config": plain(asdict(config)),
        "model": small.description,
        "teacher": teacher.description,
        "settings": {**asdict(done.settings), "clip": repr(done.settings.clip)},
        "places": done.places,
        "quality": _quality(small.model, done, held_out),
        "text": cuts_of({"data": data, "held_out": measured}),
        "curve": done.curve,
        "control": done.control,
        "notes": [*done.notes, *(() if held_out is not None else (UNMEASURED,))],
        "summary": done.summary(),
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "out": str(folder),
    }
    with json_last(folder / RESULT, result):
        save(done.model.cpu(), folder, tokenizer=tokenizer, card=result)
    shutil.rmtree(folder / CHECKPOINT)
    return result


def _quality(model: nn.Module, done: Recovered, held_out: Any) -> dict[str, Any] | None:
    """Return what the model was worth, is, and what teacher and control are."""
    if not done.losses:
        return None
    measure = measure_for(model, held_out)
    found = quality_of(done.losses["after"], done.losses["before"], measure=measure).plain()

    def of(name: str) -> dict[str, Any] | None:
        each: Losses | None = done.losses.get(name)
        return each and dict(quality_of(each, measure=measure).plain()["after"])

    return {
        **found,
        "teacher": of("teacher"),
        "control": of("control"),
        "won_back": done.won_back,
    }


def _text(config: RecoverConfig, teacher: nn.Module) -> tuple[Reading, Reading | None, Any]:
    """Return windows of a text to learn from, those to measure on, and what cut them."""
    corpus = read_corpus(config.data)
    named = config.held_out
    if named is None and config.data in TEXTS:
        named = config.data
    held = None if named is None else read_corpus(named, argument="held_out", held_out=True)
    tokenizer: Any = None
    if corpus.documents or (held is not None and held.documents):
        tokenizer = found_tokenizer(config.tokenizer, (config.teacher, config.small), teacher)
    length, samples = config.length, config.samples
    learned = read_text(teacher, corpus, tokenizer, length=length, samples=None)
    check_own("data", learned, teacher)
    if learned.cut is not None and config.tokens is not None:
        learned = _shortened(learned, config.tokens)
    if held is None:
        return learned, None, tokenizer
    measured = read_text(
        teacher, held, tokenizer, argument="held_out", length=length, samples=samples
    )
    check_own("held_out", measured, teacher)
    check_apart(learned, measured)
    return learned, measured, tokenizer


def _shortened(learned: Reading, tokens: int) -> Reading:
    """Return the first windows of a text, no more than are read."""
    assert learned.cut is not None
    least = learned.cut.length - 1
    if tokens < least:
        refuse("tokens", tokens, f"at least one window, {least}, or a shorter length")
    rows = torch.cat([batch["input_ids"] for batch in learned.batches])[: math.ceil(tokens / least)]
    return replace(
        learned,
        batches=token_batches(rows),
        cut=replace(learned.cut, windows=len(rows), place="start"),
    )


def _images(config: RecoverConfig, *models: Opened) -> tuple[Reading, Reading]:
    splits: Splits = load_splits(config.data)
    for opened in models:
        check_fit(opened, splits)
    return Reading([splits.train]), Reading([splits.test])


def _check_out(folder: Path, config: RecoverConfig, resume: bool) -> dict[str, Any] | None:
    """Make sure that nothing but an earlier recovery is written over; return a finished one."""
    if not os.path.lexists(folder) or (folder.is_dir() and not _content(folder)):
        return None
    if not folder.is_dir():
        refuse("out", str(folder), "a folder")
    stopped = (folder / CHECKPOINT).is_dir()
    earlier = folder / RESULT
    result = read_json(earlier) if earlier.is_file() else None
    finished = isinstance(result, dict) and result.get("kind") == KIND
    if not stopped and not finished:
        refuse(
            "out", str(folder), "a new folder, or one of natsel recover: it holds something else"
        )
    check_room(folder, "out")
    if stopped:
        if not resume:
            refuse("out", str(folder), "a new folder, or --resume to go on with what was stopped")
        return None
    assert isinstance(result, dict)
    if not resume:
        return None
    if result.get("config") != plain(asdict(config)):
        told = differing(result.get("config"), plain(asdict(config)))
        refuse("out", str(folder), f"a new folder: this one holds another run{told}")
    return result


def _content(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if not p.name.startswith(".")]
