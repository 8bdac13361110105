"""Which branches of a language model go: by their scores, and by evolution; one row at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.errors import choose, refuse
from natsel.common.files import write_json
from natsel.common.json_data import read_object
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.common.timing import one_thread
from natsel.communities import Communities, discover
from natsel.communities.surgery.surgery import silence
from natsel.data.windows import tokens_of
from natsel.extraction import extract
from natsel.fitness import score
from natsel.levels import evolve_levels
from natsel.levels.budgets import gauge_of
from natsel.levels.judge import Judge
from natsel.levels.masking import Masking
from natsel.levels.moves import swap
from natsel.levels.racing import race
from natsel.levels.scoring import scores_for
from natsel.levels.space import Space, sites
from natsel.pruning import evolve_shares, sparsify
from natsel.quality import losses
from natsel.runs import environment, folder
from natsel.runs.material import found_tokenizer
from natsel.selection import Sparsity, Survivors, select
from natsel_bench.depth_decode import decoding
from natsel_bench.depth_laws import laws
from natsel_bench.depth_vit import vit
from natsel_bench.texts import content_of

SHARES = {"blocks": 7 / 30, "branches": 0.25}
"""Of whole blocks, and of branches, that go."""
WEIGHTS = 0.7
"""Of single weights that go."""
SCORED = 8
"""Windows of the search that scores read."""
CHILDREN = 16
"""Of the rate: children of one generation."""
PLAIN = 3
"""Of the rate: how many of them the plain loop runs."""


@dataclass(frozen=True, eq=False)
class Work:
    """What the rows share.

    Attributes:
        model: folder of the dense model.
        rows: windows of the search, int64 ``[N, length]``.
        held_out: windows that nothing was chosen on.
        out: folder of the run.
        text: the file that they are cut from.
        evaluations: plans that a search judges.
        fitness: of the search.
        progress: of the search.
    """

    model: str
    rows: Tensor
    held_out: Tensor
    out: Path
    text: Path
    evaluations: int
    fitness: Any
    progress: Progress = silent

    @cached_property
    def dense(self) -> nn.Module:
        """The model."""
        from natsel.io import open_model

        return open_model(self.model).model

    @cached_property
    def kinds(self) -> Communities:
        """Communities of every kind, with branches."""
        return discover(self.dense, self._example(), branches=True)

    def communities(self, what: str) -> Communities:
        """Return the community of branches, or of whole blocks."""
        if what == "blocks":
            return discover(self.dense, self._example(), branches="blocks").only("branch")
        return self.kinds.only("branch")

    def _example(self) -> dict[str, Tensor]:
        return {"input_ids": self.rows[:1, : min(32, self.rows.shape[1])]}

    def batches(self, stop: int | None = None) -> list[dict[str, Tensor]]:
        """Return the first windows of the search, one each."""
        return [{"input_ids": r[None], "labels": r[None]} for r in self.rows[:stop]]

    def of(self, found: nn.Module) -> list[float]:
        """Return the loss of a model on each held-out window, in nats per token."""
        batches = [{"input_ids": r[None], "labels": r[None]} for r in self.held_out]
        return [float(x) for x in losses(found, batches).means]

    def without(self, communities: Communities, plan: Survivors) -> list[float]:
        """Return the same of the dense model without what does not survive."""
        with Masking(communities).masked(plan) as (model, _):
            return self.of(model)


def _out(plan: Mapping[str, Tensor]) -> list[int]:
    (mask,) = plan.values()
    found: list[int] = (~mask).nonzero().flatten().tolist()
    return found


def _by_cosine(work: Work, what: str) -> dict[str, Any]:
    communities = work.communities(what)
    plan = select(score(communities, "cosine", data=work.batches(SCORED)), Sparsity(SHARES[what]))
    return {"out": _out(plan), "losses": work.without(communities, plan)}


def _searched(work: Work, what: str, progress: Progress = silent) -> dict[str, Any]:
    communities = work.communities(what)
    half = len(work.rows) * 3 // 4
    batches = work.batches()
    levels = evolve_levels(
        communities,
        Sparsity(SHARES[what]),
        batches[:half],
        held_out=batches[half:],
        scores=score(communities, "cosine", data=work.batches(SCORED)),
        fitness=work.fitness,
        evaluations=work.evaluations,
        cache=work.out / f"{what}-state",
        progress=progress,
    )
    return {
        "out": _out(levels.found),
        "losses": work.without(communities, levels.found),
        "sentence": levels.sentence,
        "judged": levels.evaluations,
        "history": levels.plain()["history"],
    }


def _compensated(work: Work, what: str) -> dict[str, Any]:
    """Give what stays of the plan that was searched its weights anew, in closed form."""
    kept = work.out / f"{what}-searched.json"
    if not kept.is_file():
        return {"missing": f"it reads what {what}-searched writes"}
    communities = work.communities(what)
    (name,) = communities
    mask = torch.ones(communities[name].size, dtype=torch.bool)
    mask[read_object(kept)["out"]] = False
    plan = Survivors({name: mask}, communities)
    small = extract(work.dense, plan, compensate=work.batches(SCORED))
    return {"out": _out(plan), "losses": work.of(small)}


def _sparse(work: Work, how: str) -> dict[str, Any]:
    """Set 70 % of the single weights to 0: the same share everywhere, by outliers, or searched."""
    batches = work.batches()
    half = len(work.rows) * 3 // 4
    budget: Any = Sparsity(WEIGHTS)
    told: dict[str, Any] = {}
    if how == "searched":
        shares = evolve_shares(
            work.dense,
            budget,
            batches[:half],
            held_out=batches[half:],
            fitness=work.fitness,
            num_levels=2,
            evaluations=work.evaluations,
            windows=4,
            cache=work.out / "weights-state",
            progress=work.progress,
        )
        budget = shares.found
        told = {"sentence": shares.sentence, **shares.plain()}
    owl: Any = "owl" if how == "owl" else "uniform"
    found = sparsify(work.dense, budget, data=batches[:half], scorer="obs", refit=False, shares=owl)
    return {"out": [], "losses": work.of(found.model), "sparsity": found.sparsity, **told}


def _rate(work: Work) -> dict[str, Any]:
    """Time children of one parent: by a race, and by the loop that one would write.

    That loop copies the model, sets to 0 what the branches end in, runs every window, and compares
    the distributions of every place. Processor seconds, one thread.
    """
    communities = work.communities("blocks")
    batches = work.batches(SCORED)
    scores = scores_for(communities, None, batches)
    space = Space.of_communities(
        communities, scores, gauge_of(Sparsity(SHARES["blocks"]), communities)
    )
    parent = space.of(select(scores, Sparsity(SHARES["blocks"])))
    inputs = {"input_ids": work.rows[:SCORED]}
    even, generator = torch.ones(len(sites(space))), torch.Generator().manual_seed(0)
    children = {
        swap(space, parent, getting=even, giving=even, generator=generator).child
        for _ in range(8 * CHILDREN)
    } - {parent}
    plans = [space.survivors(child) for child in sorted(children, key=space.plain)[:CHILDREN]]
    if not plans:
        return {"missing": f"of {len(sites(space))} blocks there is no other plan"}
    judge, exact = Judge(communities, inputs, places=128), Judge(communities, inputs)
    with one_thread(), torch.no_grad():
        dense = [
            work.dense(input_ids=row[None]).logits.log_softmax(-1).half()
            for row in work.rows[:SCORED]
        ]
        judge.stand_on(space.survivors(parent))
        began = time.process_time()
        bound = judge.totals(space.survivors(parent), range(SCORED))
        race(judge, plans, bound, range(SCORED))
        quick = (time.process_time() - began) / len(plans)
        differs = plain = 0.0
        for plan in plans[:PLAIN]:
            began = time.process_time()
            masked = silence(work.dense, communities.values(), plan)
            found = 0.0
            for row, true in zip(work.rows[:SCORED], dense, strict=False):
                there = masked(input_ids=row[None]).logits.log_softmax(-1)
                each = F.kl_div(there, true.float(), log_target=True, reduction="none")
                found += float(each.sum())
            plain += (time.process_time() - began) / len(plans[:PLAIN])
            differs = max(differs, abs(found / float(exact.totals(plan).sum()) - 1))
    return {"seconds": quick, "plain_seconds": plain, "ratio": plain / quick, "differs": differs}


ROWS: dict[str, tuple[str, Callable[..., dict[str, Any]]]] = {
    "dense": ("nothing", lambda work: {"out": [], "losses": work.of(work.dense)}),
    "blocks-cosine": ("blocks, by cosine", lambda work: _by_cosine(work, "blocks")),
    "blocks-searched": ("blocks, searched", lambda work: _searched(work, "blocks")),
    "blocks-compensated": (
        "the same blocks, weights solved anew",
        lambda work: _compensated(work, "blocks"),
    ),
    "branches-cosine": ("branches, by cosine", lambda work: _by_cosine(work, "branches")),
    "branches-searched": ("branches, searched", lambda work: _searched(work, "branches")),
    "branches-compensated": (
        "the same branches, weights solved anew",
        lambda work: _compensated(work, "branches"),
    ),
    "weights-uniform": ("70 % of the weights, uniform", lambda work: _sparse(work, "uniform")),
    "weights-owl": ("70 % of the weights, by outliers", lambda work: _sparse(work, "owl")),
    "weights-searched": ("70 % of the weights, searched", lambda work: _sparse(work, "searched")),
    "decode-depth": ("0.75 of decode time, depth", lambda work: decoding(work, "depth")),
    "decode-width": ("0.75 of decode time, width", lambda work: decoding(work, "width")),
    "decode-all": ("0.75 of decode time, all kinds", lambda work: decoding(work, "all")),
    "laws": ("laws of evolution in the search", laws),
    "vit": ("a vision transformer against adaptive", vit),
    "rate": ("plans a second", _rate),
}


def bench_depth(
    model: str,
    text: str | Path,
    out: str | Path,
    *,
    only: Sequence[str] = (),
    length: int = 512,
    samples: int = 16,
    search_length: int = 256,
    windows: int = 64,
    evaluations: int = 320,
    fitness: str = "kl",
    resume: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Take blocks and branches out of a language model, by scores and by search, without training.

    The end of the text evaluates; windows spread over what comes before are searched on, the last
    quarter of them to decide. Rows are kept one by one, and a search that was stopped goes on.

    Args:
        model: folder of the dense model, with its tokenizer.
        text: a text file, UTF-8.
        out: folder for one result for each row.
        only: names of rows; by default all.
        length: tokens in a held-out window.
        samples: how many of them.
        search_length: tokens in a window of the search.
        windows: how many of those.
        evaluations: plans that each search judges.
        fitness: "kl" or "loss".
        resume: go on with what the folder holds.
        progress: called after every row.

    Returns:
        Rows with losses by window; perplexities, their ratio to the dense model's, and the excess
        of log-perplexity over that by cosine, or of single weights over the uniform one's.

    Raises:
        ValueError: if an argument is not allowed, or the text is too short.
    """
    for name in only:
        choose("only", name, ROWS)
    choose("fitness", fitness, ("kl", "loss"))
    sizes = {
        "length": length,
        "samples": samples,
        "search_length": search_length,
        "windows": windows,
        "evaluations": evaluations,
    }
    for argument, value in sizes.items():
        check_whole(argument, value)
    if windows < SCORED:
        refuse("windows", windows, f"at least {SCORED}")
    rows, held_out = _cut(model, Path(text), sizes)
    target = Path(out)
    config = {"kind": "bench depth", "model": model, "text": str(text), **sizes, "fitness": fitness}
    with folder.claim(target, config, resume):
        folder.take(target, config)
        work = Work(model, rows, held_out, target, Path(text), evaluations, fitness, progress)
        chosen = [name for name in ROWS if not only or name in only]
        found: list[dict[str, Any]] = []
        for number, name in enumerate(chosen):
            title, run = ROWS[name]
            progress(f"depth: {title}", number, len(chosen))
            kept = target / f"{name}.json"
            if not kept.is_file():
                began = time.process_time()
                row = {"name": name, "title": title, **run(work)}
                if "missing" in row:
                    found.append(row)
                    continue
                write_json(kept, {**row, "processor_seconds": time.process_time() - began})
            found.append(read_object(kept))
        progress("depth: done", len(chosen), len(chosen))
        result = {
            "bench": "depth",
            "config": config,
            "rows": [_told(row, target) for row in found],
            **environment.record(git=True),
        }
        write_json(target / "depth.json", result)
        return result


