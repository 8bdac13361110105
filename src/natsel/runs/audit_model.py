"""Audit criteria on a model that a user has, by names alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from natsel.auditing.audit import audit
from natsel.auditing.overlap import check_sparsities
from natsel.common.batches import Data
from natsel.common.errors import refuse
from natsel.common.progress import Progress, silent
from natsel.common.texts import LENGTH, SAMPLES
from natsel.communities import discover
from natsel.fitness import get
from natsel.runs import environment
from natsel.runs.folder import in_folder
from natsel.runs.material import check_source, open_material
from natsel.runs.oneshot import calibration

KIND = "audit"


@dataclass(frozen=True)
class AuditConfig:
    """What to audit, and how.

    Attributes:
        model: what ``natsel.open_model`` opens.
        scorers: registered names, or ``module:name``, two or more.
        sparsities: where to compare survivors.
        data: name of a data set, a text, or ``module:name`` of a loader, for scorers that read one;
            or None.
        include: patterns of community names to compare; empty for all.
        exclude: patterns of community names to leave out.
        residual: also offer widths that a normalisation runs over.
        seed: of the calibration batches, and of a reference network's weights.
    """

    model: str
    scorers: tuple[str, ...]
    sparsities: tuple[float, ...]
    data: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    residual: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.data is not None:
            check_source(self.data)
        for name in self.scorers:
            fitness = get(name, argument="scorer")
            if self.data is None and (fitness.needs_gradient or fitness.statistic is not None):
                refuse("data", None, f"the name of a data set: the scorer {name!r} reads one")
        if len(set(self.scorers)) < max(len(self.scorers), 2):
            refuse("scorers", list(self.scorers), "at least two scorers, each once")
        check_sparsities(self.sparsities)


def audit_model(
    config: AuditConfig, out: str | Path | None = None, *, progress: Progress = silent
) -> dict[str, Any]:
    """Compare registered scorers on a model, and write the result where that is asked.

    Args:
        config: what to audit, and how.
        out: a folder that is new, empty or holds an earlier audit, for ``result.json``; or None.
        progress: called between the parts.

    Returns:
        The audit as plain data, with how it was made; ``"sentences"`` says it in words.

    Raises:
        ValueError: if an argument is not allowed; nothing is written then.
        NonFiniteError: if a score is NaN or infinite.

    Example:
        >>> config = AuditConfig("mlp", ("l2", "log-l2"), (0.5,), include=("layers.2",))
        >>> audit_model(config)["classes"]
        [['l2', 'log-l2']]
    """
    if out is None:
        return _audited(config, progress)
    return in_folder(Path(out), KIND, partial(_audited, config, progress))


def _audited(config: AuditConfig, progress: Progress) -> dict[str, Any]:
    material = open_material(
        *(config.model, config.data), length=LENGTH, samples=SAMPLES, seed=config.seed
    )
    opened, splits = material.opened, material.splits
    data: Data | None = calibration(splits, config.seed) if splits is not None else None
    if material.calibration is not None:
        data = material.calibration.batches
    communities = discover(opened.model, opened.example_inputs, residual=config.residual)
    communities.require("model", config.model)
    found = audit(
        communities,
        config.scorers,
        config.sparsities,
        data,
        include=config.include or None,
        exclude=config.exclude or None,
        progress=progress,
    )
    return {
        "kind": KIND,
        "config": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()},
        "model": opened.description,
        **found.as_dict(),
        **environment.record(),
    }
