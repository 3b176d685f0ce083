"""The report: one self-contained HTML page of a run, with the same figures as JSON and Markdown."""

from cxrsynth.report.page import write_report

__all__ = ["write_report"]
