"""The transformers library: small models that ``from_pretrained`` reads, and its models by name."""

from typing import TYPE_CHECKING

from natsel.common.extras import require
from natsel.integrations.transformers.examples import example_inputs
from natsel.integrations.transformers.library import class_named, class_of
from natsel.integrations.transformers.pretrained import dense_model, pretrained

if TYPE_CHECKING:
    from natsel.integrations.transformers.callbacks import EvolutionCallback, HoldCallback

__all__ = [
    "EvolutionCallback",
    "HoldCallback",
    "class_named",
    "class_of",
    "dense_model",
    "example_inputs",
    "pretrained",
]


def __getattr__(name: str) -> object:
    # Their base class is in the library, which is imported only when it is used.
    if name not in ("EvolutionCallback", "HoldCallback"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("transformers", "transformers")
    from natsel.integrations.transformers import callbacks

    return getattr(callbacks, name)
