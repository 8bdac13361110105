"""Show it: one self-contained HTML file a run, a reproduction, an audit; tables in markdown."""

from natsel.report.audit import write_audit_report
from natsel.report.plateau import plateau_markdown, write_plateau_report
from natsel.report.reproduction import write_reproduction_report
from natsel.report.run import write_run_report
from natsel.report.table import to_markdown

__all__ = [
    "plateau_markdown",
    "to_markdown",
    "write_audit_report",
    "write_plateau_report",
    "write_reproduction_report",
    "write_run_report",
]
