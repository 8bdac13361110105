"""Lightning: its Trainer evolves a model, or keeps zeros, by a callback."""

from typing import TYPE_CHECKING

from natsel.integrations.lightning.library import library

if TYPE_CHECKING:
    from natsel.integrations.lightning.callbacks import EvolutionCallback, HoldCallback

__all__ = ["EvolutionCallback", "HoldCallback"]


def __getattr__(name: str) -> object:
    # Their base class is in the library, which is imported only when it is used.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    library()
    from natsel.integrations.lightning import callbacks

    return getattr(callbacks, name)
