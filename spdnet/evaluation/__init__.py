"""Scores of predicted label maps: metrics on masks, evaluation of folders, nnU-Net's summary.json.

Reads label files and nothing else of a model: predictions of any program can be evaluated.
"""

from spdnet.evaluation.evaluate import CaseScores, ClassScores, EvaluationResult, evaluate_case, evaluate_folder
from spdnet.evaluation.summary import nnunet_summary, write_summary_json

__all__ = [
    "CaseScores",
    "ClassScores",
    "EvaluationResult",
    "evaluate_case",
    "evaluate_folder",
    "nnunet_summary",
    "write_summary_json",
]