def _told(row: dict[str, Any], target: Path) -> dict[str, Any]:
    """Add perplexity, its ratio to the dense one, and the share of the excess of the plain plan."""
    if "losses" not in row:
        return row
    mean = _mean(row["losses"])
    told = {**row, "perplexity": math.exp(mean), "ratio": None, "excess": None}
    dense = target / "dense.json"
    if dense.is_file():
        least = _mean(read_object(dense)["losses"])
        told["ratio"] = math.exp(mean - least)
        what = row["name"].partition("-")[0]
        cosine = target / f"{what}-{'uniform' if what == 'weights' else 'cosine'}.json"
        if cosine.is_file() and (over := _mean(read_object(cosine)["losses"]) - least) > 0:
            told["excess"] = (mean - least) / over
    return told


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _cut(model: str, text: Path, sizes: Mapping[str, int]) -> tuple[Tensor, Tensor]:
    """Return windows of the search, in an order by chance, and held-out ones from the end."""
    from natsel.io import open_model

    content = content_of(text)
    reader = found_tokenizer(None, (model,), open_model(model).model)
    tokens = tokens_of([content], reader, argument="text")
    kept = sizes["length"] * sizes["samples"]
    num = (len(tokens) - kept) // sizes["search_length"]
    if num < sizes["windows"]:
        least = kept + sizes["windows"] * sizes["search_length"]
        refuse("text", str(text), f"at least {least:,} tokens; it has {len(tokens):,}")
    grid = tokens[: num * sizes["search_length"]].view(num, sizes["search_length"])
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    chosen = grid[order[: sizes["windows"]]]
    return chosen, tokens[len(tokens) - kept :].view(sizes["samples"], sizes["length"])
