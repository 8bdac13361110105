"""Prune a folder block by block, from the command line: data by name, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from natsel.common.errors import refuse, refuse_together
from natsel.common.files import write_json
from natsel.common.progress import Progress, silent
from natsel.data.corpus import read_corpus
from natsel.integrations.transformers.streamed import open_folder
from natsel.integrations.transformers.tokenizers import tokenizer_of
from natsel.pruning.texts import read_text
from natsel.runs import environment
from natsel.runs.folder import alone
from natsel.runs.prune import KIND, RESULT, PruneConfig, parse_budget
from natsel.selection.normalize import Normalization
from natsel.selection.sequence import Scope
from natsel.streaming import PrunedFolder, prune_folder

UNMEASURED = (
    "no perplexity was measured: natsel evaluate OUT --against MODEL --data FILE does, for models "
    "that fit memory"
)


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
    batches, text = _data(config, source)
    with alone(folder):
        found = prune_folder(
            source,
            folder,
            parse_budget(config.budget),
            data=batches,
            scorer=config.scorer,
            compensate=config.compensate is not False,
            scope=cast(Scope, config.scope),
            normalize=cast(Normalization, None if config.normalize == "none" else config.normalize),
            multiple_of=cast(int, config.multiple_of),
            include=config.include or None,
            exclude=config.exclude or None,
            cache=cache,
            progress=progress,
        )
        result = _result(config, found, text)
        write_json(folder / RESULT, result)
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
        "held_out": config.held_out,
    }
    if given := {name: value for name, value in whole.items() if value}:
        refuse_together({"blockwise": True, **given}, "without: these need the whole model")
    if not Path(config.model.removeprefix("hf:")).is_dir():
        refuse("model", config.model, "a folder: only one can be pruned block by block")


def _data(config: PruneConfig, source: str) -> tuple[Any, Mapping[str, Any] | None]:
    """Return calibration batches, and what was taken of the text."""
    if config.data is None:
        return None, None
    corpus = read_corpus(config.data)
    named = source if config.tokenizer is None else config.tokenizer
    read = read_text(
        open_folder(source).shapes_alone(),
        corpus,
        tokenizer_of(named) if corpus.documents else None,
        length=config.length,
        samples=config.samples,
    )
    return read.batches, read.plain()


def _result(
    config: PruneConfig, found: PrunedFolder, text: Mapping[str, Any] | None
) -> dict[str, Any]:
    predicted, done, known = found.prediction, found.compensation, found.survivors.communities
    assert known is not None
    worst = max(found.verified, key=lambda v: v["error"], default=None)
    return {
        "kind": KIND,
        "config": {**asdict(config), "scorer": found.scorer},
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
        "quality": None,
        "text": {"data": dict(text)} if text is not None else None,
        "notes": [UNMEASURED],
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
