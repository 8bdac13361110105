"""What the bench asks of a tool, and natsel itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import nn

import natsel
from natsel.common.calls import Inputs
from natsel.common.errors import choose
from natsel_bench.peers.networks import Hints

RATIO = 0.5
"""The share of units that every tool is asked to remove."""


class Refused(Exception):
    """A tool said, by name, that it will not remove anything, and why."""


class Made(NamedTuple):
    """What a tool made.

    Attributes:
        small: the smaller network.
        left_whole: what the tool says it left whole, and why.
    """

    small: nn.Module
    left_whole: tuple[str, ...] = ()


class Tool(Protocol):
    """A library that removes structures, used as its documentation says."""

    def prepare(self) -> None:
        """Import what is needed: imports are not timed.

        Raises:
            MissingExtraError: if the library is not installed.
        """
        ...

    def prune(self, model: nn.Module, inputs: Inputs, hints: Callable[[], Hints]) -> Made:
        """Remove half of every structure from a model, which may change.

        Args:
            model: in evaluation mode.
            inputs: example inputs.
            hints: what a user would say; only tools that are given hints call it.

        Raises:
            Refused: if the tool says why it removes nothing.
        """
        ...

    def reload(self, small: nn.Module, dense: nn.Module, folder: Path) -> nn.Module:
        """Save a network that this tool made and load it, as the tool's documentation says.

        Args:
            small: from :meth:`prune`.
            dense: a fresh network of the original sizes.
            folder: an empty folder.
        """
        ...


class Natsel:
    """natsel: discover, score by magnitude, select half of each community, extract."""

    def prepare(self) -> None:
        """Everything is imported already."""

    def prune(self, model: nn.Module, inputs: Inputs, hints: Callable[[], Hints]) -> Made:
        """Remove half of every community."""
        try:
            communities = natsel.discover(model, inputs)
        except ValueError as error:
            raise Refused(str(error)) from error
        left = tuple(f"{r.name}: {r.reason}" for r in communities.refused)
        if not communities:
            raise Refused("; ".join(sorted(left, key=lambda text: text.endswith("of the model"))))
        scores = natsel.score(communities, "magnitude")
        survivors = natsel.select(scores, natsel.Sparsity(RATIO))
        return Made(natsel.extract(model, survivors), left)

    def reload(self, small: nn.Module, dense: nn.Module, folder: Path) -> nn.Module:
        """Save and load without pickle."""
        natsel.save(small, folder)
        return natsel.load(folder, model=dense)


TOOLS: dict[str, str] = {
    "natsel": "natsel_bench.peers.tools:Natsel",
    "torch-pruning": "natsel_bench.peers.torch_pruning:TorchPruning",
    "torch-pruning, with hints": "natsel_bench.peers.torch_pruning:TorchPruningWithHints",
    "torch-pruning, width kept": "natsel_bench.peers.torch_pruning:TorchPruningKeepingWidth",
    "torch-kirigami": "natsel_bench.peers.torch_kirigami:TorchKirigami",
    "torch-kirigami, one by one": "natsel_bench.peers.torch_kirigami:TorchKirigamiOneByOne",
}
"""Where each tool is: "module:class", so that a process imports only the one it measures."""


def choose_tools(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of tools, checked; none means all.

    Raises:
        ValueError: if there is no tool of a name.

    Example:
        >>> choose_tools(("natsel",))
        ('natsel',)
    """
    return tuple(choose("tools", name, TOOLS) for name in names) or tuple(TOOLS)
