"""Selection among very many weights: chunk by chunk, no copy of them, the exact count."""

from natsel.single_weights.streaming.source import Scorer, Source
from natsel.single_weights.streaming.threshold import keep_fittest

__all__ = ["Scorer", "Source", "keep_fittest"]
