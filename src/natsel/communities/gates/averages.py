"""Moving averages of a gated model: of its weights as they act, whenever they were made.

``AveragedModel`` averages parameters. Those of a gated model are raw: an average of them without
the masses would compute something else, and one with the masses of the day when it was made too.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from natsel.communities.gates.gates import fold, is_gated, suspended

_MARK = "_takes_gated_weights_as_they_act"


def follow_averages() -> None:
    """Let ``AveragedModel.update_parameters`` see gated weights as they act, from now on.

    An average that was copied from a gated model becomes a plain one at its first update.
    Of models without gates it takes what it always did.
    """
    update = AveragedModel.update_parameters
    if hasattr(update, _MARK):
        return

    @functools.wraps(update)
    def update_parameters(self: AveragedModel, model: nn.Module) -> Any:
        if is_gated(self.module):
            fold(self.module)
        if not is_gated(model):
            return update(self, model)
        with suspended(model, fold=True):
            return update(self, model)

    setattr(update_parameters, _MARK, True)
    AveragedModel.update_parameters = update_parameters  # type: ignore[method-assign]
