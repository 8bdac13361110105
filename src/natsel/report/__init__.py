"""Show it: one self-contained HTML file a run, a reproduction, an audit; tables in markdown."""

from natsel.report.audit import write_audit_report
from natsel.report.run import write_run_report
from natsel.report.table import to_markdown

__all__ = [
    "to_markdown",
    "write_audit_report",
    "write_run_report",
]
