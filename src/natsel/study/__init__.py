"""What it cost: runs, seeds, intervals, paired tests, reproductions; and what a criterion is."""

from natsel.study.audit import audit
from natsel.study.audit_result import Audit
from natsel.study.run import RunConfig, evolve

__all__ = ["Audit", "RunConfig", "audit", "evolve"]
