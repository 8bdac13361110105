"""What a criterion is: which are one, and how far apart the others are."""

from natsel.auditing.audit import audit
from natsel.auditing.result import Audit

__all__ = ["Audit", "audit"]
