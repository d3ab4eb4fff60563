"""One case, read and checked, in the display frame; and what the page shows of it, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spdnet.dataset.raw_dataset import check_channels
from spdnet.errors import ConfigurationError, DatasetError
from spdnet.evaluation import CaseScores, evaluate_case
from spdnet.evaluation.evaluate import slicing_axis_of
from spdnet.evaluation.metrics import overlap_per_slice
from spdnet.evaluation.pairs import check_label_values
from spdnet.geometry import ImageGeometry
from spdnet.prompts import SlicePrompts
from spdnet.report.frame import DisplayFrame, display_frame
from spdnet.report.planes import choose_grey_scale, encode_exact, encode_grey, grey_values
from spdnet.report.points import (
    JudgedPoint,
    judged_point_to_plain,
    points_as_given,
    prompt_quality,
    read_given_prompts,
    read_judged_points,
)
from spdnet.report.sources import PredictionFiles, ReportCase, ReportSource

MAX_LABELS = 256
_FOCUS_MARGIN = 0.25


@dataclass(frozen=True)
class PredictionData:
    """One prediction of a case in the display frame.

    Attributes:
        label_map: int32 (slices, rows, columns).
        points: what became of the prompts, empty if unknown.
        saliency: uint8 (classes, slices, rows, columns) in per cent, or None.
        scores: against the reference, or None without one.
        dsc: float64 (classes, slices), NaN where neither holds the class; None without a reference.
    """

    label_map: np.ndarray
    points: list[JudgedPoint]
    saliency: np.ndarray | None
    scores: CaseScores | None
    dsc: np.ndarray | None


@dataclass(frozen=True)
class CaseData:
    """A case in the display frame.

    Attributes:
        case: identifier.
        frame: the way there, spacing and directions.
        image: float32 (slices, rows, columns), one channel.
        reference: int32, same shape, or None.
        given: prompts as they were given, in display pixels; None if unknown.
        predictions: one for each name of the source.
    """

    case: str
    frame: DisplayFrame
    image: np.ndarray
    reference: np.ndarray | None
    given: SlicePrompts | None
    predictions: list[PredictionData]


def read_case(files: ReportCase, source: ReportSource, channel: int = 0) -> CaseData:
    """Read a case and score its predictions.

    Raises:
        DatasetError: a file cannot be read, reference or prediction are not on the image's grid, or hold undeclared
            values. PromptFileError: prompts or their table cannot be read. ConfigurationError: no such channel.
    """
    image, geometry = source.reader.read_image(files.images, files.case)
    if source.normalization:
        check_channels(image, len(source.normalization), files.case)
    if not 0 <= channel < len(image):
        raise ConfigurationError(f"-channel {channel}: case {files.case} has {len(image)} channels, counted from 0")
    axis = slicing_axis_of(geometry, source.slicing_axis)
    frame = display_frame(geometry, axis)
    reference = None
    if files.reference is not None:
        reference, own = source.reader.read_label(files.reference, files.case)
        _check_grid(files.case, f"reference {files.reference}", geometry, own)
        check_label_values(reference, source.labels, f"case {files.case}: reference {files.reference}", True)
    predictions = [_read_prediction(files.case, p, source, geometry, frame, reference, axis) for p in files.predictions]
    return CaseData(
        files.case,
        frame,
        frame.mapping.orient(image[channel]),
        None if reference is None else frame.mapping.orient(reference),
        _given_prompts(files, source, geometry, frame, predictions),
        predictions,
    )


def case_payload(data: CaseData, source: ReportSource, channel: int = 0) -> dict[str, Any]:
    """Everything that the viewer needs of a case, as plain data for JSON."""
    normalization = source.normalization[channel] if channel < len(source.normalization) else None
    scale = choose_grey_scale(data.image, normalization)
    planes = encode_grey(grey_values(data.image, scale))
    values = sorted(source.labels.declared_values | set(source.labels.regions_class_order))
    if len(values) > MAX_LABELS:
        raise DatasetError(f"{len(values)} label values cannot be shown; a report takes up to {MAX_LABELS}")
    slices, rows, columns = data.image.shape
    given = data.given
    return {
        "case": data.case,
        "slices": slices,
        "rows": rows,
        "columns": columns,
        "spacing_mm": [round(float(v), 6) for v in data.frame.spacing_mm],
        "letters": data.frame.letters,
        "plane": data.frame.plane,
        "grey": {
            "mime": planes.mime, "quality": planes.quality, "stored": scale.stored, "shown": scale.shown,
            "planes": planes.data,
        },
        "focus": _focus_box(data),
        "reference": None if data.reference is None else encode_exact(_indices(data.reference, values)),
        "given": None if given is None else np.round(given.points_syx, 3).tolist(),
        "boxes": [] if given is None else _boxes(given),
        "predictions": [_prediction_payload(p, values) for p in data.predictions],
    }  # fmt: skip


def case_summary(data: CaseData, source: ReportSource) -> dict[str, Any]:
    """What the overview needs of a case: scores of each prediction and class, and counts of prompts."""
    masks = None if data.reference is None else source.labels.masks(data.reference).swapaxes(0, 1)
    entries = []
    for prediction in data.predictions:
        scores = prediction.scores
        entry: dict[str, Any] = {"classes": None, "slice_dsc": None, "worst": None, "prompts": None}
        if scores is not None and prediction.dsc is not None:
            entry["classes"] = [
                {m: _number(getattr(c, m)) for m in ("dsc", "iou", "hd95_mm", "asd_mm", "volume_dice")}
                for c in scores.classes
            ]
            entry["slice_dsc"] = _plain(prediction.dsc)
            entry["worst"] = _worst_slice(prediction.dsc)
        if prediction.points and masks is not None:
            at_home = [p for p in prediction.points if p.is_at_home]
            kept = {"given": len(at_home), "kept": sum(p.fate.is_kept for p in at_home)}
            entry["prompts"] = {**prompt_quality(prediction.points, masks), "points": kept}
        entries.append(entry)
    return {"case": data.case, "slices": len(data.image), "predictions": entries}


def _read_prediction(
    case: str,
    files: PredictionFiles,
    source: ReportSource,
    geometry: ImageGeometry,
    frame: DisplayFrame,
    reference: np.ndarray | None,
    axis: int,
) -> PredictionData:
    reader, labels, orient = source.reader, source.labels, frame.mapping.orient
    label_map, own = reader.read_label(files.segmentation, case)
    _check_grid(case, f"prediction {files.segmentation}", geometry, own)
    check_label_values(label_map, labels, f"case {case}: prediction {files.segmentation}", False)
    points = []
    if files.judged is not None:
        points = read_judged_points(files.judged, geometry, frame.mapping, labels)
    saliency = None
    if files.saliency:
        maps = [reader.read_label(file, case) for file in files.saliency]
        for file, (_, grid) in zip(files.saliency, maps, strict=True):
            _check_grid(case, f"saliency {file}", geometry, grid)
        saliency = np.stack([orient(np.clip(values, 0, 100).astype(np.uint8)) for values, _ in maps])
    scores = dsc = None
    if reference is not None:
        scores = evaluate_case(reference, label_map, geometry, labels, axis, case)
        dsc = _slice_dsc(orient(reference), orient(label_map), source)
    return PredictionData(orient(label_map), points, saliency, scores, dsc)


def _slice_dsc(reference: np.ndarray, prediction: np.ndarray, source: ReportSource) -> np.ndarray:
    """DSC per class and slice, float64; NaN where neither holds the class."""
    labels = source.labels
    if labels.ignore_value is not None:
        prediction = np.where(reference == labels.ignore_value, 0, prediction)
    rows = []
    for values in labels.values:
        ours, theirs = np.isin(reference, values), np.isin(prediction, values)
        dsc = overlap_per_slice(ours, theirs)[0]
        rows.append(np.where(ours.any(axis=(1, 2)) | theirs.any(axis=(1, 2)), dsc, np.nan))
    return np.stack(rows)


def _given_prompts(
    files: ReportCase,
    source: ReportSource,
    geometry: ImageGeometry,
    frame: DisplayFrame,
    predictions: list[PredictionData],
) -> SlicePrompts | None:
    """The prompts of the file, if there is one, else the points that a table of fates tells of."""
    if files.prompts is not None:
        return read_given_prompts(files.prompts, files.case, geometry, frame.mapping, source.labels, source.reading)
    told = next((p.points for p in predictions if p.points), None)
    if told is None:
        return None
    points = points_as_given(told)
    return SlicePrompts(points, np.full(len(points), -1, dtype=np.int64))


def _check_grid(case: str, what: str, geometry: ImageGeometry, own: ImageGeometry) -> None:
    if difference := geometry.difference(own):
        raise DatasetError(
            f"case {case}: the image and {what} are not on one grid: {difference}. Give the images it was made from"
        )


def _prediction_payload(prediction: PredictionData, values: list[int]) -> dict[str, Any]:
    saliency = prediction.saliency
    return {
        "labels": encode_exact(_indices(prediction.label_map, values)),
        "dsc": None if prediction.dsc is None else _plain(prediction.dsc),
        "points": [judged_point_to_plain(p) for p in prediction.points],
        "saliency": None if saliency is None else [encode_exact(s) for s in saliency],
    }


def _indices(label_map: np.ndarray, values: list[int]) -> np.ndarray:
    """Label values to their place among the declared ones, uint8."""
    places = np.zeros(values[-1] + 1, dtype=np.uint8)
    places[values] = np.arange(len(values))
    return places[label_map]


def _focus_box(data: CaseData) -> list[int] | None:
    """Rows and columns (half-open) around everything that is segmented, with a margin; None if nothing is."""
    maps = [p.label_map for p in data.predictions] + ([] if data.reference is None else [data.reference])
    seen = np.any([m.any(axis=0) for m in maps], axis=0)
    if not seen.any():
        return None
    box = []
    for axis in (1, 0):
        found = np.flatnonzero(seen.any(axis=axis))
        margin = max(4, round(_FOCUS_MARGIN * (found[-1] - found[0] + 1)))
        box += [max(0, int(found[0]) - margin), min(seen.shape[1 - axis], int(found[-1]) + 1 + margin)]
    return box


def _boxes(prompts: SlicePrompts) -> list[list[float]]:
    boxes = prompts.boxes
    return [
        [int(s), *(round(float(v), 2) for v in box)]
        for s, box in zip(boxes.slice_index.tolist(), boxes.boxes_yxyx.tolist(), strict=True)
    ]


def _worst_slice(dsc: np.ndarray) -> int | None:
    """The slice whose lowest class is the lowest of all; None if no slice holds any class."""
    return None if np.isnan(dsc).all() else int(np.unravel_index(np.nanargmin(dsc), dsc.shape)[1])


def _plain(values: np.ndarray) -> list[list[float | None]]:
    return [[_number(round(float(v), 4)) for v in row] for row in values]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
