"""Prune a model from folder to folder, block by block; go on where a killed run was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from natsel.blockwise import Chain, Feed, Held, Place, chains_of, feed
from natsel.blockwise.alone import BLOCK, Alone
from natsel.blockwise.residency import Residency
from natsel.common.batches import Data, reread
from natsel.common.calls import first_samples
from natsel.common.errors import choose, refuse
from natsel.common.patterns import Patterns, chosen
from natsel.common.progress import Progress, silent
from natsel.common.shards import ShardWriter
from natsel.communities.surgery.surgery import remove
from natsel.communities.tensors import all_tensors
from natsel.extraction import Compensation
from natsel.extraction.prediction import predicted
from natsel.features import FeatureClass, fuse, matrices
from natsel.features.scorers import default_scorer, find_scorer
from natsel.fitness import BranchScorer, Fitness
from natsel.fitness.registry import get
from natsel.fitness.score import Scores
from natsel.integrations.transformers import example_inputs
from natsel.integrations.transformers.streamed import Folder, open_folder
from natsel.selection import Latency, Sparsity, Survivors
from natsel.selection.normalize import Normalization
from natsel.selection.select import select
from natsel.selection.sequence import Scope
from natsel.streaming.block import compensated, cut_block
from natsel.streaming.finish import finish
from natsel.streaming.found import Found, find
from natsel.streaming.ledger import PROGRESS, Ledger
from natsel.streaming.memory import peak_memory
from natsel.streaming.out import Out, alone, digest_of
from natsel.streaming.pruned import PrunedFolder
from natsel.streaming.scoring import scored

SHARD = 2 * 2**30
"""Bytes of a file of the small model at most, unless one block alone is larger."""

_STATISTIC = "magnitude-in"


@dataclass(frozen=True, eq=False)
class Options:
    """How to select.

    Attributes:
        budget: what must be reached.
        fitness: the scorer; of a feature class, the statistic whose rank it reads.
        features: the feature class; None with any other scorer.
        options: of :func:`natsel.select`.
        compensate: whether survivors take over.
    """

    budget: Any
    fitness: Fitness
    features: FeatureClass | None
    options: dict[str, Any]
    compensate: bool

    @property
    def in_one_pass(self) -> bool:
        """Whether each block can be decided about without the others."""
        alone = isinstance(self.options["floor"], int) and self.features is None
        return isinstance(self.budget, Sparsity) and self.options["scope"] == "community" and alone


@dataclass(frozen=True, eq=False)
class Work:
    """All that the passes over the blocks share."""

    chain: Chain
    residency: Residency
    found: Found
    feeds: list[Feed]
    probe: Feed
    ledger: Ledger
    options: Options
    folder: Folder
    progress: Progress

    def place(self, number: int, block: nn.Module) -> Place:
        """Return a block of the dense model with what enters it there."""
        alone = Alone(block, self.probe, number)
        store = self.ledger.store(f"dense-{number}")
        return Place(number, BLOCK, block, alone, self.feeds, store)


def prune_folder(
    source: str | Path,
    out: str | Path,
    budget: Any,
    *,
    data: Data | None = None,
    scorer: Any = None,
    compensate: bool = True,
    scope: Scope = "community",
    normalize: Normalization = "rank",
    floor: int | Mapping[str, int] = 1,
    multiple_of: int = 1,
    include: Patterns = None,
    exclude: Patterns = None,
    cache: str | Path | None = None,
    shard_size: int = SHARD,
    progress: Progress = silent,
) -> PrunedFolder:
    """Prune a model that may be larger than memory: from a folder to a folder, block by block.

    The same survivors and the same weights as :func:`natsel.prune` gives, compensated block by
    block. In memory is one block at a time, dense and small, and what enters it. Communities are
    found by labels, which need no values, and proven on a block of each kind; each block that is
    cut is compared in float64 with the same block masked. Where each community loses its own share
    (a sparsity, ``scope="community"``) the dense model is read once, else twice: first to score.

    Args:
        source: a folder of a transformers model, in one or several safetensors files.
        out: an empty folder, or one that is made. Nothing in it loads before all of it is there.
        budget: as :func:`natsel.prune` takes it, but for measured latency.
        data: calibration batches, for scorers that read some, and for compensation.
        scorer: a fitness that reads no gradients, or a feature class of the magnitude's rank; None
            for the default of language models.
        compensate: let the survivors take over what the others did, if there are data.
        scope: see :func:`natsel.select`, as for the following.
        normalize: how scores become comparable across communities.
        floor: how many populations of each community survive at least.
        multiple_of: what kept counts are multiples of.
        include: patterns of the names that take part.
        exclude: patterns of the names that stay whole.
        cache: a folder for hidden states and notes, in place of memory. A run that was killed goes
            on at the block where it was, when it is started again with the same arguments. It is
            removed in the end.
        shard_size: bytes of a file of the small model, at most.
        progress: called between the blocks.

    Returns:
        What was done, with the peak memory of the process.

    Raises:
        ValueError: if an argument is not allowed, or the folder holds no model that can be read
            block by block.
        VerificationError: if a cut block differs from the masked one.
        OSError: if something cannot be written; with ``cache`` the run goes on from there.
    """
    begun = time.monotonic()
    batches = reread(data)
    if scorer is None:
        scorer = default_scorer(language=True, has_data=batches is not None)
    options = Options(
        budget,
        *_scorer(scorer, batches is not None),
        {
            "scope": choose("scope", scope, ("community", "global")),
            "normalize": normalize,
            "floor": floor,
            "multiple_of": multiple_of,
            "include": include,
            "exclude": exclude,
        },
        compensate and batches is not None,
    )
    if isinstance(budget, Latency):
        refuse("budget", budget, "one that is counted: nothing is timed block by block")
    if isinstance(multiple_of, str):
        refuse("multiple_of", multiple_of, "a whole number: nothing is timed block by block")
    folder = open_folder(source)
    digest = digest_of(folder, batches, budget, scorer, options.options, compensate, shard_size)
    ledger = Ledger(None if cache is None else Path(cache), digest)
    with alone(Path(out)), Out(Path(out), ledger, cache) as place:
        progress("prune: find communities", 0, 1)
        work = _prepared(folder, batches, ledger, options, progress)
        if not options.in_one_pass:
            _score(work)
        writer, survivors = _cut(work, place, shard_size)
        small = remove(work.residency.model, work.found.communities.values(), survivors)
        files, is_plain = finish(folder, small, writer, place.path, work.probe, ledger, work.chain)
        notes = [ledger.read(f"block-{k}") for k in range(len(work.chain))]
        ledger.close()
        place.done()
    done = [n["compensation"] for n in notes if n["compensation"] is not None]
    return PrunedFolder(
        out=Path(out),
        scorer=scorer if isinstance(scorer, str) else options.fitness.name,
        survivors=survivors,
        prediction=predicted(work.found.communities, survivors),
        verified=tuple(n["verified"] for n in notes if n["verified"] is not None),
        compensation=_joined(done) if options.compensate else None,
        is_plain=is_plain,
        files=files,
        passes=1 if options.in_one_pass else 2,
        peak=peak_memory(),
        seconds=time.monotonic() - begun,
    )


def _scorer(scorer: Any, has_data: bool) -> tuple[Fitness, FeatureClass | None]:
    found = find_scorer(scorer) if isinstance(scorer, str) else scorer
    if found is None:
        refuse("scorer", scorer, "one scorer: what chooses among them needs the whole model")
    if isinstance(found, BranchScorer):
        refuse("scorer", scorer, "one of populations in a block: branches need the whole model")
    if isinstance(found, FeatureClass):
        return get(_STATISTIC), found
    fitness = get(found, argument="scorer")
    if fitness.needs_gradient:
        allowed = "one that reads no gradients, which need the whole model in memory"
        refuse(
            "scorer", fitness.name, f"{allowed}: wanda, joint, contribution, variance, magnitude"
        )
    if fitness.statistic is not None and not has_data:
        refuse("data", None, f"batches of data: the scorer {fitness.name!r} reads some")
    return fitness, None


def _prepared(
    folder: Folder, batches: Data | None, ledger: Ledger, options: Options, progress: Progress
) -> Work:
    """Find chain and communities, and run all that comes before the chain."""
    mode, fake = folder.fake()
    model = folder.empty()
    inputs: Any = first_samples(example_inputs(model), 1)
    with mode:
        given: Any = {name: mode.from_tensor(x) for name, x in inputs.items()}
        chains = chains_of(fake, given)
    if len(chains) != 1:
        told = f"{folder.path} with {len(chains)} chains of blocks"
        refuse("model", told, "a model whose blocks form one chain")
    chain = chains[0]
    residency = Residency(model, folder)
    done = ledger.read(PROGRESS)
    states = ledger.store("dense-0") if _needs_states(done) else Held()
    probe_state = Held()
    with residency.when_called(chain.paths):
        (probe,) = feed(model, chain, [inputs], probe_state)
        feeds = feed(model, chain, batches, states) if batches is not None else []
    if done is None:
        ledger.store("probe").put(0, probe_state.get(0))
    found = find(folder.shapes_alone(), inputs, chain, residency, probe, probe_state.get(0))
    found.communities.require("model", str(folder.path))
    return Work(chain, residency, found, feeds, probe, ledger, options, folder, progress)


def _needs_states(done: Any) -> bool:
    """Say whether what enters the first block is read again."""
    return done is None or done["phase"] == "score" or done["block"] == 0


def _score(work: Work) -> None:
    """Go through the dense model once, and note the scores of each block."""
    done = work.ledger.read(PROGRESS)
    if done is not None and done["phase"] != "score":
        return
    fitness, count = work.options.fitness, len(work.chain)
    for number in range(done["block"] if done is not None else 0, count):
        work.progress("prune: score blocks", number, count)
        with work.residency.resident(work.chain.paths[number]) as block:
            values = _scores(work, number, block, idle=fitness.statistic is None)
        work.ledger.note(f"scores-{number}", {n: v.tolist() for n, v in values.items()})
        work.ledger.note(PROGRESS, {"phase": "score", "block": number + 1, "shards": []})
        if number:
            work.ledger.forget(f"dense-{number}")
    work.ledger.forget(f"dense-{count}")
    work.ledger.note(PROGRESS, {"phase": "cut", "block": 0, "shards": []})


def _scores(work: Work, number: int, block: nn.Module, *, idle: bool) -> dict[str, Tensor]:
    """Score one block; unless nobody needs them, hidden states go on to the next."""
    place = work.place(number, block)
    if idle:
        place = Place(place.number, BLOCK, block, place.model, [], place.store)
    local = work.found.local[number]
    known = work.found.alone(number, place.model, work.ledger.store("probe").get(0))
    onward = work.ledger.store(f"dense-{number + 1}")
    return dict(zip(local, scored(known, work.options.fitness, place, onward), strict=True))


def _selected(work: Work) -> Survivors:
    """Select over all communities, once all are scored."""
    found: dict[str, Tensor] = {}
    for number in range(len(work.chain)):
        noted = work.ledger.read(f"scores-{number}")
        found |= {name: torch.tensor(values) for name, values in noted.items()}
    scores: Mapping[str, Tensor] = Scores(found, work.found.communities)
    if work.options.features is not None:
        scores = fuse(matrices(scores, work.options.features.features))
    return select(
        scores,
        work.options.budget,
        communities=work.found.communities,
        **work.options.options,
    )


def _cut(work: Work, out: Out, shard_size: int) -> tuple[ShardWriter, Survivors]:
    """Go through both models in lockstep; cut, verify, compensate and write each block."""
    done = work.ledger.read(PROGRESS) or {"phase": "cut", "block": 0, "shards": []}
    count, known = len(work.chain), work.found.communities
    everyone = None if work.options.in_one_pass else _selected(work)
    options = work.options.options
    allowed = set(chosen(dict(known), options["include"], options["exclude"]))
    writer = ShardWriter(out.unfinished, most=shard_size, state=done["shards"])
    for number in range(done["block"], count):
        work.progress("prune: cut blocks", number, count + 1)
        with work.residency.resident(work.chain.paths[number]) as block:
            if everyone is None:
                scores = _scores(work, number, block, idle=False)
                masks = _own_share(work, scores, allowed)
            else:
                masks = {name: everyone[name] for name in work.found.local[number]}
            note = _cut_one(work, number, block, masks, writer, ran=everyone is None)
        work.ledger.note(f"block-{number}", note)
        step = {"phase": "cut", "block": number + 1, "shards": writer.state()}
        work.ledger.note(PROGRESS, step)
        for kind in ("dense", "small"):
            work.ledger.forget(f"{kind}-{number}")
    if done["block"] <= count:
        work.progress("prune: write the rest", count, count + 1)
        _write_rest(work, writer)
        work.ledger.note(PROGRESS, {"phase": "cut", "block": count + 1, "shards": writer.state()})
    masks = {}
    for number in range(count):
        for name, kept in work.ledger.read(f"block-{number}")["kept"].items():
            mask = torch.zeros(known[name].size, dtype=torch.bool)
            mask[kept] = True
            masks[name] = mask
    return writer, Survivors({name: masks[name] for name in known}, known)


def _own_share(work: Work, scores: Mapping[str, Tensor], allowed: set[str]) -> dict[str, Tensor]:
    """Select within one block, where every community loses its own share."""
    masks = {name: torch.ones(len(v), dtype=torch.bool) for name, v in scores.items()}
    taking = {name: value for name, value in scores.items() if name in allowed}
    if taking:
        options = work.options.options
        known = work.found.communities
        selected = select(
            taking,
            work.options.budget,
            communities=known,
            **{**options, "include": None, "exclude": None},
        )
        masks |= dict(selected)
    return masks


def _cut_one(
    work: Work,
    number: int,
    block: nn.Module,
    masks: Mapping[str, Tensor],
    writer: ShardWriter,
    *,
    ran: bool,
) -> dict[str, Any]:
    """Cut one block, write it, and hand on what leaves it in both models."""
    path, ledger = work.chain.paths[number], work.ledger
    place = work.place(number, block)
    assert isinstance(place.model, Alone)
    probe = ledger.store("probe")
    hidden = probe.get(number)
    known = work.found.alone(number, place.model, hidden)
    local = {twin.name: masks[name] for name, twin in work.found.local[number].items()}
    small, verified = cut_block(place.model, known, local, hidden, path)
    entering = ledger.store(f"small-{number}" if number else "dense-0")
    done = None
    if work.options.compensate and verified is not None:
        done = compensated(place, small, known, local, entering, path)
    inner = small.get_submodule(BLOCK)
    if number + 1 < len(work.chain) and work.feeds:
        if not ran:
            place.leave(ledger.store(f"dense-{number + 1}"))
        Place(number, BLOCK, inner, small, work.feeds, entering).leave(
            ledger.store(f"small-{number + 1}")
        )
    with torch.no_grad():
        probe.put(number + 1, small(hidden))
    tensors = {f"{path}.{name}": tensor for name, tensor in all_tensors(inner).items()}
    writer.add({work.folder.stored(n): t for n, t in tensors.items() if n in work.folder})
    kept = {name: mask.nonzero().reshape(-1).tolist() for name, mask in masks.items()}
    return {"kept": kept, "verified": verified, "compensation": done}


def _write_rest(work: Work, writer: ShardWriter) -> None:
    """Copy what is in no block, tensor by tensor."""
    inside = tuple(f"{path}." for path in work.chain.paths)
    for name, tensor in all_tensors(work.residency.model).items():
        if name.startswith(inside) or name not in work.folder:
            continue
        value = work.folder.read(name)
        writer.add(
            {
                work.folder.stored(name): value.to(tensor.dtype)
                if value.is_floating_point()
                else value
            }
        )


def _joined(done: list[dict[str, Any]]) -> Compensation:
    lines = [line for each in done for line in each["consumers"]]
    names = [name for each in done for name in each["tensors"]]
    return Compensation.from_dict({"consumers": lines, "tensors": names, "renormalized": 0})
