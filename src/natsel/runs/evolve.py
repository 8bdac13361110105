"""One run: train while evolving, remove what went extinct, measure what it cost, write it down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from natsel.common.errors import choose, refuse, refuse_together
from natsel.common.files import write_atomic, write_json
from natsel.common.importing import names_own
from natsel.common.logs import logger_of
from natsel.common.progress import Progress, silent
from natsel.dynamics import get as find_law
from natsel.evolution import Ecology, Evolution
from natsel.evolution.ecology import check_constants
from natsel.extraction import extract, verify
from natsel.fitness import get as find_fitness
from natsel.io import save
from natsel.models import MODELS, TASKS
from natsel.runs import environment
from natsel.runs.cuts import evolved_cuts, plain_cuts
from natsel.runs.folder import claim, finished, take
from natsel.runs.measure import describe, latency, stretch
from natsel.runs.networks import network, put_under_selection
from natsel.runs.splits import Splits, check_data, check_fit, load_splits
from natsel.runs.torchrun import ALONE, Processes
from natsel.runs.training import Recipe, Trained, make_optimizer, train
from natsel.selection import Sparsity

_LOG = logger_of(__name__)

SCHEMA = 1
KIND = "evolve"
RESULT = "result.json"
MASSES = "masses.safetensors"
CHECKPOINTS = ("checkpoint-evolved.safetensors", "checkpoint-dense.safetensors")
_PARTS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("task", "evolved", "extracted", "extinct", "verification"), dict),
    **dict.fromkeys(("versions", "hardware", "seconds"), dict),
    **dict.fromkeys(("communities", "history", "table"), list),
    **dict.fromkeys(("capacity", "git"), (dict, type(None))),
    "natsel": str,
}
"""What a result holds of which type, beside what :func:`natsel.runs.folder.finished` checks."""

SPARSITIES = (0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)
RECIPES = {
    "digits": Recipe(epochs=60, batch_size=32),
    "mnist": Recipe(epochs=8, batch_size=128),
    "cifar10": Recipe(epochs=20, batch_size=128, learning_rate=1e-3),
    # Its loss is reported as a perplexity, which smoothed labels would raise.
    "tinyshakespeare": Recipe(epochs=4, batch_size=64, learning_rate=3e-3, label_smoothing=0.0),
}
OWN_RECIPES = {
    # It learns from the hidden characters only: of a window of 64 the 10 that are.
    "bert": Recipe(epochs=6, batch_size=32, learning_rate=2e-3, label_smoothing=0.0),
}
"""For networks that need another recipe than their data set's."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the outcome of a run.

    Attributes:
        dataset: a name that ``natsel.data`` knows, or ``module:name`` of a loader.
        model: a reference network, or ``module:name`` of a function that makes one.
        dynamics: a registered law, or ``module:name`` of one.
        fitness: a registered signal, or ``module:name`` of one.
        seed: of the initial weights, the order of batches and stochastic laws.
        epochs: passes over the training split; None takes the default.
        batch_size: samples per step; None takes the default.
        learning_rate: of Adam; None takes the default.
        capacity: share of the populations that the environment carries, or None.
        sparsities: where to cut the evolved network for comparison.
        baselines: also train a plain network and cut it in one shot.
        options: options of the model.
        ecology: constants of the evolution (see ``natsel.evolution.Ecology``).
    """

    dataset: str = "mnist"
    model: str = "mlp"
    dynamics: str = "logistic"
    fitness: str = "taylor"
    seed: int = 0
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    capacity: float | None = None
    sparsities: tuple[float, ...] = SPARSITIES
    baselines: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    ecology: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_data(self.dataset, argument="dataset")
        if not names_own(self.model):
            choose("model", self.model, MODELS)
        check_fit(self.dataset, self.model)
        find_law(self.dynamics)
        find_fitness(self.fitness)
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            refuse("seed", self.seed, "a whole number from 0 to 2**63 - 1")
        for value in self.sparsities:
            Sparsity(value)
        if list(self.sparsities) != sorted(set(self.sparsities)):
            refuse("sparsities", list(self.sparsities), "ascending, each once")
        self.recipe()
        self.constants()

    def recipe(self) -> Recipe:
        """Return how to train, with the defaults of the network or the data set filled in."""
        default = OWN_RECIPES.get(self.model, RECIPES.get(self.dataset, Recipe()))
        return Recipe(
            default.epochs if self.epochs is None else self.epochs,
            default.batch_size if self.batch_size is None else self.batch_size,
            default.learning_rate if self.learning_rate is None else self.learning_rate,
            default.label_smoothing,
        )

    def constants(self) -> dict[str, Any]:
        """Return the constants of the evolution; refused here, before anything is computed."""
        given = {**self.ecology}
        if self.capacity is not None:
            if "capacity" in given:
                both = {"capacity": self.capacity, "ecology['capacity']": given["capacity"]}
                refuse_together(both, "one of them")
            given["capacity"] = self.capacity
        check_constants(given)
        law = find_law(self.dynamics)
        Ecology(**{**law.constants(), **given})
        return given

    def as_json(self) -> dict[str, Any]:
        """Return the configuration as it stands in result.json, defaults filled in."""
        law = find_law(self.dynamics)
        ecology = Ecology(**{**law.constants(), **self.constants()})
        constants = asdict(ecology)
        level = constants.pop("level")
        return {
            "dataset": self.dataset,
            "model": self.model,
            "options": dict(self.options),
            "dynamics": self.dynamics,
            "fitness": self.fitness,
            "seed": self.seed,
            **asdict(self.recipe()),
            **constants,
            "extinction_level": level,
            "sparsities": list(self.sparsities),
            "baselines": self.baselines,
        }


def evolve(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Progress = silent,
    warn: Callable[[str], None] | None = None,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Run the main job: evolve a network on real data, extract it, and write what it cost.

    The folder gets ``config.json`` first, a checkpoint after every epoch, and at the end
    ``masses.safetensors``, ``model.safetensors`` with ``plan.json``, and ``result.json``. Each
    file appears whole or not at all.

    Args:
        config: what to run.
        out: the run folder.
        resume: go on with a run that was stopped; with a finished one, return its result.
        progress: called while something takes long.
        warn: called before training with what speaks against landing at the capacity, if anything.
        processes: train together, each on its share of every batch. The first one does the rest.

    Returns:
        The content of ``result.json``; nothing in the other processes.

    Raises:
        ValueError: if an argument is not allowed, the folder holds another run, another process
            uses it, or what it holds of this run is damaged.
        NonFiniteError: if the loss or a fitness became NaN or infinite.
        OSError: if there is no space left; the run can go on from its last checkpoint.
    """
    folder = Path(out)
    if not processes.is_first:
        if processes.hear():
            _evolve(config, folder, progress, None, processes)
        return {}
    with claim(folder, config.as_json(), resume):
        trains = not (folder / RESULT).is_file()
        processes.tell(trains)
        if trains:
            return _evolve(config, folder, progress, warn, processes)
        result = finished(folder / RESULT, config.as_json(), KIND)
        parts = {**_PARTS, "dense": dict} if config.baselines else _PARTS
        wrong = [n for n, kind in parts.items() if not isinstance(result.get(n, ...), kind)]
        if wrong or result.get("schema") != SCHEMA:
            told = wrong[0] if wrong else f"schema {SCHEMA}"
            raise ValueError(f"{folder / RESULT} is damaged: it has no {told}")
        _clean(folder)
        return result


