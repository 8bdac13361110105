"""Selection among very many weights: chunk by chunk, no copy of them, the exact count."""

from natsel.selection.streaming.source import Scorer, Source
from natsel.selection.streaming.threshold import keep_fittest

__all__ = ["Scorer", "Source", "keep_fittest"]
