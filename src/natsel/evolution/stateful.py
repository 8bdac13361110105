"""An evolution as ``torch.distributed.checkpoint`` saves it: weights by shares, the rest whole.

The rest changes its size as the run goes on, so that it is one value: the bytes of a safetensors
file with a checksum.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from natsel.common.errors import refuse
from natsel.common.files import load_tree, save_tree
from natsel.evolution.resuming import Resumable

FILE = "evolution.safetensors"


class Stateful:
    """What ``torch.distributed.checkpoint`` saves and loads of an evolution.

    Each process saves its shares; they may be loaded by another number of processes. Load it after
    the model and the optimizer, or before.

    Args:
        evolution: of the same model in every process.

    Example:
        >>> import natsel, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> evolution = natsel.Evolution(natsel.discover(model, (torch.zeros(1, 4),)))
        >>> list(Stateful(evolution).state_dict())
        ['weights', 'rest']
    """

    def __init__(self, evolution: Resumable) -> None:
        self._evolution = evolution

    def state_dict(self) -> dict[str, Any]:
        """Return the raw weights by name, spread as they are, and everything else as bytes."""
        state = self._evolution.state_dict()
        weights: dict[str, Tensor] = state.pop("weights")
        state["share"] = None  # those of all processes are kept
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILE
            save_tree(path, state)
            return {"weights": weights, "rest": path.read_bytes()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the run that saved ``state`` was.

        Raises:
            ValueError: if it is no such state, damaged, or that of another run.
        """
        rest = state.get("rest")
        if not isinstance(rest, bytes) or "weights" not in state:
            refuse("state", f"with {', '.join(state) or 'nothing'}", "what state_dict() returns")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILE
            path.write_bytes(rest)
            self._evolution.load_state_dict({**load_tree(path), "weights": state["weights"]})
