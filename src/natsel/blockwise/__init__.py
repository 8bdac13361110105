"""A model walked block by block: what stands between two blocks is held, and nothing is run twice.

A transformer is a chain: what its first block returns is what its second one reads, and so on.
What has to look at every block in turn, each time with all those before it changed, need not run
the model from its start again: it keeps the hidden states that enter a block for all batches, looks
at the block alone, changes it, runs it once more, and goes on with what comes out.
"""

from natsel.blockwise.chain import Chain, chains_of
from natsel.blockwise.feed import Feed, feed, finish
from natsel.blockwise.store import Held, OnDisk, Store
from natsel.blockwise.walk import Place, walk

__all__ = [
    "Chain",
    "Feed",
    "Held",
    "OnDisk",
    "Place",
    "Store",
    "chains_of",
    "feed",
    "finish",
    "walk",
]
