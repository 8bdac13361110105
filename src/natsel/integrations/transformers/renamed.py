"""Weights that the Trainer keeps under older names, and does not find again.

``save_pretrained`` gives the weights of some models, ViT among them, the names that files of the
library have always had; ``from_pretrained`` knows them, the Trainer's own loading does not. It
warns of missing keys and trains on from whatever was there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import first_line, refuse
from natsel.common.logs import logger_of
from natsel.common.tensorfiles import places
from natsel.communities.gates.gates import is_gated
from natsel.integrations.transformers.library import class_of, without_bars

_LOG = logger_of(__name__)


def load_renamed(model: nn.Module, folder: Path) -> bool:
    """Load the weights of a checkpoint folder if the Trainer could not, by their names.

    Args:
        model: that the Trainer trains, gated or not.
        folder: of a checkpoint.

    Returns:
        Whether there was something to do.

    Raises:
        ValueError: if the library cannot read them either, or weights that kept their names show
            that the Trainer loaded another checkpoint.
    """
    kind: Any = class_of(model)
    names = [name for file in sorted(folder.glob("model*.safetensors")) for name in places(file)]
    if kind is None or set(names) <= model.state_dict().keys():
        return False
    dtype = next(model.parameters()).dtype
    try:
        with torch.random.fork_rng(devices=[]), without_bars():
            kept = kind.from_pretrained(
                folder, config=model.config, dtype=dtype, local_files_only=True
            )
    # A file may be wrong in any way, and the library tells it in many.
    except Exception as error:  # noqa: BLE001
        raise ValueError(f"{folder} cannot be read: {first_line(error)}") from None
    state = kept.state_dict()
    if not is_gated(model):
        _check_loaded(model, [name for name in names if name in state], state, folder)
    model.load_state_dict(state)
    _LOG.info("loaded %d weights from %s that have other names there", len(names), folder)
    return True


def _check_loaded(
    model: nn.Module, names: list[str], state: dict[str, Tensor], folder: Path
) -> None:
    mine = model.state_dict()
    for name in names:
        if not torch.equal(mine[name].cpu(), state[name]):
            refuse(
                "resume",
                str(folder),
                f"the very checkpoint that the Trainer loaded ({name} has other values)",
            )
