"""A model larger than memory pruned from folder to folder, one block in memory."""

from natsel.streaming.prune import prune_folder
from natsel.streaming.pruned import PrunedFolder

__all__ = ["PrunedFolder", "prune_folder"]
