"""The last step: files get their names, the model is read back, its configuration is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from natsel.blockwise import Chain, Feed
from natsel.blockwise.alone import Alone
from natsel.blockwise.residency import Residency
from natsel.common.files import write_atomic
from natsel.common.modes import evaluating
from natsel.common.shards import Shards, ShardWriter
from natsel.extraction.verification import VerificationError
from natsel.integrations.transformers.beside import beside, carrying
from natsel.integrations.transformers.pretrained import CONFIG_FILE, GENERATION_FILE, pretrained
from natsel.integrations.transformers.streamed import Folder, reshaped
from natsel.integrations.transformers.uniform import fits
from natsel.streaming.ledger import Ledger


def finish(
    folder: Folder,
    small: nn.Module,
    writer: ShardWriter,
    out: Path,
    probe: Feed,
    ledger: Ledger,
    chain: Chain,
) -> tuple[dict[str, str], bool]:
    """Finish a folder; before its configuration is there, which is last, nothing loads it.

    What was written is read back, block by block, into the class that the configuration describes:
    on one sample it must give the hidden states, bit for bit, that were seen when it was cut.

    Args:
        folder: of the dense model.
        small: the small model, without values.
        writer: of its tensors.
        out: where to.
        probe: what one sample gives to the blocks.
        ledger: holds what entered and left the blocks on that sample.
        chain: the blocks.

    Returns:
        The file of each tensor, and whether a plain configuration says what the model is.

    Raises:
        VerificationError: if the model that is read back is another one.
    """
    files = writer.finish(out)
    written = replace(folder, path=out, shards=Shards(out))

    def holds(model: nn.Module) -> bool:
        return _reads_back(model, written, probe, ledger, chain)

    def proof(model: nn.Module, kind: Any, data: Mapping[str, Any], like: Any) -> bool:
        twin = folder.like(data, kind=kind, like=like)
        return fits(model, twin) and holds(twin)

    known = pretrained(small, proof=proof)
    assert known is not None
    if not known.is_plain and not holds(reshaped(folder, known.config)):
        raise VerificationError(f"{out}, read back, is not the model that was cut")
    companions = dict(known.companions)
    generation = folder.path / GENERATION_FILE
    if generation.is_file():
        companions[GENERATION_FILE] = generation.read_bytes()
    with carrying(beside(small), out, {}):
        for name in sorted(companions, key=lambda name: name == CONFIG_FILE):
            write_atomic(out / name, companions[name])
    return files, known.is_plain


def _reads_back(
    model: nn.Module, written: Folder, probe: Feed, ledger: Ledger, chain: Chain
) -> bool:
    """Say whether written blocks, in another model, give what was seen when they were cut."""
    residency, seen = Residency(model, written), ledger.store("probe")
    for number, path in enumerate(chain.paths):
        with residency.resident(path) as block, torch.no_grad(), evaluating(block):
            left = Alone(block, probe, number)(seen.get(number))
        if not torch.equal(left, seen.get(number + 1)):
            return False
    return True
