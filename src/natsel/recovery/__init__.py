"""Win back what pruning cost: a small model learns from the one that it was cut from."""

from natsel.recovery.losses import apart, divergence, surprise
from natsel.recovery.recover import Recovered, recover
from natsel.recovery.settings import Settings

__all__ = ["Recovered", "Settings", "apart", "divergence", "recover", "surprise"]
