"""Libraries whose models know more than their tensors: who looks after a small one of them."""

from __future__ import annotations

import importlib
import sys

from torch import nn

KEEPERS = {"transformers": "natsel.integrations.transformers.keeping"}
"""By the library that must have been imported already, the module with a function ``keep``.

Named, not imported: this room knows no other library, and a small model costs no import of one.
"""


def look_after(small: nn.Module) -> None:
    """Let what is known of the library that a small model is of follow its new sizes."""
    for library, module in KEEPERS.items():
        if library in sys.modules:
            importlib.import_module(module).keep(small)
