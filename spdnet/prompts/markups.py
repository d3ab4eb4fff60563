"""3D Slicer markups files (`.mrk.json`): reading with all their quirks, writing by the published schema.

Owns the file format and the conversion to LPS mm. Which image the points belong to is not known here. The file holds
the control points of a curve, not the spline that Slicer draws through them; spdnet joins them by straight lines.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from spdnet.errors import PromptFileError
from spdnet.files import without_twins, write_text
from spdnet.prompts.boxes import center_size_axes, oriented_corners
from spdnet.prompts.points import Markup
from spdnet.prompts.text_files import (
    MAX_MARKUPS,
    MAX_POINTS,
    Frame,
    check_count,
    check_range,
    read_text,
    settle_frame,
    shown,
    shown_text,
)

logger = logging.getLogger(__name__)

SCHEMA_URL = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)

_KINDS = {
    "Fiducial": "points",
    "PointList": "points",
    "Curve": "curve",
    "Line": "curve",
    "ClosedCurve": "closed_curve",
    "ROI": "box",
}
_TYPES = {"points": "Fiducial", "curve": "Curve", "closed_curve": "ClosedCurve", "box": "ROI"}
# The numbers are Slicer's old enumeration, which some writers still use.
_FRAMES: dict[str, Frame] = {"LPS": "lps", "1": "lps", "RAS": "ras", "0": "ras"}
_MM_PER_UNIT = {"mm": 1.0, "um": 1e-3, "\u00b5m": 1e-3, "\u03bcm": 1e-3}
_UNPLACED = ("undefined", "preview", "missing")


def read_markups(file: Path, frame: Frame | None = None) -> list[Markup]:
    """Read all markups of a file, converted to LPS mm.

    Points that were never placed (status undefined or preview, or no position and no status) are skipped,
    counted and logged; so are ROIs without size. Line counts as a curve of two points. An ROI becomes a markup of kind
    "box" with its eight corners.

    Args:
        file: the markups file.
        frame: of markups that do not say theirs; None: LPS, as the format has it.

    Raises:
        PromptFileError: the file is missing, above 20 MB, not JSON or not a markups file; a markup has a type
            without points to use (Plane, Angle, ...), an unknown frame or one that disagrees with `frame`, or an
            unknown unit; a point is declared as defined but has no position of three finite numbers, or lies beyond
            1e6 mm; an ROI is not a box, inside out, or without centre, size and right angles.
    """
    content = _read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("markups"), list):
        raise PromptFileError(
            f'{file} is not a Slicer markups file: it needs an object with a list "markups" at its top. '
            "Save the points in 3D Slicer as .mrk.json"
        )
    schema = content.get("@schema", SCHEMA_URL)
    if not isinstance(schema, str) or "markups-schema-v1." not in schema.lower():
        raise PromptFileError(
            f'{file}: "@schema" is {shown(schema)}; spdnet reads version 1 of the Slicer markups schema. '
            "Save the points again in 3D Slicer as .mrk.json"
        )
    entries = content["markups"]
    check_count(len(entries), str(file), "markups", MAX_MARKUPS)
    markups, left = [], MAX_POINTS
    for number, entry in enumerate(entries, start=1):
        markup = _parse_markup(entry, number, file, frame, left)
        left -= len(markup.points_lps_mm)
        markups.append(markup)
    return markups


def write_markups(file: Path, markups: list[Markup]) -> None:
    """Write markups as schema v1.0.3, LPS mm; the file appears whole or not at all.

    Slicer opens the first markup of a file in some versions and all of them in others.

    Raises:
        ValueError: a point is not finite, or a box has no right angles.
    """
    content = {"@schema": SCHEMA_URL, "markups": [_markup_to_dict(markup) for markup in markups]}
    text = json.dumps(content, indent=2, allow_nan=False)
    write_text(file, text + "\n")


def _read_json(file: Path) -> Any:
    text = read_text(file)
    try:
        return json.loads(text, parse_int=_parse_int, object_pairs_hook=without_twins)
    except (ValueError, RecursionError) as error:
        raise PromptFileError(
            f"prompt file {file} is not valid JSON: {error}. Copy it again if it is cut off, else save it "
            "again in 3D Slicer as Markups JSON; a file of points that is edited by hand is easier as a table"
        ) from error


def _parse_int(digits: str) -> int | float:
    """An integer; as infinity if it is too long for a number, so that no time is lost on its digits."""
    return int(digits) if len(digits) <= 400 else math.inf


def _parse_markup(entry: Any, number: int, file: Path, frame: Frame | None, max_points: int) -> Markup:
    where = f"{file}: markup {number}"
    if not isinstance(entry, dict):
        raise PromptFileError(f"{where} is {shown(entry)}; it must be an object")
    name = _text(entry.get("name"), "name", where)
    where = f'{where} "{shown_text(name)}"' if name else where
    kind = _KINDS.get(entry["type"]) if isinstance(entry.get("type"), str) else None
    if kind is None:
        raise PromptFileError(
            f"{where} has type {shown(entry.get('type'))}; spdnet takes points and boxes from {', '.join(_KINDS)}. "
            "Remove it from the file or place points instead"
        )
    to_lps_mm = _scale_to_lps_mm(entry, frame, where)
    if kind != "box" and "controlPoints" not in entry:
        raise PromptFileError(f'{where} has no "controlPoints", the list of its points. Save it again in 3D Slicer')
    control_points = entry.get("controlPoints", [])
    if not isinstance(control_points, list):
        raise PromptFileError(f'{where}: "controlPoints" is {shown(control_points)}; it must be a list')
    check_count(len(control_points), where, limit=max_points)
    placed = [p for i, point in enumerate(control_points, start=1) if (p := _parse_point(point, i, where)) is not None]
    points, labels = [position for position, _ in placed], tuple(label for _, label in placed)
    if kind == "box":
        corners = _box_corners(entry, points[0] if points else None, where)
        points, labels = corners.tolist(), (name,) * len(corners)
    elif skipped := len(control_points) - len(points):
        logger.info("%s: %d of %d points were never placed; skipped", where, skipped, len(control_points))
    points_lps_mm = np.array(points, dtype=np.float64).reshape(-1, 3) * to_lps_mm
    check_range(points_lps_mm, labels, where)
    return Markup(name, kind, points_lps_mm, labels)


def _scale_to_lps_mm(entry: dict[str, Any], frame: Frame | None, where: str) -> np.ndarray:
    """Factors (3,) from the markup's frame and unit to LPS mm."""
    stated = None
    if "coordinateSystem" in entry:
        system = entry["coordinateSystem"]
        is_text = isinstance(system, (str, int)) and not isinstance(system, bool)
        stated = _FRAMES.get(str(system).strip().upper()) if is_text else None
        if stated is None:
            raise PromptFileError(f'{where}: "coordinateSystem" is {shown(system)}; it must be "LPS" or "RAS"')
    signs = settle_frame(stated, frame, "lps", where)
    unit = entry.get("coordinateUnits", "mm")
    code = unit[0] if isinstance(unit, list) and len(unit) == 3 else unit  # [code, scheme, meaning]
    mm_per_unit = _MM_PER_UNIT.get(code.strip()) if isinstance(code, str) else None
    if mm_per_unit is None:
        raise PromptFileError(
            f'{where}: "coordinateUnits" is {shown(unit)}; it must be "mm" or "um". Convert the points to mm'
        )
    return signs * mm_per_unit


