"""The report: everything about a comparison on one page that needs no network."""

from langadapt.evaluation.report.page import write_report

__all__ = ["write_report"]
