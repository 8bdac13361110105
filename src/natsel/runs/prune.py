"""Prune a trained model once: score, select, extract, verify, and say what it cost."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from natsel.adaptive.adaptive import LEAST, adapt
from natsel.common.batches import Data, inputs_for
from natsel.common.calls import Inputs, cross_entropy, first_samples
from natsel.common.errors import choose, did_you_mean, first_line, refuse, refuse_together
from natsel.common.files import json_last, read_json, sweep
from natsel.common.importing import check_call, imported, made, names_own
from natsel.common.logs import logger_of
from natsel.common.mapped import letting_go
from natsel.common.memory import give_back, peak_memory
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.common.registry import Registry
from natsel.common.texts import LENGTH, SAMPLES
from natsel.communities import Communities, discover
from natsel.communities.kinds import BRANCH, GROUP, QUERY, WITHIN
from natsel.data.windows import check_windows
from natsel.extraction import compensation_of, extract, plan_of, verify, with_masked_values
from natsel.extraction.biases import with_biases
from natsel.extraction.store import PLAN_FILE, check_room
from natsel.features.scorers import ADAPTIVE, default_scorer, reads_data
from natsel.integrations.transformers.pretrained import has_code
from natsel.io import load, save
from natsel.io.opening import Opened
from natsel.pruning import carry_out
from natsel.pruning.prune import scores_by
from natsel.pruning.texts import Reading
from natsel.pruning.ways import check_depth, with_branches
from natsel.quality import Quality, advice, losses, measure_for, quality_of
from natsel.runs import environment
from natsel.runs.folder import alone
from natsel.runs.material import Material, check_source, open_material
from natsel.runs.measure import Outcomes, accuracy_of_outcomes, accuracy_quality, outcomes
from natsel.runs.oneshot import calibration
from natsel.runs.splits import Splits
from natsel.runs.torchrun import ALONE, Processes
from natsel.runs.turning import of_the_given, plain_rotation, turned_model, turned_words
from natsel.selection import CostBudget, Latency, MACs, Parameters, Sparsity, Survivors
from natsel.selection.normalize import Normalization
from natsel.selection.select import Budget
from natsel.selection.sequence import Scope

if TYPE_CHECKING:
    from natsel.levels import Levels

_LOG = logger_of(__name__)

KIND = "prune"
RECOVERED = "recover"
RESULT = "result.json"
NOT_PLAIN = (
    "layers have one width, but no plain configuration of this class says it: whatever reads the "
    "folder has to trust the code in it; leave heads whole (--exclude) where the class ties their "
    "number to its width"
)
NUM_VERIFIED = 64
BUDGETS: Registry[Callable[[float], Budget]] = Registry(
    "budget",
    {
        "sparsity": Sparsity,
        "parameters": Parameters,
        "macs": MACs,
        "latency": Latency,
        "decode": Latency.decode,
    },
)
"""What a budget can be of; each takes a share: of the populations that go, or of what is left."""


@dataclass(frozen=True)
class PruneConfig:
    """What to prune, and how.

    Attributes:
        model: what ``natsel.open_model`` opens.
        budget: ``NAME=SHARE`` with a name of ``BUDGETS``, or ``module:name=NUMBER`` of a class of
            your own.
        scorer: a registered fitness, a feature class of the magnitude's rank, ``module:name`` of
            one, or "adaptive", which chooses among them on the validation split; None for the
            default of the model and its data (:func:`natsel.features.scorers.default_scorer`).
        data: name of a data set, a text (see :func:`natsel.data.read_corpus`), or ``module:name``
            of a loader, for scorers that read one, for compensation, and to measure accuracy; or
            None.
        held_out: another text, or ``module:name``, to measure the dense and the small model on.
        tokenizer: folder of the tokenizer, or ``hf:NAME``; None for that of the model.
        length: tokens in a window of a text.
        samples: how many windows of each text, spread evenly over it.
        scope: "community" or "global".
        normalize: "rank", "mean" or "none".
        multiple_of: of what the kept counts are multiples; or "auto", to measure that.
        uniform: the same count in every layer, so that the configuration is a plain one.
        include: patterns of community names that take part; empty for all.
        exclude: patterns of community names that stay whole.
        residual: also offer widths that a normalisation runs over.
        rotate: turn the residual width of a language model to its principal axes first, over the
            data (:func:`natsel.rotate`), and offer it.
        bias: put biases of zero where the configuration can say them, for compensation to fill.
        kinds: of the communities that give; empty for all. "branch" offers branches, "query head"
            and the kinds of dimensions what the next two do.
        dims: offer dimensions inside heads instead of heads.
        query_heads: offer query heads instead of whole groups that share keys and values.
        expert_groups: offer groups of experts, where routers choose these first.
        rival: "adaptive": what a search keeps is no worse than its plan, either, on windows that
            decide; its race runs hundreds of plans besides.
        search: how many vectors of levels, between communities, are judged by evolution on the
            data; None to let the scores decide that.
        branches: also offer branches of residual streams.
        blocks: also offer whole blocks.
        compensate: let the survivors take over what the others did, over the data; None for
            wherever there are data.
        measure: time the dense and the small model in turn.
        seed: of the calibration batches, and of a reference network's weights.
    """

    model: str
    budget: str
    scorer: str | None = None
    data: str | None = None
    held_out: str | None = None
    tokenizer: str | None = None
    length: int = LENGTH
    samples: int = SAMPLES
    scope: str = "community"
    normalize: str = "rank"
    multiple_of: int | Literal["auto"] = 1
    uniform: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    residual: bool = False
    rotate: bool = False
    bias: bool = False
    kinds: tuple[str, ...] = ()
    dims: bool = False
    query_heads: bool = False
    expert_groups: bool = False
    search: int | None = None
    rival: str | None = None
    branches: bool = False
    blocks: bool = False
    compensate: bool | None = None
    measure: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scorer is not None and reads_data(self.scorer) and self.data is None:
            refuse("data", None, f"the name of a data set: the scorer {self.scorer!r} reads one")
        if self.compensate and self.data is None:
            refuse("data", None, "the name of a data set: compensation reads one")
        if self.rotate and self.data is None:
            refuse("data", None, "a text: rotate turns the residual width to the axes of one")
        if self.bias and not _compensates(self):
            told = {"bias": True, "data": self.data, "compensate": self.compensate}
            refuse_together(told, "bias with data and compensation, which fills it")
        choose("scope", self.scope, ("community", "global"))
        choose("normalize", self.normalize, ("rank", "mean", "none"))
        parse_budget(self.budget)
        check_windows(self.length, self.samples)
        if self.data is not None:
            check_source(self.data)
        if self.held_out is not None:
            check_source(self.held_out, argument="held_out")
        self._check_search()
        self._check_together()

    def _check_search(self) -> None:
        """Refuse a search without data, and what it decides itself."""
        if self.rival is not None:
            choose("rival", self.rival, (ADAPTIVE,))
            if self.search is None or self.depth or BRANCH.name in self.kinds:
                allowed = "a search without branches: 'adaptive' knows none"
                refuse_together({"rival": self.rival, "search": self.search}, allowed)
        if self.search is None:
            return
        check_whole("search", self.search)
        if self.data is None:
            refuse("data", None, "the name of a data set: a search runs on one")
        own = (
            "scope",
            "normalize",
            "multiple_of",
            "uniform",
            "include",
            "exclude",
            "residual",
            "rotate",
        )
        usual = {f.name: f.default for f in fields(self)}
        if given := {n: getattr(self, n) for n in own if getattr(self, n) != usual[n]}:
            refuse_together({"search": self.search, **given}, "a search without them")
        if self.scorer == ADAPTIVE:
            refuse_together({"search": self.search, "scorer": ADAPTIVE}, "one of them")

    @property
    def inside(self) -> dict[str, bool]:
        """What :func:`natsel.discover` is asked for inside of heads and groups of them."""
        return {
            "dims": self.dims or not WITHIN.isdisjoint(self.kinds),
            "query_heads": self.query_heads or QUERY.name in self.kinds,
            "expert_groups": self.expert_groups or GROUP.name in self.kinds,
        }

    @property
    def depth(self) -> bool | Literal["blocks"]:
        """What :func:`natsel.discover` is asked for as ``branches``."""
        return "blocks" if self.blocks else self.branches

    def _check_together(self) -> None:
        """Refuse options that say nothing beside others."""
        if self.branches and self.blocks:
            refuse_together({"branches": True, "blocks": True}, "one of them")
        check_depth(self.scorer, self.depth, has_data=self.data is not None)
        others = {
            name: value
            for name, value, usual in (
                ("scope", self.scope, "community"),
                ("normalize", self.normalize, "rank"),
                ("uniform", self.uniform, False),
            )
            if value != usual
        }
        if self.scorer == ADAPTIVE and others:
            given = {"scorer": self.scorer, **others}
            refuse_together(given, f"{ADAPTIVE} alone: it chooses scope, scale and widths by proof")
        if self.scope == "community" and "normalize" in others:
            given = {"scope": self.scope, "normalize": self.normalize}
            refuse_together(given, "scope global: within one community nothing is normalised")


def parse_budget(text: str) -> Budget:
    """Return the budget that a text names.

    Raises:
        ValueError: if it is none.

    Example:
        >>> parse_budget("macs=0.5")
        MACs(0.5): keeps 50 % of the multiply-accumulates
    """
    name, separator, number = text.partition("=")
    if names_own(name):
        return _own_budget(name, number)
    try:
        share = float(number)
    except ValueError:
        separator = ""
    if not separator or name not in BUDGETS:
        hint = did_you_mean(name.strip(), BUDGETS) if name not in BUDGETS else ""
        names = ", ".join(BUDGETS)
        allowed = f"NAME=SHARE such as macs=0.5, NAME one of {names}"
        what = "sparsity removes its share, the others keep theirs"
        refuse("budget", text, f"{allowed}; {what}{hint}")
    return BUDGETS[name](share)


def _own_budget(name: str, number: str) -> Budget:
    """Return a user's own budget of a number."""
    found = imported("budget", name)
    check_call("budget", name, found, "number")
    try:
        value = int(number) if number.strip().isdecimal() else float(number)
    except ValueError:
        refuse("budget", f"{name}={number}", "module:name=NUMBER")
    budget = made("budget", name, partial(found, value))
    if not isinstance(budget, CostBudget):
        refuse("budget", name, "a budget: what has gauge(), see natsel.selection.CostBudget")
    return budget


