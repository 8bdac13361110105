"""What a model is worth on data: a number per sample or window, and intervals over them."""

from natsel.quality.losses import Losses, losses

__all__ = ["Losses", "losses"]
