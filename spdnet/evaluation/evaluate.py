"""Scores of a case and of a folder of cases: slice metrics as in the SPD paper, volumetric Dice, intervals.

Slices are taken along a patient axis, whatever the stored orientation. A slice metric is averaged over all
slices of the test set, empty ones included (target DSC: all slices with target; HD95 and ASD: all slices in which
both masks have foreground);
volumetric Dice is averaged over cases. Intervals come from drawing cases, since slices of a case are not
independent. File formats and pairing are left to `pairs`, the metrics themselves to `metrics`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spdnet.dataset import Labels, ReaderWriter
from spdnet.errors import DatasetError
from spdnet.evaluation import metrics
from spdnet.evaluation.pairs import LabelPair, check_label_values, class_mask, find_pairs, read_pair
from spdnet.files import write_json
from spdnet.geometry import ImageGeometry, default_slicing_axis
from spdnet.geometry.image_geometry import axis_name
from spdnet.parallel import map_cases

BOOTSTRAP_SEED = 0

# metric -> the count in ClassScores that its per-case mean was taken over; None: one value per case
METRICS: dict[str, str | None] = {
    "dsc": "n_slices",
    "iou": "n_slices",
    "target_dsc": "n_target_slices",
    "hd95_mm": "n_distance_slices",
    "asd_mm": "n_distance_slices",
    "volume_dice": None,
}


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class in one case.

    Attributes:
        n_slices: slices scored; slices that are wholly ignore label are not.
        n_target_slices: those in which the reference has foreground.
        n_false_slices: those in which the prediction alone has foreground.
        n_distance_slices: those in which both masks have foreground.
        dsc, iou: mean over the `n_slices` slices, NaN if there are none.
        target_dsc: mean over the `n_target_slices` slices, NaN if there are none. Where a class is absent from most
            slices, empty masks alone have a high `dsc`; this one tells how well it is segmented where it is.
        hd95_mm, asd_mm: mean over the `n_distance_slices` slices, NaN if there are none.
        volume_dice: Dice of the whole volume, NaN if the class is absent in both.
    """

    n_slices: int
    n_target_slices: int
    n_false_slices: int
    n_distance_slices: int
    dsc: float
    iou: float
    target_dsc: float
    hd95_mm: float
    asd_mm: float
    volume_dice: float


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case.

    Attributes:
        case: identifier.
        slicing_axis: S, P or L, the patient axis along which slices were taken.
        classes: scores of each class, in the order of `Labels.names`.
    """

    case: str
    slicing_axis: str
    classes: tuple[ClassScores, ...]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval over cases; the bounds are NaN with fewer than two cases."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of a folder of predictions.

    Attributes:
        class_names: name of each class.
        cases: scores of each case, sorted by identifier.
        reference_folder, prediction_folder: what was compared.
    """

    class_names: tuple[str, ...]
    cases: tuple[CaseScores, ...]
    reference_folder: str = ""
    prediction_folder: str = ""

    def case_values(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Per-case means of a metric of `METRICS` and their weights, float64 (n_cases, n_classes) each.

        The weighted mean over cases is the mean over all slices; for `volume_dice`, weights are 1.
        """
        count = METRICS[metric]
        values = [[getattr(scores, metric) for scores in case.classes] for case in self.cases]
        weights = [[getattr(scores, count) if count else 1 for scores in case.classes] for case in self.cases]
        return np.array(values, dtype=np.float64), np.array(weights, dtype=np.float64)

    def estimate(self, metric: str, class_index: int | None = None) -> Estimate:
        """Mean of a metric of `METRICS`, for one class or, with None, averaged over classes. Reproducible."""
        values, weights = self.case_values(metric)
        if class_index is not None:
            values, weights = values[:, class_index], weights[:, class_index]
        rng = np.random.default_rng(BOOTSTRAP_SEED)
        return Estimate(*metrics.bootstrap_mean_interval(values, rng, weights=weights))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; undefined values are None."""
        content: dict[str, Any] = {
            "reference_folder": self.reference_folder,
            "prediction_folder": self.prediction_folder,
            "n_cases": len(self.cases),
            "interval": f"{metrics.INTERVAL_LEVEL:.0%}, percentile bootstrap over cases, "
            f"{metrics.BOOTSTRAP_RESAMPLES} resamples, seed {BOOTSTRAP_SEED}",
            "classes": {name: self._all_estimates(i) for i, name in enumerate(self.class_names)},
            "mean": self._all_estimates(None),
            "cases": [self._case_to_dict(case) for case in self.cases],
        }
        return {key: _nan_to_none(value) for key, value in content.items()}

    def to_json(self, path: Path) -> None:
        """Write `to_dict` as strict JSON; the file appears whole or not at all."""
        write_json(path, self.to_dict())

    def _all_estimates(self, class_index: int | None) -> dict[str, Any]:
        return {metric: asdict(self.estimate(metric, class_index)) for metric in METRICS}

    def _case_to_dict(self, case: CaseScores) -> dict[str, Any]:
        scores = {name: asdict(s) for name, s in zip(self.class_names, case.classes, strict=True)}
        return {"case": case.case, "slicing_axis": case.slicing_axis, "classes": scores}


def evaluate_case(
    reference: np.ndarray,
    prediction: np.ndarray,
    geometry: ImageGeometry,
    labels: Labels,
    slicing_axis: int | None = None,
    case: str = "",
) -> CaseScores:
    """Score one case.

    Args:
        reference: label map of integers (z, y, x). Voxels with the ignore label do not count.
        prediction: label map of integers (z, y, x).
        geometry: their common grid.
        labels: the classes.
        slicing_axis: canonical axis, 0 superior, 1 posterior, 2 left; None: by `slicing_axis_of`.
        case: identifier.

    Raises:
        DatasetError: an array is not of the grid's shape, or a label value is undeclared.
    """
    for name, label_map in (("reference", reference), ("prediction", prediction)):
        where = f"case {case}: {name}"
        if label_map.shape != geometry.shape_zyx:
            raise DatasetError(f"{where} has shape {label_map.shape}, its grid (z, y, x) is {geometry.shape_zyx}")
        check_label_values(label_map, labels, where, is_reference=name == "reference")
    axis = slicing_axis_of(geometry, slicing_axis)
    array_axis = geometry.canonical_axes()[0][axis]
    rows_mm, columns_mm = (s for i, s in enumerate(geometry.spacing_zyx_mm) if i != array_axis)
    reference, prediction = (np.ascontiguousarray(np.moveaxis(a, array_axis, 0)) for a in (reference, prediction))
    if labels.ignore_value is not None:
        valid = reference != labels.ignore_value
        scored = valid.any(axis=(1, 2))
        reference, prediction = reference[scored], np.where(valid, prediction, 0)[scored]
    classes = tuple(
        _class_scores(class_mask(reference, values), class_mask(prediction, values), (rows_mm, columns_mm))
        for values in labels.values
    )
    return CaseScores(case, axis_name(axis), classes)


def evaluate_folder(
    reference_folder: Path,
    prediction_folder: Path,
    reader: ReaderWriter,
    labels: Labels,
    file_ending: str,
    slicing_axis: int | None = None,
    n_processes: int = 1,
) -> EvaluationResult:
    """Score every case that has a reference.

    Args:
        reference_folder: label files CASE{file_ending}.
        prediction_folder: predictions of the same names; others are reported in the log and left out.
        reader: of both.
        labels: the classes.
        file_ending: with the dot.
        slicing_axis: canonical axis for all cases; None: by `slicing_axis_of`, for each file.
        n_processes: cases evaluated at a time, each in a process of its own if more than 1.

    Raises:
        DatasetError: a folder or a prediction is missing, a file cannot be read, reference and prediction are
            not on one grid, or a label value is undeclared.
    """
    pairs = find_pairs(reference_folder, prediction_folder, file_ending)
    score = functools.partial(_evaluate_pair, reader=reader, labels=labels, slicing_axis=slicing_axis)
    cases = tuple(map_cases(score, pairs, n_processes, "evaluating"))
    return EvaluationResult(labels.names, cases, str(reference_folder), str(prediction_folder))


def slicing_axis_of(geometry: ImageGeometry, slicing_axis: int | None = None) -> int:
    """The canonical axis along which an image is sliced: 0 superior, 1 posterior, 2 left.

    The given one, else by `default_slicing_axis`: the axis of largest spacing, axial if they tie. A 2D image
    is its own only slice.
    """
    if not geometry.has_patient_axes:
        return 0
    if slicing_axis is not None:
        return slicing_axis
    return default_slicing_axis(geometry.canonical_spacing_mm())


def _evaluate_pair(pair: LabelPair, reader: ReaderWriter, labels: Labels, slicing_axis: int | None) -> CaseScores:
    reference, prediction, geometry = read_pair(pair, reader, labels)
    return evaluate_case(reference, prediction, geometry, labels, slicing_axis, pair.case)


def _class_scores(reference: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, float]) -> ClassScores:
    scores = metrics.slice_scores(reference, prediction, spacing_mm)
    has_distance = ~np.isnan(scores.hd95_mm)
    has_target, is_predicted = reference.any(axis=(1, 2)), prediction.any(axis=(1, 2))
    return ClassScores(
        n_slices=len(scores.dsc),
        n_target_slices=int(has_target.sum()),
        n_false_slices=int((is_predicted & ~has_target).sum()),
        n_distance_slices=int(has_distance.sum()),
        dsc=_mean(scores.dsc),
        iou=_mean(scores.iou),
        target_dsc=_mean(scores.dsc[has_target]),
        hd95_mm=_mean(scores.hd95_mm[has_distance]),
        asd_mm=_mean(scores.asd_mm[has_distance]),
        volume_dice=metrics.volume_dice(reference, prediction),
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _nan_to_none(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _nan_to_none(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_nan_to_none(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
