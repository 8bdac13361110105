"""``natsel list``: what has a name on the command line, each with a line on what it is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import typer
from rich.table import Table

from natsel.cli.commands import with_examples
from natsel.cli.console import Voice, clear_errors
from natsel.common.errors import did_you_mean, refuse

OPTIONS = {
    "laws": "--dynamics",
    "fitnesses": "--fitness",
    "scorers": "--scorer",
    "features": "",
    "budgets": "--budget",
    "data": "--data, --dataset",
    "models": "MODEL, --model",
}
"""What can be listed, and where such a name is given."""

ALSO = {"dynamics": "laws", "fitness": "fitnesses", "scorer": "scorers", "budget": "budgets"} | {
    "dataset": "data",
    "model": "models",
    "feature": "features",
}
"""The words of the options, for those that are called otherwise."""


@with_examples("natsel list", "natsel list scorers", "natsel list laws --json")
def list_(
    what: Annotated[
        str | None, typer.Argument(help=f"{', '.join(OPTIONS)}; all without it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what has a name: laws, fitnesses, scorers, features, budgets, data sets, models."""
    voice = Voice(as_json=as_json)
    with clear_errors(voice=voice):
        if what is not None and ALSO.get(what, what) not in OPTIONS:
            hint = did_you_mean(what, OPTIONS)
            refuse("what", what, f"one of {', '.join(OPTIONS)}{hint}")
        chosen = OPTIONS if what is None else (ALSO.get(what, what),)
        found = {name: TABLES[name]() for name in chosen}
        for name, entries in found.items():
            where = f" ({OPTIONS[name]})" if OPTIONS[name] else ""
            table = Table(title=f"{name}{where}", title_justify="left", show_header=False)
            table.add_column(overflow="fold", no_wrap=True)
            table.add_column(overflow="fold")
            for entry, told in entries.items():
                table.add_row(entry, told)
            voice.words.print(table)
        voice.result(found)


def told_of(thing: Any) -> str:
    """Return the first sentence of what something says of itself, as plain text.

    Example:
        >>> def norm(parts):
        ...     '''Return the L1 norm of the weights: ``[size]``.
        ...
        ...     More.'''
        >>> told_of(norm)
        'The L1 norm of the weights.'
    """
    while isinstance(thing, partial):
        thing = thing.func
    paragraph = (inspect.getdoc(thing) or "").split("\n\n")[0]
    text = " ".join(paragraph.split()).replace("``", "").replace("$", "").removesuffix(".")
    text = re.sub(r"[:,]? *\[[a-z, ]*\]$", "", text).removeprefix("Return ").strip()
    if not text:
        return ""
    first = text.split()[0]
    # A formula is left as it is.
    is_word = first.isalpha() and len(first) > 1
    return f"{first.capitalize() if is_word else first}{text[len(first) :]}."


def _laws() -> Mapping[str, str]:
    from natsel.dynamics import DYNAMICS

    return {name: told_of(law.step) for name, law in DYNAMICS.items()}


def _fitnesses() -> Mapping[str, str]:
    from natsel.fitness import FITNESS

    told = {}
    for name, fitness in FITNESS.items():
        reads = fitness.needs_gradient or fitness.statistic is not None
        told[name] = told_of(fitness.signal) + (" Reads data." if reads else "")
    return told


def _scorers() -> Mapping[str, str]:
    from natsel.features import CLASSES
    from natsel.fitness import BRANCH_SCORERS, EXPERT_SCORERS

    of_branches = {
        name: f"{told_of(scorer.score)} Of branches. Reads data."
        for name, scorer in BRANCH_SCORERS.items()
    }
    of_experts = {
        name: f"{told_of(scorer.score)} Of experts. Reads data."
        for name, scorer in EXPERT_SCORERS.items()
    }
    classes = {
        name: f"Features of the magnitude's rank, complexity {c.kappa}: "
        f"{', '.join(f.name for f in c.features)}."
        for name, c in CLASSES.items()
    }
    adaptive = {"adaptive": "Chooses among all of them by proof, on validation data. Reads data."}
    return {**_fitnesses(), **of_branches, **of_experts, **classes, **adaptive}


def _features() -> Mapping[str, str]:
    from natsel.features import FEATURES

    return {
        name: f"{told_of(f.function)} Complexity {f.kappa}.".strip() for name, f in FEATURES.items()
    }


def _budgets() -> Mapping[str, str]:
    from natsel.runs.prune import BUDGETS

    return {f"{name}=SHARE": told_of(budget) for name, budget in BUDGETS.items()}


def _data() -> Mapping[str, str]:
    from natsel.data import TEXTS, names
    from natsel.data.sources import SOURCES

    told = dict.fromkeys(names(), "8 x 8 images of digits, which come with scikit-learn.")
    for name, source in SOURCES.items():
        shape = " x ".join(map(str, source.shape))
        told[name] = f"{shape} images in {len(source.classes)} classes ({source.hub})."
    return {**told, **dict.fromkeys(TEXTS, "A text, read character by character.")}


def _models() -> Mapping[str, str]:
    from natsel.models import MODELS

    others = {
        "a folder": "What natsel evolve, natsel prune, natsel.save or save_pretrained wrote.",
        "hf:NAME": "A folder or a name on the Hugging Face Hub.",
    }
    return {name: told_of(model) for name, model in MODELS.items()} | others


TABLES: dict[str, Callable[[], Mapping[str, str]]] = {
    "laws": _laws,
    "fitnesses": _fitnesses,
    "scorers": _scorers,
    "features": _features,
    "budgets": _budgets,
    "data": _data,
    "models": _models,
}
