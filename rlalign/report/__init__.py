"""Reports of runs: curves, tables over seeds, as Markdown, PNG and one HTML page."""

from __future__ import annotations

from rlalign.report.writing import Written, describe_run, write_report

__all__ = ["Written", "describe_run", "write_report"]
