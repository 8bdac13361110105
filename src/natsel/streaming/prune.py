"""Prune a model from folder to folder, block by block; go on where a killed run was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from natsel.common.batches import Data, reread
from natsel.common.errors import choose, refuse
from natsel.common.patterns import Patterns
from natsel.common.progress import Progress, silent
from natsel.communities.surgery.surgery import remove
from natsel.extraction import Compensation, Plan
from natsel.extraction.prediction import predicted
from natsel.features import FeatureClass
from natsel.features.scorers import default_scorer, find_scorer
from natsel.fitness import BranchScorer, ExpertScorer, Fitness
from natsel.fitness.registry import get
from natsel.integrations.model_card import card as card_text
from natsel.integrations.transformers.beside import written
from natsel.integrations.transformers.cards import of_plan
from natsel.integrations.transformers.origin import origin_of
from natsel.integrations.transformers.streamed import open_folder
from natsel.quality import Quality
from natsel.selection import Latency
from natsel.selection.normalize import Normalization
from natsel.selection.sequence import Scope
from natsel.streaming.cutting import LOST, cut
from natsel.streaming.finish import Finished, finish
from natsel.streaming.ledger import Ledger
from natsel.streaming.memory import peak_memory
from natsel.streaming.out import Out, alone, digest_of
from natsel.streaming.pruned import PrunedFolder
from natsel.streaming.ranking import score
from natsel.streaming.work import Options, Work, prepared
from natsel.streaming.worth import from_plain

SHARD = 2 * 2**30
"""Bytes of a file of the small model at most, unless one block alone is larger."""

_STATISTIC = "magnitude-in"


def prune_folder(
    source: str | Path,
    out: str | Path,
    budget: Any,
    *,
    data: Data | None = None,
    held_out: Data | None = None,
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
    tokenizer: Any = None,
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
        held_out: other batches, with labels, that both models are measured on while they are
            walked.
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
        tokenizer: a tokenizer of the transformers library, to be saved in place of what lies
            beside the dense model.
        progress: called between the blocks.

    Returns:
        What was done, with the peak memory of the process.

    Raises:
        ValueError: if an argument is not allowed, or the folder holds no model that can be read
            block by block.
        VerificationError: if a cut block differs from the masked one.
        OSError: if something cannot be written; with ``cache`` the run goes on from there.
    """
    with pruning(
        *(source, out, budget),
        data=data,
        held_out=held_out,
        scorer=scorer,
        compensate=compensate,
        cache=cache,
        shard_size=shard_size,
        tokenizer=tokenizer,
        progress=progress,
        scope=scope,
        normalize=normalize,
        floor=floor,
        multiple_of=multiple_of,
        include=include,
        exclude=exclude,
    ) as found:
        return found


@contextmanager
def pruning(
    source: str | Path,
    out: str | Path,
    budget: Any,
    *,
    data: Data | None = None,
    held_out: Data | None = None,
    scorer: Any = None,
    compensate: bool = True,
    cache: str | Path | None = None,
    shard_size: int = SHARD,
    tokenizer: Any = None,
    progress: Progress = silent,
    **options: Any,
) -> Iterator[PrunedFolder]:
    """Prune a folder as :func:`prune_folder`; what was noted on the way goes when this ends.

    So whoever adds to the folder meanwhile, and is killed, adds to it when it is started again.

    Args:
        source: as there, like all that follows.
        out: where to.
        budget: what must be reached.
        data: calibration batches.
        held_out: what both models are measured on.
        scorer: that decides.
        compensate: let the survivors take over.
        cache: a folder for hidden states and notes.
        shard_size: bytes of a file.
        tokenizer: to be saved.
        progress: called between the blocks.
        **options: of :func:`natsel.select`, all of them.
    """
    begun = time.monotonic()
    batches, measured = reread(data), reread(held_out, "held_out")
    if scorer is None:
        scorer = default_scorer(language=True, has_data=batches is not None)
    choose("scope", options["scope"], ("community", "global"))
    chosen = Options(
        budget,
        *_scorer(scorer, batches is not None),
        options,
        compensate and batches is not None,
    )
    if isinstance(budget, Latency):
        refuse("budget", budget, "one that is counted: nothing is timed block by block")
    if isinstance(options["multiple_of"], str):
        refuse(
            "multiple_of", options["multiple_of"], "a whole number: nothing is timed block by block"
        )
    folder = open_folder(source)
    name = getattr(tokenizer, "name_or_path", None)
    arguments = (budget, scorer, options, compensate, shard_size, name)
    digest = digest_of(folder, batches, measured, *arguments)
    ledger = Ledger(None if cache is None else Path(cache), digest)
    with alone(Path(out)), Out(Path(out), ledger, cache) as place:
        progress("prune: find communities", 0, 1)
        work = prepared(folder, batches, measured, ledger, chosen, progress)
        if tokenizer is not None:
            with written(tokenizer, work.residency.model):
                pass  # one of another model is refused now, not in the end
        if not chosen.in_one_pass:
            score(work)
        writer, survivors = cut(work, place, shard_size)
        notes = [ledger.read(f"block-{k}") for k in range(len(work.chain))]
        done = [n["compensation"] for n in notes if n["compensation"] is not None]
        total = _joined(done) if chosen.compensate else None
        known = work.found.communities
        small = remove(work.residency.model, known.values(), survivors)
        plan = Plan.describe(work.residency.model, small, survivors, known)
        finished = finish(
            *(folder, small, writer, place.path, work.probe, ledger, work.chain),
            plan=replace(plan, compensation=None if total is None else total.to_dict()),
            tokenizer=tokenizer,
        )
        yield PrunedFolder(
            out=Path(out),
            scorer=scorer if isinstance(scorer, str) else chosen.fitness.name,
            survivors=survivors,
            prediction=predicted(known, survivors),
            verified=tuple(n["verified"] for n in notes if n["verified"] is not None),
            compensation=total,
            quality=_quality(work),
            card=_card(work, finished),
            is_plain=finished.known.is_plain,
            files=finished.files,
            passes=1 if chosen.in_one_pass else 2,
            peak=peak_memory(),
            seconds=time.monotonic() - begun,
        )
        ledger.close()
        place.done()


def _quality(work: Work) -> Quality | None:
    if work.held_out is None:
        return None
    dense, small = (from_plain(each) for each in work.ledger.read(LOST))
    return work.held_out.quality(dense, small)


def _card(work: Work, finished: Finished) -> Callable[[Mapping[str, Any]], str]:
    origin = origin_of(work.residency.model)
    facts, plain = of_plan(finished.plan), finished.known.is_plain
    return lambda result: card_text({**facts, **result}, origin, plain=plain)


def _scorer(scorer: Any, has_data: bool) -> tuple[Fitness, FeatureClass | None]:
    found = find_scorer(scorer) if isinstance(scorer, str) else scorer
    if found is None:
        refuse("scorer", scorer, "one scorer: what chooses among them needs the whole model")
    if isinstance(found, BranchScorer):
        refuse("scorer", scorer, "one of populations in a block: branches need the whole model")
    if isinstance(found, ExpertScorer):
        refuse("scorer", scorer, "one of populations in a block: experts' need the whole model")
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


def _joined(done: list[dict[str, Any]]) -> Compensation:
    lines = [line for each in done for line in each["consumers"]]
    names = [name for each in done for name in each["tensors"]]
    return Compensation.from_dict({"consumers": lines, "tensors": names, "renormalized": 0})