def budget_words(text: str) -> str:
    """Return what a budget asks, in words.

    Example:
        >>> budget_words("sparsity=0.7")
        'Budget sparsity=0.7: removes 70 % of the populations'
    """
    budget = parse_budget(text)
    if text.partition("=")[0] not in BUDGETS:
        return f"Budget {text}"
    return f"Budget {text}: {repr(budget).partition(': ')[2]}"


def prune(
    config: PruneConfig,
    out: str | Path,
    *,
    progress: Progress = silent,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Prune a model to a budget and save the small one.

    Args:
        config: what to prune, and how.
        out: folder for the small model.
        progress: called between the parts.
        processes: score together, each on its share of the batches. The first one does the rest.

    Returns:
        What was removed, what it saves and costs, as plain data; ``"summary"`` says it in words.
        Nothing in the other processes.

    Raises:
        ValueError: if an argument is not allowed, the budget cannot be met, or the folder holds
            files that are not of an earlier ``prune`` or is used by another process.
        OSError: if there is no space left; what was there is then untouched.
        VerificationError: if the small model differs from the masked one; nothing is saved.
    """
    folder = Path(out)
    if not processes.is_first:
        with letting_go():
            return _prune(config, folder, progress, processes) if processes.hear() else {}
    with alone(folder), letting_go():
        _check_out(folder)
        sweep(folder)
        processes.tell(True)
        return _prune(config, folder, progress, processes)


def _prune(
    config: PruneConfig, folder: Path, progress: Progress, processes: Processes
) -> dict[str, Any]:
    steps = (
        *("open", "find communities", "score", "select", "extract and verify"),
        *(("compensate",) if _compensates(config) else ()),
        "measure",
    )

    def step(number: int) -> None:
        progress("prune: " + steps[min(number, len(steps) - 1)], number, len(steps))

    step(0)
    material = open_material(
        *(config.model, config.data, config.held_out),
        tokenizer=config.tokenizer,
        length=config.length,
        samples=config.samples,
        seed=config.seed,
    )
    opened, splits, held_out = material.opened, material.splits, material.held_out
    data: Data | None = calibration(splits, config.seed) if splits is not None else None
    if material.calibration is not None:
        data = material.calibration.batches
    scorer = config.scorer
    if scorer is None:
        scorer = default_scorer(language=material.language, has_data=data is not None)
    adaptive = scorer == ADAPTIVE
    if processes.size > 1 and (adaptive or config.search is not None):
        what = "search" if config.search is not None else "scorer"
        allowed = "one process for it (without torchrun), or a scorer such as taylor or wanda"
        refuse(what, ADAPTIVE if adaptive else config.search, allowed)
    if (adaptive or config.rival is not None) and material.calibration is not None:
        _check_samples(material.calibration)
    before = None
    if held_out is not None and processes.is_first:
        before = losses(opened.model, held_out.batches)
    step(1)
    inputs = _real_inputs(opened, splits)
    depth = config.depth or BRANCH.name in config.kinds
    model, budget, turned = opened.model, parse_budget(config.budget), None
    flags: tuple[str, ...] = ()
    if config.bias:
        model, flags = with_biases(model)
    if config.rotate:
        assert data is not None
        model, turned = turned_model(model, data)
    given = sum(p.numel() for p in opened.model.parameters())
    if model is not opened.model:
        budget = of_the_given(budget, given)
    widths = config.residual or config.rotate
    communities = discover(model, inputs, residual=widths, branches=depth, **config.inside)
    communities.require("model", config.model)
    if config.kinds:
        communities = communities.only(*config.kinds)
    levels: Levels | None = None

    def scored(by: Any) -> Mapping[str, Tensor]:
        return scores_by(communities, by, processes.batches(data), cross_entropy, processes.group)

    if not processes.is_first:
        scored(with_branches(scorer, communities))
        return {}

    def searched() -> Survivors:
        from natsel.levels import evolve_levels  # whose statistics take room

        nonlocal levels
        assert config.search is not None
        assert data is not None
        own = config.scorer is not None
        generator = torch.Generator().manual_seed(config.seed)
        rivals = {}
        if config.rival is not None:
            rivals[config.rival] = adapt(
                communities,
                parse_budget(config.budget),
                data=data if splits is None else [splits.validation],
                calibration=None if splits is None else data,
                generator=generator,
            ).survivors
        levels = evolve_levels(
            communities,
            parse_budget(config.budget),
            data,
            scores=scores_by(communities, scorer, data, cross_entropy) if own else None,
            rivals=rivals,
            evaluations=config.search,
            generator=generator,
            progress=progress,
        )
        return levels.survivors

    pruned = carry_out(
        communities,
        budget,
        scorer=scorer,
        data=data,
        validation=[splits.validation] if adaptive and splits is not None else None,
        compensate=_compensates(config),
        scope=cast(Scope, config.scope),
        normalize=cast(Normalization, None if config.normalize == "none" else config.normalize),
        measure=config.measure,
        generator=torch.Generator().manual_seed(config.seed),
        progress=lambda _, done, __: step(done + 2),
        decide=searched if config.search is not None else None,
        scored=scored,
        share=True,  # of the two, the small one is written and both are let go
        options={
            "multiple_of": config.multiple_of,
            "uniform": config.uniform,
            "include": config.include or None,
            "exclude": config.exclude or None,
        },
    )
    survivors, small = pruned.survivors, pruned.small
    predicted = pruned.prediction
    if model is not opened.model:
        predicted = replace(predicted, dense=replace(predicted.dense, parameters=given))
    verification, adapted, done = pruned.verification, pruned.adapted, pruned.compensation
    assert verification is not None
    for found in (predicted, verification, *((done,) if done is not None else ())):
        _LOG.info("%r", found)
    rounding = survivors.rounding
    models = {"dense": opened.model, "small": small}
    give_back()
    if done is not None and splits is not None:
        models["uncompensated"] = extract(opened.model, survivors, verify=False)
    step(len(steps) - 1)
    turned_out = _turned_out(models, splits)
    quality = _quality(turned_out)
    if held_out is not None and before is not None:
        chosen = measure_for(opened.model, held_out.batches)
        quality = quality_of(losses(small, held_out.batches), before, measure=chosen)
    notes = _notes(config, material, scorer)
    if flags:
        notes.insert(0, f"biases were put in, which the configuration says: {', '.join(flags)}")
    if turned is not None:
        notes.insert(0, turned_words(turned))
    if quality is not None:
        told = advice(quality, data_aware=reads_data(scorer), compensated=done is not None)
        if told is not None:
            warnings.warn(told, stacklevel=3)
    result: dict[str, Any] = {
        "kind": KIND,
        "config": {**asdict(config), "scorer": scorer},
        "model": opened.description,
        "communities": _kept(survivors, communities),
        "rounding": rounding and {"summary": rounding.summary(), **asdict(rounding)},
        "parameters": [predicted.dense.parameters, predicted.small.parameters],
        "macs": [predicted.dense.macs, predicted.small.macs],
        "verification": asdict(verification),
        "adaptive": adapted and adapted.plain(),
        "levels": levels and levels.plain(),
        "rotation": turned and plain_rotation(turned),
        "compensation": done and {"summary": done.summary(), **done.to_dict()},
        "accuracy": _accuracies(turned_out, splits),
        "quality": quality and quality.plain(),
        "text": material.plain(),
        "notes": notes,
        "summary": predicted.summary(),
        "prediction": asdict(predicted),
        "peak_memory": peak_memory(),
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "out": str(folder),
    }
    with json_last(folder / RESULT, result):
        save(small, folder, tokenizer=config.tokenizer and material.tokenizer, card=result)
    if config.uniform and has_code(folder):
        warnings.warn(NOT_PLAIN, stacklevel=3)
    progress("prune: done", len(steps), len(steps))
    return result


def _check_samples(calibration: Reading) -> None:
    """Refuse fewer windows than can be raced on and confirmed with, before any of them is read."""
    cut = calibration.cut
    least = LEAST["loss"]
    if cut is not None and cut.windows < least:
        allowed = f"at least {least} for the scorer {ADAPTIVE!r}, which races and confirms apart"
        refuse("samples", cut.windows, allowed)


def _check_out(folder: Path) -> None:
    """Make sure that nothing but an earlier small model is written over."""
    check_room(folder, "out")
    earlier = folder / RESULT
    if os.path.lexists(earlier):
        found = read_json(earlier) if earlier.is_file() else None
        if not isinstance(found, dict) or found.get("kind") != KIND:
            refuse("out", str(folder), f"a folder whose {RESULT} is none, or one of natsel prune")


def verify_saved(
    model: str,
    folder: str | Path,
    *,
    data: str | None = None,
    tokenizer: str | None = None,
    length: int = LENGTH,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare a saved small model with the model that it was cut from.

    What compensation changed is meant to differ. It is set back for the comparison, so that what
    is compared is all the rest.

    Args:
        model: the dense model, as ``natsel.open_model`` opens it.
        folder: what :func:`prune` or ``natsel.save`` wrote.
        data: name of a data set or a text to compare on, too; or None for random inputs alone.
        tokenizer: folder of the tokenizer, or ``hf:NAME`` of a text; None for that of the model.
        length: tokens in a window of a text.
        samples: how many windows of it.
        seed: of a reference network's weights, and of random inputs.

    Returns:
        The differences on random and on real inputs, as plain data.

    Raises:
        ValueError: if the two do not belong together.
    """
    material = open_material(
        *(model, data),
        tokenizer=tokenizer,
        tokenizers=(str(folder),),
        length=length,
        samples=samples,
        seed=seed,
    )
    opened, splits = material.opened, material.splits
    earlier = Path(folder) / RESULT
    told = read_json(earlier) if earlier.is_file() else None
    if isinstance(told, dict) and told.get("kind") == RECOVERED:
        allowed = "what natsel prune wrote: this one was trained since, and equals no masked model"
        refuse("folder", str(folder), allowed)
    if isinstance(told, dict) and told.get("rotation"):
        allowed = "what was not turned (--rotate): it was proven while it was cut, see result.json"
        refuse("folder", str(folder), allowed)
    if isinstance(told, dict) and told.get("blocks") and not (Path(folder) / PLAN_FILE).is_file():
        allowed = "a folder with plan.json: what is cut block by block is proven while it is cut"
        refuse("folder", str(folder), allowed)
    if isinstance(told, dict) and told.get("config", {}).get("bias"):
        opened = replace(opened, model=with_biases(opened.model)[0])
    small = load(folder, model=opened.model)
    plan = plan_of(small)
    if plan.sparse is not None and not plan.survivors:
        from natsel.runs.prune_weights import verify_sparse  # which prunes as this does

        return verify_sparse(opened.description, opened.model, small, str(folder))
    kinds = plan.kinds
    inside = {
        "dims": not WITHIN.isdisjoint(kinds),
        "query_heads": QUERY.name in kinds,
        "expert_groups": GROUP.name in kinds,
    }
    communities = discover(opened.model, opened.example_inputs, **inside)
    if missing := set(plan.survivors) - set(communities):
        deep = [name for name in missing if ":b" in name]
        communities = discover(
            opened.model,
            opened.example_inputs,
            residual=len(missing) > len(deep),
            branches="blocks" if any(":blocks" in name for name in deep) else bool(deep),
            **inside,
        )
    masks = {}
    for name, kept in plan.survivors.items():
        if name not in communities or communities[name].size != plan.sizes[name]:
            refuse("folder", str(folder), f"a model that was cut from {opened.description}")
        masks[name] = torch.zeros(plan.sizes[name], dtype=torch.bool)
        masks[name][kept] = True
    survivors = Survivors(masks, communities)
    models = {"dense": opened.model, "small": small}
    done = compensation_of(small)
    plain = small
    if done is not None:
        plain = with_masked_values(opened.model, small, survivors, done.tensors)
        models["uncompensated"] = plain
    on = {"random inputs": opened.example_inputs}
    if splits is not None:
        on[f"{data}, test split"] = _real_inputs(opened, splits)
    if material.calibration is not None:
        first = next(iter(material.calibration.batches))
        on[str(data)] = inputs_for(opened.model, first)
    try:
        found = {name: verify(opened.model, plain, survivors, x) for name, x in on.items()}
    except RuntimeError as error:
        what = f"the model that {folder} was cut from, which runs on its inputs"
        refuse("model", model, f"{what} ({first_line(error)})")
    return {
        "kind": "verify",
        "model": opened.description,
        "folder": str(folder),
        "passed": all(v.passed for v in found.values()),
        "on": {name: asdict(v) for name, v in found.items()},
        "compensation": done and {"summary": done.summary(), **done.to_dict()},
        "accuracy": _accuracies(_turned_out(models, splits), splits),
    }


def _real_inputs(opened: Opened, splits: Splits | None) -> Inputs:
    """Return test samples where there are any, else the example inputs."""
    if splits is None:
        return opened.example_inputs
    inputs = splits.test[0][:NUM_VERIFIED]
    if isinstance(opened.example_inputs, dict):
        return {next(iter(opened.example_inputs)): inputs}
    return first_samples((inputs,), NUM_VERIFIED)


def _kept(survivors: Mapping[str, Tensor], communities: Communities) -> list[dict[str, Any]]:
    return [
        {"name": n, "kind": c.kind, "size": c.size, "kept": int(survivors[n].sum())}
        for n, c in communities.items()
    ]


def _compensates(config: PruneConfig) -> bool:
    return config.data is not None if config.compensate is None else config.compensate


def _turned_out(models: Mapping[str, nn.Module], splits: Splits | None) -> dict[str, Outcomes]:
    if splits is None:
        return {}
    return {name: outcomes(model, *splits.test) for name, model in models.items()}


def _accuracies(
    found: Mapping[str, Outcomes], splits: Splits | None
) -> dict[str, dict[str, float]] | None:
    if splits is None:
        return None
    intervals = {name: accuracy_of_outcomes(each)[0] for name, each in found.items()}
    return {
        name: {"accuracy": interval.mean, "low": interval.low, "high": interval.high}
        for name, interval in intervals.items()
    }


def _quality(found: Mapping[str, Outcomes]) -> Quality | None:
    """Return the accuracy on the test split, before and after, as quality."""
    if not found:
        return None
    return accuracy_quality(found["small"], found["dense"])


def _notes(config: PruneConfig, material: Material, scorer: str) -> list[str]:
    """Say what a language model without data costs, and what was not measured."""
    notes: list[str] = []
    if not material.language:
        return notes
    if config.data is None and not reads_data(scorer):
        notes.append(
            f"scored by {scorer} without data, which on language models is often worse than chance "
            "and lets no survivor take over: --data FILE names a text to score on"
        )
    if material.held_out is None and material.splits is None:
        notes.append("no perplexity was measured: --held-out FILE names another text for that")
    return notes