def _evolve(
    config: RunConfig,
    folder: Path,
    progress: Progress,
    warn: Callable[[str], None] | None,
    processes: Processes,
) -> dict[str, Any]:
    started = time.perf_counter()
    recipe = config.recipe()
    progress(f"load {config.dataset}", 0, 1)
    splits = load_splits(config.dataset, task=TASKS.get(config.model))
    progress(f"load {config.dataset}", 1, 1)
    model = network(config.model, splits, seed=config.seed, options=config.options)
    optimizer = make_optimizer(model, recipe)
    progress("find communities", 0, 1)
    evolution = put_under_selection(
        model,
        optimizer,
        splits,
        dynamics=config.dynamics,
        fitness=config.fitness,
        seed=config.seed,
        constants=config.constants(),
    )
    progress("find communities", 1, 1)
    communities = evolution.communities
    num_steps = recipe.epochs * math.ceil(len(splits.train[0]) / recipe.batch_size)
    if (forecast := evolution.forecast(num_steps)) is not None:
        _LOG.warning("%s", forecast)
        if warn is not None:
            warn(forecast)
    # Only now: what is wrong with the input has shown itself, and nothing was written for it.
    if processes.is_first:
        take(folder, config.as_json())
    trained = train(
        model,
        optimizer,
        splits,
        recipe,
        seed=config.seed,
        evolution=evolution,
        checkpoint=folder / CHECKPOINTS[0],
        run={**config.as_json(), "network": "evolved"},
        progress=progress,
        label=f"evolve ({config.dynamics})",
        processes=processes,
    )
    if not processes.is_first:
        if config.baselines:
            _plain(config, splits, folder, progress, processes)
        return {}
    survivors = evolution.survivors()
    _LOG.info("%r", evolution)
    small = extract(model, survivors)
    verification = verify(model, small, survivors, splits.test[0][:256])
    _LOG.info("%r", verification)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": KIND,
        "natsel": environment.versions()["natsel"],
        "config": config.as_json(),
        "task": _task(splits),
        **environment.record(git=True),
        "evolved": describe(model, *splits.test),
        "extracted": describe(small, *splits.test),
        "extinct": {
            "share": evolution.extinct_share,
            "count": communities.num_populations - evolution.num_alive,
            "total": communities.num_populations,
            "outlook": evolution.outlook().message,
        },
        "communities": [
            {
                "name": name,
                "kind": community.kind,
                "size": community.size,
                "extinct": int((~survivors[name]).sum()),
                "kept": int(survivors[name].sum()),
            }
            for name, community in communities.items()
        ],
        "verification": asdict(verification),
        "capacity": None if evolution.ecology.capacity is None else asdict(evolution.landing()),
        "history": trained.history,
    }
    rows, cut = evolved_cuts(evolution, model, splits, config.sparsities, progress)
    models = {"evolved": model, "extracted": small}
    seconds = {"train": trained.seconds}
    if config.baselines:
        plain, plain_trained = _plain(config, splits, folder, progress, processes)
        result["dense"] = describe(plain, *splits.test)
        rows += plain_cuts(plain, splits, config.sparsities, config.seed, progress)
        models["dense"] = plain
        seconds["train_dense"] = plain_trained.seconds
    result["table"] = rows
    _time(result, models, cut, splits.test[0], progress)
    result["seconds"] = {**seconds, "total": time.perf_counter() - started}
    write_atomic(folder / MASSES, safetensors.torch.save(_masses(evolution)))
    save(small, folder)
    write_json(folder / RESULT, result)
    _clean(folder)
    return result


