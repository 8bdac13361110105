"""natsel: prune neural networks by natural selection.

Names are imported when they are first used, so that ``natsel --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib

# Not from typing, which takes longer to import than all the rest that the command line begins with.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from natsel.adaptive.adaptive import Adapted, adapt
    from natsel.auditing.audit import audit
    from natsel.auditing.result import Audit
    from natsel.common.errors import NonFiniteError
    from natsel.common.extras import MissingExtraError
    from natsel.communities import Communities, Community, Cost, Refusal, adapter, rule
    from natsel.communities.as_program import as_program
    from natsel.communities.discover import discover
    from natsel.evolution import Evolution, PartedError
    from natsel.extraction import (
        Compensation,
        Conversion,
        Prediction,
        Rotation,
        Verification,
        VerificationError,
        compensation_of,
        conversion_of,
        export_onnx,
        masks_of,
        rotation_of,
        to_semi_structured,
    )
    from natsel.extraction.compensation import compensate
    from natsel.extraction.extract import extract
    from natsel.extraction.prediction import preview
    from natsel.extraction.rotation import rotate
    from natsel.extraction.verify import verify
    from natsel.fitness.score import Scores, score, score_all
    from natsel.io import load, open_model, save
    from natsel.levels import Levels, Shares, evolve_levels
    from natsel.live_populations.allowances import Bytes, Held
    from natsel.live_populations.live import live
    from natsel.pruning.evaluate import evaluate
    from natsel.pruning.prune import prune
    from natsel.pruning.pruned import Pruned
    from natsel.pruning.shares import evolve_shares
    from natsel.pruning.sparsified import Sparsified
    from natsel.pruning.sparsify import sparsify
    from natsel.quality.quality import Quality
    from natsel.recovery.recover import Recovered, recover
    from natsel.selection import NM, Blocks, Latency, MACs, Parameters, Sparsity, Survivors, Weights
    from natsel.selection.holding import Hold, hold
    from natsel.selection.select import select
    from natsel.selection.zeroing import zero_
    from natsel.single_weights.weights import weights
    from natsel.streaming import PrunedFolder, prune_folder

__version__ = "0.1.0"

__all__ = [
    "NM",
    "Adapted",
    "Audit",
    "Blocks",
    "Bytes",
    "Communities",
    "Community",
    "Compensation",
    "Conversion",
    "Cost",
    "Evolution",
    "Held",
    "Hold",
    "Latency",
    "Levels",
    "MACs",
    "MissingExtraError",
    "NonFiniteError",
    "Parameters",
    "PartedError",
    "Prediction",
    "Pruned",
    "PrunedFolder",
    "Quality",
    "Recovered",
    "Refusal",
    "Rotation",
    "Scores",
    "Shares",
    "Sparsified",
    "Sparsity",
    "Survivors",
    "Verification",
    "VerificationError",
    "Weights",
    "adapt",
    "adapter",
    "as_program",
    "audit",
    "compensate",
    "compensation_of",
    "conversion_of",
    "discover",
    "evaluate",
    "evolve_levels",
    "evolve_shares",
    "export_onnx",
    "extract",
    "hold",
    "live",
    "load",
    "masks_of",
    "open_model",
    "preview",
    "prune",
    "prune_folder",
    "recover",
    "rotate",
    "rotation_of",
    "rule",
    "save",
    "score",
    "score_all",
    "select",
    "sparsify",
    "to_semi_structured",
    "verify",
    "weights",
    "zero_",
]

_HOMES = {
    "communities": (
        "Communities",
        "Community",
        "Cost",
        "Refusal",
        "adapter",
        "as_program",
        "discover",
        "rule",
    ),
    "evolution": ("Evolution", "PartedError"),
    "extraction": (
        "Compensation",
        "Conversion",
        "Prediction",
        "Rotation",
        "Verification",
        "VerificationError",
        "compensate",
        "compensation_of",
        "conversion_of",
        "export_onnx",
        "extract",
        "masks_of",
        "preview",
        "to_semi_structured",
        "rotate",
        "rotation_of",
        "verify",
    ),
    "fitness": ("Scores", "score", "score_all"),
    "io": ("load", "open_model", "save"),
    "pruning": ("Pruned", "Sparsified", "evaluate", "evolve_shares", "prune", "sparsify"),
    "quality": ("Quality",),
    "recovery": ("Recovered", "recover"),
    "selection": (
        "NM",
        "Blocks",
        "Hold",
        "Latency",
        "MACs",
        "Parameters",
        "Sparsity",
        "Survivors",
        "Weights",
        "hold",
        "select",
        "weights",
        "zero_",
    ),
    "adaptive": ("Adapted", "adapt"),
    "levels": ("Levels", "Shares", "evolve_levels"),
    "live_populations": ("Bytes", "Held", "live"),
    "streaming": ("PrunedFolder", "prune_folder"),
    "auditing": ("Audit", "audit"),
    "common.errors": ("NonFiniteError",),
    "common.extras": ("MissingExtraError",),
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
