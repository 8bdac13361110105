"""natsel: prune neural networks by natural selection.

Names are imported when they are first used, so that ``natsel --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib

# Not from typing, which takes longer to import than all the rest that the command line begins with.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from natsel.adaptive.adaptive import adapt
    from natsel.auditing.audit import audit
    from natsel.communities import Communities, Community, Cost, Refusal, rule
    from natsel.communities.as_program import as_program
    from natsel.communities.discover import discover
    from natsel.evolution import Evolution
    from natsel.extraction import (
        Compensation,
        Conversion,
        compensation_of,
        conversion_of,
        export_onnx,
    )
    from natsel.extraction.compensation import compensate
    from natsel.extraction.extract import extract
    from natsel.extraction.prediction import preview
    from natsel.extraction.verify import verify
    from natsel.fitness.score import score
    from natsel.io import load, open_model, save
    from natsel.selection import NM, Blocks, Latency, MACs, Parameters, Sparsity, Survivors, Weights
    from natsel.selection.select import select
    from natsel.single_weights.weights import weights

__version__ = "0.1.0"

__all__ = [
    "NM",
    "Blocks",
    "Communities",
    "Community",
    "Compensation",
    "Conversion",
    "Cost",
    "Evolution",
    "Latency",
    "MACs",
    "Parameters",
    "Refusal",
    "Sparsity",
    "Survivors",
    "Weights",
    "adapt",
    "as_program",
    "audit",
    "compensate",
    "compensation_of",
    "conversion_of",
    "discover",
    "export_onnx",
    "extract",
    "load",
    "open_model",
    "preview",
    "rule",
    "save",
    "score",
    "select",
    "verify",
    "weights",
]

_HOMES = {
    "communities": (
        "Communities",
        "Community",
        "Cost",
        "Refusal",
        "as_program",
        "discover",
        "rule",
    ),
    "evolution": ("Evolution",),
    "extraction": (
        "Compensation",
        "Conversion",
        "compensate",
        "compensation_of",
        "conversion_of",
        "export_onnx",
        "extract",
        "preview",
        "verify",
    ),
    "fitness": ("score",),
    "io": ("load", "open_model", "save"),
    "selection": (
        "NM",
        "Blocks",
        "Latency",
        "MACs",
        "Parameters",
        "Sparsity",
        "Survivors",
        "Weights",
        "select",
        "weights",
    ),
    "adaptive": ("adapt",),
    "auditing": ("audit",),
}
_ROOMS = (
    *(home for home in _HOMES if "." not in home),
    "data",
    "dynamics",
    "features",
    "models",
    "report",
    "runs",
    "study",
)


def __getattr__(name: str) -> Any:
    for room, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"natsel.{room}"), name)
            globals()[name] = value
            return value
    if name in _ROOMS:
        return importlib.import_module(f"natsel.{name}")
    raise AttributeError(f"module 'natsel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
