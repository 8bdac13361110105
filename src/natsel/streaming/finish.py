"""The last step: files get their names, the model is read back, plan and configuration follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from natsel.blockwise import Chain, Feed
from natsel.blockwise.alone import Alone
from natsel.blockwise.residency import Residency
from natsel.common.files import write_atomic
from natsel.common.folders import Sealed, seal_of
from natsel.common.modes import evaluating
from natsel.common.shards import INDEX, Shards, ShardWriter
from natsel.common.tensorfiles import described
from natsel.communities.tensors import all_tensors, canonical_names, tied_names
from natsel.extraction import Plan
from natsel.extraction.store import PLAN_FILE
from natsel.extraction.verification import VerificationError
from natsel.integrations.transformers.beside import KEY, beside, carrying, seals, written
from natsel.integrations.transformers.pretrained import (
    CONFIG_FILE,
    GENERATION_FILE,
    Pretrained,
    pretrained,
)
from natsel.integrations.transformers.streamed import Folder, reshaped
from natsel.integrations.transformers.uniform import fits
from natsel.streaming.ledger import Ledger


@dataclass(frozen=True)
class Finished:
    """What a finished folder is.

    Attributes:
        files: the file of each tensor.
        plan: that lies there.
        known: how a model of the library is stored.
    """

    files: dict[str, str]
    plan: Plan
    known: Pretrained


def finish(
    folder: Folder,
    small: nn.Module,
    writer: ShardWriter,
    out: Path,
    probe: Feed,
    ledger: Ledger,
    chain: Chain,
    *,
    plan: Plan,
    tokenizer: Any = None,
) -> Finished:
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
        plan: of the small model, but for its files.
        tokenizer: to be saved in place of what lies beside the dense model.

    Returns:
        What it is.

    Raises:
        VerificationError: if the model that is read back is another one.
        ValueError: if the tokenizer is none of this model.
    """
    files = writer.finish(out)
    # They have the names that the class gives them, whatever the dense ones are called.
    there = replace(folder, path=out, shards=Shards(out), prefix="")

    def holds(model: nn.Module) -> bool:
        return _reads_back(model, there, probe, ledger, chain)

    def proof(model: nn.Module, kind: Any, data: Mapping[str, Any], like: Any) -> bool:
        twin = folder.like(data, kind=kind, like=like)
        return fits(model, twin) and holds(twin)

    if not _copied(folder, there, small, chain):
        raise VerificationError(f"{out}, read back, is not the model that was cut")
    known = pretrained(small, proof=proof)
    assert known is not None
    if not known.is_plain and not holds(reshaped(folder, known.config)):
        raise VerificationError(f"{out}, read back, is not the model that was cut")
    companions = dict(known.companions)
    generation = folder.path / GENERATION_FILE
    if generation.is_file():
        companions[GENERATION_FILE] = generation.read_bytes()
    with _beside(small, tokenizer) as others:
        plan = _sealed(plan, small, known, companions, others, files, out)
        with carrying(others, out, {}):
            for name in companions.keys() - {CONFIG_FILE}:
                write_atomic(out / name, companions[name])
            write_atomic(out / PLAN_FILE, plan.to_json())
    write_atomic(out / CONFIG_FILE, companions[CONFIG_FILE])
    return Finished(files, plan, known)


@contextmanager
def _beside(small: nn.Module, tokenizer: Any) -> Iterator[dict[str, Path]]:
    """Lend what goes along with a model: what lies beside the dense one, or a tokenizer's files."""
    if tokenizer is None:
        yield beside(small)
    else:
        with written(tokenizer, small) as files:
            yield files


def _sealed(
    plan: Plan,
    small: nn.Module,
    known: Pretrained,
    companions: Mapping[str, bytes],
    others: Mapping[str, Path],
    files: Mapping[str, str],
    out: Path,
) -> Plan:
    """Return a plan that says of every file and tensor what it must be."""
    names = dict.fromkeys(files.values())
    tensors = {name: entry for file in names for name, entry in described(out / file).items()}
    sealed = {file: seal_of(out / file) for file in (*names, INDEX) if (out / file).is_file()}
    sealed |= {n: Sealed(len(c), sha256(c).hexdigest()) for n, c in companions.items()}
    constructor = {**known.constructor, **({KEY: seals(others)} if others else {})}
    return replace(
        plan,
        constructor=constructor,
        attributes={**known.numbers, **plan.attributes},
        tensors=tensors,
        tied={name: first for name, first in tied_names(small).items() if first in tensors},
        frozen=[n for n, p in small.named_parameters() if not p.requires_grad],
        files={name: asdict(seal) for name, seal in sealed.items()},
    )


def _copied(dense: Folder, written: Folder, small: nn.Module, chain: Chain) -> bool:
    """Say whether what is in no block is what the dense model has."""
    inside = tuple(f"{path}." for path in chain.paths)
    tensors, names = all_tensors(small), canonical_names(small)
    for name in written.shards:
        if name.startswith(inside):
            continue
        same = [other for other, first in names.items() if first == name and other in dense]
        if not same:
            continue  # a buffer that the class computes
        wanted = dense.read(same[0])
        if wanted.is_floating_point():
            wanted = wanted.to(tensors[name].dtype)
        if not torch.equal(written.read(name), wanted):
            return False
    return True


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
