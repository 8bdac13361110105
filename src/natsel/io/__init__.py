"""Files in, files out: save and load small models, open any model by what the user calls it."""

from natsel.io.loading import load
from natsel.io.opening import Opened, open_model
from natsel.io.saving import save

__all__ = ["Opened", "load", "open_model", "save"]
