"""One run from a model to its figures: evolve, prune, train, split, measure."""

from natsel.runs.evolve import RunConfig, evolve

__all__ = ["RunConfig", "evolve"]
