"""Pairs of a reference and a predicted label file: finding them, reading and checking them.

What is computed of a pair is left to `evaluate` and `summary`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spdnet.dataset import Labels, ReaderWriter
from spdnet.errors import DatasetError
from spdnet.geometry import ImageGeometry

logger = logging.getLogger(__name__)

_NAMES_SHOWN = 10


@dataclass(frozen=True)
class LabelPair:
    """Reference and prediction of one case."""

    case: str
    reference: Path
    prediction: Path


def find_pairs(reference_folder: Path, prediction_folder: Path, file_ending: str) -> list[LabelPair]:
    """One pair for each reference file, sorted by case; predictions without a reference are logged as a warning.

    Raises:
        DatasetError: a folder does not exist, there is no reference, or a prediction is missing.
    """
    references = _label_files(reference_folder, file_ending, "reference")
    predictions = _label_files(prediction_folder, file_ending, "prediction")
    if not references:
        raise DatasetError(f"reference folder {reference_folder} holds no label files named CASE{file_ending}")
    missing = [case for case in references if case not in predictions]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(references)} cases of {reference_folder} have no prediction "
            f"CASE{file_ending} in {prediction_folder}: {_listing(missing)}. Predict them, or give a reference "
            "folder without them"
        )
    extra = [case for case in predictions if case not in references]
    if extra:
        logger.warning(
            "%d predictions in %s are not evaluated, as %s has no label for them: %s",
            len(extra),
            prediction_folder,
            reference_folder,
            _listing(extra),
        )
    return [LabelPair(case, references[case], predictions[case]) for case in references]


def read_pair(pair: LabelPair, reader: ReaderWriter, labels: Labels) -> tuple[np.ndarray, np.ndarray, ImageGeometry]:
    """Read and check both label maps of a case.

    Returns:
        reference, prediction: int32 (z, y, x). geometry: their common grid.

    Raises:
        DatasetError: a file cannot be read, the grids differ, or a label value is not declared.
    """
    reference, geometry = reader.read_label(pair.reference, pair.case)
    prediction, predicted_geometry = reader.read_label(pair.prediction, pair.case)
    if difference := geometry.difference(predicted_geometry):
        raise DatasetError(
            f"case {pair.case}: reference {pair.reference} and prediction {pair.prediction} are not on one grid: "
            f"{difference}. Predictions must be on the grid of the label file"
        )
    check_label_values(reference, labels, f"case {pair.case}: reference {pair.reference}", is_reference=True)
    check_label_values(prediction, labels, f"case {pair.case}: prediction {pair.prediction}", is_reference=False)
    return reference, prediction, geometry


def check_label_values(label_map: np.ndarray, labels: Labels, where: str, is_reference: bool) -> None:
    """Check that a label map, integers of any shape, holds only declared values.

    The ignore label is allowed in references only: a prediction has to commit itself.

    Raises:
        DatasetError: it holds others; `where` names it.
    """
    allowed = labels.declared_values | set(labels.regions_class_order)
    if not is_reference:
        allowed = allowed - {labels.ignore_value}
    undeclared = np.unique(label_map[~np.isin(label_map, sorted(allowed))])
    if undeclared.size:
        raise DatasetError(
            f"{where} holds the label values {_listing([str(v) for v in undeclared])}; allowed there are "
            f"{', '.join(str(v) for v in sorted(allowed))}. Is it a label map of this data set?"
        )


def class_mask(label_map: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """Where a label map holds one of the values of a class; bool, same shape."""
    return label_map == values[0] if len(values) == 1 else np.isin(label_map, values)


def _label_files(folder: Path, file_ending: str, role: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise DatasetError(f"{role} folder {folder} does not exist")
    files = (f for f in sorted(folder.iterdir()) if f.name.endswith(file_ending) and not f.name.startswith("."))
    return {f.name.removesuffix(file_ending): f for f in files}


def _listing(names: list[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {len(names) - _NAMES_SHOWN} more" * (len(names) > _NAMES_SHOWN))
