"""What a model is worth on data: a number per sample or window, and intervals over them."""

from natsel.quality.losses import Losses, losses
from natsel.quality.measuring import measure_for
from natsel.quality.quality import Measure, Paired, Quality, accuracy_of, advice, quality_of

__all__ = [
    "Losses",
    "Measure",
    "Paired",
    "Quality",
    "accuracy_of",
    "advice",
    "losses",
    "measure_for",
    "quality_of",
]
