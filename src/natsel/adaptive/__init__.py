"""What runs models on data to choose: contenders, races, levels between communities."""

from natsel.adaptive.adaptive import Adapted, adapt

__all__ = ["Adapted", "adapt"]
