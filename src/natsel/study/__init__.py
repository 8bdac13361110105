"""What it cost: runs, seeds, intervals, paired tests, reproductions."""

from natsel.study.run import RunConfig, evolve

__all__ = ["RunConfig", "evolve"]
