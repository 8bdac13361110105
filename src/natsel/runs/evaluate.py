"""What a model is worth on data, alone or beside another one, by names alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from natsel.common.progress import Progress, silent
from natsel.common.texts import LENGTH, SAMPLES
from natsel.data.windows import check_windows
from natsel.io import open_model
from natsel.pruning import evaluate as quality_on
from natsel.quality import Quality
from natsel.runs import environment
from natsel.runs.folder import RESULT, in_folder
from natsel.runs.material import Material, check_source, open_material
from natsel.runs.measure import accuracy_quality, outcomes

KIND = "evaluate"


@dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate, and on what.

    Attributes:
        model: what ``natsel.open_model`` opens.
        data: a text, the name of a data set (its test split), or ``module:name`` of a loader.
        against: another model, to compare with; or None.
        tokenizer: folder of the tokenizer of a text, or ``hf:NAME``; None for that of the model,
            or else of the other one.
        length: tokens in a window of a text.
        samples: how many windows of it, spread evenly.
        seed: of a reference network's weights.
    """

    model: str
    data: str
    against: str | None = None
    tokenizer: str | None = None
    length: int = LENGTH
    samples: int = SAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        check_windows(self.length, self.samples)
        check_source(self.data)


def evaluate(
    config: EvaluateConfig, out: str | Path | None = None, *, progress: Progress = silent
) -> dict[str, Any]:
    """Measure a model, or two on the same samples; nothing is written unless that is asked.

    Args:
        config: what to measure, and on what.
        out: a folder that is new, empty or holds an earlier evaluation, for ``result.json``.
        progress: called between the parts.

    Returns:
        The quality as plain data, with how it was measured; ``"summary"`` says it in words.

    Raises:
        ValueError: if an argument is not allowed; nothing is written then.
        NonFiniteError: if a loss is NaN or infinite.
    """
    if out is None:
        return _evaluated(config, progress)
    allowed = f"a folder whose {RESULT} is none, or one of natsel evaluate"
    return in_folder(Path(out), KIND, partial(_evaluated, config, progress), allowed=allowed)


def _evaluated(config: EvaluateConfig, progress: Progress) -> dict[str, Any]:
    progress("evaluate: open", 0, 2)
    against = () if config.against is None else (config.against,)
    material = open_material(
        *(config.model, config.data),
        tokenizer=config.tokenizer,
        tokenizers=against,
        length=config.length,
        samples=config.samples,
        seed=config.seed,
        measuring=True,
    )
    progress("evaluate: measure", 1, 2)
    found, described = _quality(config, material)
    progress("evaluate: done", 2, 2)
    return {
        "kind": KIND,
        "config": asdict(config),
        "model": material.opened.description,
        "against": described,
        "quality": found.plain(),
        "text": material.plain(),
        "summary": found.summary(),
        **environment.record(),
    }


def _quality(config: EvaluateConfig, material: Material) -> tuple[Quality, str | None]:
    model, splits = material.opened.model, material.splits
    described, other = None, None
    if config.against is not None:
        if splits is None:
            opened = open_model(config.against, seed=config.seed)
        else:
            opened = open_material(
                *(config.against, config.data),
                length=config.length,
                samples=config.samples,
                seed=config.seed,
            ).opened
        described, other = opened.description, opened.model
    if splits is not None:
        before = outcomes(other, *splits.test) if other is not None else None
        return accuracy_quality(outcomes(model, *splits.test), before), described
    assert material.calibration is not None
    return quality_on(model, material.calibration.batches, against=other), described
