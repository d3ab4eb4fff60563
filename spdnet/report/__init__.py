"""Reports to look at: one HTML file with scores, curves and a viewer of the cases, and figures for papers.

Reads what training, prediction and evaluation have written; runs no network.
"""

from spdnet.report.figures import FigureRequest, write_figures
from spdnet.report.sources import ReportSource, prediction_source, training_source
from spdnet.report.write import ReportOptions, write_report

__all__ = [
    "FigureRequest",
    "ReportOptions",
    "ReportSource",
    "prediction_source",
    "training_source",
    "write_figures",
    "write_report",
]
