"""Show it: one self-contained HTML file for a run or a reproduction, and tables in markdown."""

from natsel.report.reproduction import write_reproduction_report
from natsel.report.run import write_run_report
from natsel.report.table import to_markdown

__all__ = ["to_markdown", "write_reproduction_report", "write_run_report"]