def _box_corners(entry: dict[str, Any], control_point: list[float] | None, where: str) -> np.ndarray:
    """Corners (8, 3) of an ROI in the file's frame and unit; none (0, 3) if it was never placed.

    As Slicer writes it, the columns of "orientation" are the axes of the box in the file's frame. Files written by hand
    may have the first control point instead of "center", and no orientation for an upright box.
    """
    if entry.get("roiType", "Box") != "Box":
        raise PromptFileError(
            f'{where}: "roiType" is {shown(entry["roiType"])}; spdnet reads boxes of type "Box" only. '
            "Draw the box anew in 3D Slicer"
        )
    if entry.get("insideOut", False) is not False:
        raise PromptFileError(f'{where}: "insideOut" is {shown(entry["insideOut"])}; a box marks what is inside it')
    size = _numbers(entry, "size", 3, where, None)
    if not np.any(size):
        logger.info("%s: a box without size was never placed; skipped", where)
        return np.zeros((0, 3))
    if (size < 0).any() or (size == 0).sum() > 1:
        raise PromptFileError(f'{where}: "size" is {shown(entry["size"])}; a box needs positive sizes. Draw it anew')
    axes = _numbers(entry, "orientation", 9, where, np.eye(3).ravel()).reshape(3, 3)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        raise PromptFileError(
            f'{where}: "orientation" is {shown(entry["orientation"])}; its three columns must have length 1 and right '
            "angles. Draw the box anew"
        )
    center = _numbers(entry, "center", 3, where, None if control_point is None else np.array(control_point))
    return oriented_corners(center, size, axes)


