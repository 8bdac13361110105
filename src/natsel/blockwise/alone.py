"""One block of a chain as a model of its own: a hidden state in, the next one out."""

from __future__ import annotations

from torch import Tensor, nn

from natsel.blockwise.feed import Feed
from natsel.common.padding import padded

BLOCK = "block"
"""What the block is called in the model that it alone makes."""


class Alone(nn.Module):
    """A block with all that it is given besides the hidden state.

    Args:
        block: the module; it is held, not copied.
        feed: of one batch, for all blocks of the chain.
        number: of the block in the chain.
    """

    def __init__(self, block: nn.Module, feed: Feed, number: int) -> None:
        super().__init__()
        self.block = block
        self._feed = Feed(feed.inputs, feed.name, (feed.args[number],), (feed.named[number],))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the hidden state that leaves the block."""
        with padded(self, self._feed.inputs):
            return self._feed.run(0, self.block, hidden)


def whole(name: str, path: str) -> str:
    """Return the name in the whole model of what a block alone calls so.

    Example:
        >>> whole("block.mlp.up_proj", "layers.3")
        'layers.3.mlp.up_proj'
    """
    return path + name.removeprefix(BLOCK)