def _plain(
    config: RunConfig, splits: Splits, folder: Path, progress: Progress, processes: Processes
) -> tuple[nn.Module, Trained]:
    """Train the same network without evolution."""
    recipe = config.recipe()
    plain = network(config.model, splits, seed=config.seed, options=config.options)
    trained = train(
        plain,
        make_optimizer(plain, recipe),
        splits,
        recipe,
        seed=config.seed,
        checkpoint=folder / CHECKPOINTS[1],
        run={**config.as_json(), "network": "dense"},
        progress=progress,
        label="train (plain, for comparison)",
        processes=processes,
    )
    return plain, trained


def _task(splits: Splits) -> dict[str, str]:
    """Say what is predicted and what an interval rests on."""
    if splits.task is None:
        return {"predicts": "class", "unit": "sample" if names_own(splits.name) else "image"}
    size = stretch(len(splits.test[0])) * splits.in_shape[0]
    return {"predicts": splits.task, "unit": f"stretch of {size} characters"}


def _clean(folder: Path) -> None:
    """Remove what only an unfinished run needs."""
    for name in CHECKPOINTS:
        (folder / name).unlink(missing_ok=True)


def _time(
    result: dict[str, Any],
    models: Mapping[str, nn.Module],
    cut: Mapping[float, nn.Module],
    sample: Tensor,
    progress: Progress,
) -> None:
    """Measure all models in turn and put each latency beside its accuracy."""
    progress("measure latency", 0, 1)
    # A gated model pays for its gates; what is compared is the plain network of its size.
    timed = {n: m for n, m in models.items() if n != "evolved" or "dense" not in models}
    times = latency({**timed, **{f"cut {s}": m for s, m in cut.items()}}, sample)
    progress("measure latency", 1, 1)
    for name in timed:
        result[name]["latency"] = times[name]
    for row in result["table"]:
        if row["family"] == "dynamic":
            row["latency"] = times[f"cut {row['sparsity']}"]


def _masses(evolution: Evolution) -> dict[str, Tensor]:
    trajectory = evolution.trajectory
    sizes = [c.size for c in evolution.communities.values()]
    tensors = {"steps": trajectory.steps}
    columns = torch.split(trajectory.masses, sizes, dim=1)
    for name, column in zip(evolution.communities, columns, strict=True):
        tensors[f"mass/{name}"] = column.contiguous()
    for name, value in evolution.fitness_values.items():
        tensors[f"fitness/{name}"] = value.cpu()
    for name, value in evolution.alive.items():
        tensors[f"alive/{name}"] = value.cpu()
    return tensors