def _numbers(entry: dict[str, Any], key: str, n: int, where: str, default: np.ndarray | None) -> np.ndarray:
    """The `n` finite numbers of a key, float64."""
    value = entry.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, list) or len(value) != n or not all(map(_is_finite_number, value)):
        raise PromptFileError(f'{where}: "{key}" is {shown(value)}; it must be {n} finite numbers. Draw the box anew')
    # beyond any number that is let through, so that products stay finite
    return np.clip(np.array([float(v) for v in value]), -1e12, 1e12)


def _text(value: Any, key: str, where: str) -> str:
    """A text, or "" for none; numbers as text."""
    if value is None:
        return ""
    if isinstance(value, (list, dict)):
        raise PromptFileError(f'{where}: "{key}" is {shown(value)}; it must be text')
    return str(value).strip().encode("utf-8", "replace").decode()


def _parse_point(point: Any, index: int, where: str) -> tuple[list[float], str] | None:
    """Position and label of a control point, or None if it was never placed."""
    if not isinstance(point, dict):
        raise PromptFileError(f"{where}: point {index} is {shown(point)}; it must be an object")
    where = f"{where}: point {index}"
    label = _text(point.get("label"), "label", where) or _text(point.get("id"), "id", where) or f"point {index}"
    where = f"{where} '{shown_text(label)}'"
    position = point.get("position")
    has_position = position is not None and position != ""
    status = point.get("positionStatus", "defined" if has_position else "undefined")
    if status in _UNPLACED:
        return None
    if status != "defined":
        raise PromptFileError(
            f'{where}: "positionStatus" is {shown(status)}; it must be "defined", "preview" or "undefined"'
        )
    if not has_position:
        raise PromptFileError(f"{where} is defined but has no position. Place it, delete it or mark it undefined")
    if not isinstance(position, list) or len(position) != 3 or not all(map(_is_finite_number, position)):
        raise PromptFileError(
            f'{where}: "position" is {shown(position)}; it must be three finite numbers. '
            "Place the point again or delete it"
        )
    return [float(v) for v in position], label


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of float
        return False


def _markup_to_dict(markup: Markup) -> dict[str, Any]:
    points = markup.points_lps_mm.tolist()
    box: dict[str, Any] = {}
    if markup.kind == "box":
        box, points = _box_to_dict(markup.points_lps_mm)
    labels = markup.point_labels[: len(points)]
    return {
        "type": _TYPES[markup.kind],
        "name": markup.name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "labelFormat": "%N-%d",
        **box,
        "controlPoints": [
            {
                "id": str(index),
                "label": label,
                "description": "",
                "associatedNodeID": "",
                "position": position,
                "selected": True,
                "locked": False,
                "visibility": True,
                "positionStatus": "defined",
            }
            for index, (position, label) in enumerate(zip(points, labels, strict=True), start=1)
        ],
        "measurements": [],
    }


def _box_to_dict(corners: np.ndarray) -> tuple[dict[str, Any], list[list[float]]]:
    """What an ROI has beside other markups, and its control point, the centre; a box without corners has size 0."""
    center, size, axes = center_size_axes(corners) if len(corners) else (np.zeros(3), np.zeros(3), np.eye(3))
    fields = {"roiType": "Box", "center": center, "orientation": axes.ravel(), "size": size}
    box = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in fields.items()}
    return {**box, "insideOut": False}, [center.tolist()] if len(corners) else []
