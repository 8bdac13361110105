"""What runs models on data to choose: contenders, races, levels between communities."""

from natsel.adaptive.adaptive import adapt

__all__ = ["adapt"]
