"""Selection among very many weights: chunk by chunk, no copy of them, the exact count."""

from natsel.selection.streaming.source import Scorer, Source
from natsel.selection.streaming.threshold import Threshold, find_threshold

__all__ = ["Scorer", "Source", "Threshold", "find_threshold"]
