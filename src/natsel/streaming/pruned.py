"""What pruning a folder gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from natsel.communities import Cost
from natsel.extraction import Compensation, Prediction
from natsel.quality import Quality
from natsel.selection import Survivors


@dataclass(frozen=True, eq=False)
class PrunedFolder:
    """A pruned model in a folder, with what it is and what it cost.

    Attributes:
        out: the folder.
        scorer: that decided.
        survivors: who is left in each community.
        prediction: parameters and multiply-accumulates before and after.
        verified: for each block that lost something, the difference to the masked block in
            float64, relative to what the removal changes, with what it may be.
        compensation: what survivors took over, consumer by consumer; None if nothing was.
        quality: what the dense and the small model are worth on held-out data; None without them.
        card: of a result, the text of a model card for this folder.
        is_plain: whether a plain configuration says what the model is.
        files: the file of each tensor.
        passes: how often the blocks of the dense model were read.
        peak: the largest resident memory of the process until now, in bytes.
        seconds: from start to end, of the last run alone where earlier ones were killed.
    """

    out: Path
    scorer: str
    survivors: Survivors
    prediction: Prediction
    verified: tuple[dict[str, Any], ...]
    compensation: Compensation | None
    quality: Quality | None
    card: Callable[[Mapping[str, Any]], str]
    is_plain: bool
    files: dict[str, str]
    passes: int
    peak: int
    seconds: float

    @property
    def cost(self) -> tuple[Cost, Cost]:
        """What the dense and the small model cost."""
        return self.prediction.dense, self.prediction.small

    def __repr__(self) -> str:
        before, after = (c.parameters for c in self.cost)
        return (
            f"PrunedFolder({self.out}: parameters {before:,} -> {after:,} "
            f"({after / max(before, 1):.1%}); {len(self.verified)} blocks verified; "
            f"peak memory {self.peak / 2**30:.2f} GiB)"
        )
