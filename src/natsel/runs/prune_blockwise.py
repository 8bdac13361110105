"""Prune a folder block by block, from the command line: data by name, and what came of it."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from natsel.common.errors import refuse, refuse_together
from natsel.common.files import write_atomic, write_json
from natsel.common.importing import names_own
from natsel.common.progress import Progress, silent
from natsel.data import TEXTS
from natsel.data.corpus import Corpus, names_text, read_corpus
from natsel.features.scorers import reads_data
from natsel.integrations.model_card import CARD_FILE
from natsel.integrations.transformers.streamed import open_folder
from natsel.pruning.texts import Reading, check_apart, read_text
from natsel.quality import advice
from natsel.runs import environment
from natsel.runs.folder import alone
from natsel.runs.material import check_own, cuts_of, found_tokenizer
from natsel.runs.own_data import own_corpus
from natsel.runs.prune import KIND, RESULT, PruneConfig, parse_budget
from natsel.runs.splits import SPLIT_SEED
from natsel.streaming import PrunedFolder
from natsel.streaming.prune import pruning

UNMEASURED = "no perplexity was measured: --held-out FILE names another text for that"


def prune_blockwise(
    config: PruneConfig,
    out: str | Path,
    *,
    cache: str | Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Prune a model that may be larger than memory, from a folder to a folder.

    Args:
        config: what to prune, and how.
        out: an empty folder for the small model, or one that is made.
        cache: a folder for hidden states and notes; a killed run goes on from there.
        progress: called between the blocks.

    Returns:
        What was removed, as plain data with the keys of ``natsel prune`` as far as they exist, and
        ``peak_memory`` in bytes.

    Raises:
        ValueError: if an argument is not allowed, or needs the whole model in memory.
        VerificationError: if a cut block differs from the masked one.
        OSError: if something cannot be written.
    """
    folder = Path(out)
    _check(config)
    source = config.model.removeprefix("hf:")
    data, held_out, tokenizer = _material(config, source)
    with (
        alone(folder),
        pruning(
            *(source, folder, parse_budget(config.budget)),
            data=None if data is None else data.batches,
            held_out=None if held_out is None else held_out.batches,
            scorer=config.scorer,
            compensate=config.compensate is not False,
            scope=config.scope,
            normalize=None if config.normalize == "none" else config.normalize,
            floor=1,
            multiple_of=config.multiple_of,
            include=config.include or None,
            exclude=config.exclude or None,
            cache=cache,
            tokenizer=tokenizer if config.tokenizer is not None else None,
            progress=progress,
        ) as found,
    ):
        result = _result(config, found, cuts_of({"data": data, "held_out": held_out}))
        write_atomic(folder / CARD_FILE, found.card(result).encode())
        write_json(folder / RESULT, result)
    if found.quality is not None:
        compensated = found.compensation is not None
        told = advice(found.quality, data_aware=reads_data(found.scorer), compensated=compensated)
        if told is not None:
            warnings.warn(told, stacklevel=2)
    progress("prune: done", 1, 1)
    return result


def _check(config: PruneConfig) -> None:
    """Refuse what needs the whole model in memory."""
    whole = {
        "residual": config.residual,
        "rotate": config.rotate,
        "bias": config.bias,
        "branches": config.branches or config.blocks,
        "uniform": config.uniform,
        **config.inside,
    }
    if given := {name: value for name, value in whole.items() if value}:
        refuse_together({"blockwise": True, **given}, "without: these need the whole model")
    if not Path(config.model.removeprefix("hf:")).is_dir():
        refuse("model", config.model, "a folder: only one can be pruned block by block")


def _material(config: PruneConfig, source: str) -> tuple[Reading | None, Reading | None, Any]:
    """Return what to score on, what to measure on, and the tokenizer that cut them."""
    shapes = open_folder(source).shapes_alone()
    corpora = {
        name: _corpus(text, name)
        for name, text in (("data", config.data), ("held_out", config.held_out))
        if text is not None
    }
    if config.data in TEXTS and config.held_out is None:
        corpora["held_out"] = read_corpus(str(config.data), argument="held_out", held_out=True)
    tokenizer = None
    if config.tokenizer is not None or any(c.documents for c in corpora.values()):
        tokenizer = found_tokenizer(config.tokenizer, (source,), shapes)
    ready = {
        name: read_text(
            *(shapes, corpus, tokenizer),
            argument=name,
            length=config.length,
            samples=config.samples,
        )
        for name, corpus in corpora.items()
    }
    for name, reading in ready.items():
        check_own(name, reading, shapes)
    data, held_out = ready.get("data"), ready.get("held_out")
    check_apart(data, held_out)
    return data, held_out, tokenizer


def _corpus(text: str, argument: str) -> Corpus:
    """Read a text, or what a user's own loader yields."""
    if names_own(text) and not names_text(text):
        return own_corpus(text, seed=SPLIT_SEED, argument=argument)
    return read_corpus(text, argument=argument, held_out=argument == "held_out")


def _result(
    config: PruneConfig, found: PrunedFolder, text: dict[str, Any] | None
) -> dict[str, Any]:
    predicted, done, known = found.prediction, found.compensation, found.survivors.communities
    assert known is not None
    worst = max(found.verified, key=lambda v: v["error"], default=None)
    return {
        "kind": KIND,
        "config": {**asdict(config), "scorer": found.scorer, "blockwise": True},
        "model": f"{config.model}, {predicted.dense.parameters:,} parameters, block by block",
        "communities": [
            {"name": n, "kind": c.kind, "size": c.size, "kept": int(found.survivors[n].sum())}
            for n, c in known.items()
        ],
        "rounding": None,
        "parameters": [predicted.dense.parameters, predicted.small.parameters],
        "macs": [predicted.dense.macs, predicted.small.macs],
        "verification": worst and {"passed": True, "reason": "", **worst},
        "blocks": list(found.verified),
        "adaptive": None,
        "compensation": done and {"summary": done.summary(), **done.to_dict()},
        "accuracy": None,
        "quality": found.quality and found.quality.plain(),
        "text": text,
        "notes": [UNMEASURED] if found.quality is None else [],
        "summary": predicted.summary(),
        "prediction": asdict(predicted),
        "peak_memory": found.peak,
        "seconds": found.seconds,
        "passes": found.passes,
        "plain_config": found.is_plain,
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "out": os.fspath(found.out),
    }
