"""3D Slicer markups files (`.mrk.json`): reading with all their quirks, writing by the published schema.

Owns the file format and the conversion to LPS mm. Which image the points belong to is not known here.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from spdnet.errors import PromptFileError
from spdnet.prompts.points import Markup

logger = logging.getLogger(__name__)

SCHEMA_URL = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
MAX_FILE_BYTES = 50 * 2**20

_KINDS = {
    "Fiducial": "points",
    "PointList": "points",
    "Curve": "curve",
    "Line": "curve",
    "ClosedCurve": "closed_curve",
}
_TYPES = {"points": "Fiducial", "curve": "Curve", "closed_curve": "ClosedCurve"}
# The numbers are Slicer's old enumeration, which some writers still use.
_SIGNS_TO_LPS = {"LPS": (1.0, 1.0, 1.0), "1": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0), "0": (-1.0, -1.0, 1.0)}
_MM_PER_UNIT = {"mm": 1.0, "um": 1e-3, "\u00b5m": 1e-3, "\u03bcm": 1e-3}
_UNPLACED = ("undefined", "preview", "missing")


def read_markups(file: Path) -> list[Markup]:
    """Read all markups of a file, converted to LPS mm.

    Points that were never placed (status undefined or preview, or no position and no status) are skipped,
    counted and logged. Line counts as a curve of two points.

    Raises:
        PromptFileError: the file is missing, above 50 MB, not JSON or not a markups file; a markup has a type
            without points to use (ROI, Plane, Angle, ...), an unknown frame or an unknown unit; a point is
            declared as defined but has no position of three finite numbers.
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
            f'{file}: "@schema" is {schema!r}; spdnet reads version 1 of the Slicer markups schema. '
            "Save the points again in 3D Slicer as .mrk.json"
        )
    return [_parse_markup(entry, number, file) for number, entry in enumerate(content["markups"], start=1)]


def write_markups(file: Path, markups: list[Markup]) -> None:
    """Write markups as schema v1.0.3, LPS mm; the file appears whole or not at all.

    Slicer opens the first markup of a file in some versions and all of them in others.

    Raises:
        ValueError: a point is not finite.
    """
    content = {"@schema": SCHEMA_URL, "markups": [_markup_to_dict(markup) for markup in markups]}
    text = json.dumps(content, indent=2, allow_nan=False)
    partial = file.with_name(".partial_" + file.name)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(file)


def _read_json(file: Path) -> Any:
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise PromptFileError(
                f"{file} has {size / 2**20:.0f} MB; prompt files above {MAX_FILE_BYTES / 2**20:.0f} MB are refused. "
                "Is it a point list at all? Resample curves if so"
            )
        return json.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise PromptFileError(f"prompt file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PromptFileError(f"prompt file {file} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise PromptFileError(f"prompt file {file} is not valid JSON: {error}") from error


def _parse_markup(entry: Any, number: int, file: Path) -> Markup:
    where = f"{file}: markup {number}"
    if not isinstance(entry, dict):
        raise PromptFileError(f"{where} is {_shown(entry)}; it must be an object")
    name = str(entry.get("name", "") or "").strip()
    where = f'{where} "{name}"' if name else where
    kind = _KINDS.get(entry["type"]) if isinstance(entry.get("type"), str) else None
    if kind is None:
        raise PromptFileError(
            f"{where} has type {_shown(entry.get('type'))}; spdnet takes points from {', '.join(_KINDS)}. "
            "Remove it from the file or place points instead"
        )
    to_lps_mm = _scale_to_lps_mm(entry, where)
    control_points = entry.get("controlPoints", [])
    if not isinstance(control_points, list):
        raise PromptFileError(f'{where}: "controlPoints" is {_shown(control_points)}; it must be a list')
    positions, labels = [], []
    for index, point in enumerate(control_points, start=1):
        placed = _parse_point(point, index, where)
        if placed is not None:
            positions.append(placed[0])
            labels.append(placed[1])
    if skipped := len(control_points) - len(positions):
        logger.info("%s: %d of %d points were never placed; skipped", where, skipped, len(control_points))
    points = np.array(positions, dtype=np.float64).reshape(-1, 3) * to_lps_mm
    return Markup(name, kind, points, tuple(labels))


def _scale_to_lps_mm(entry: dict[str, Any], where: str) -> np.ndarray:
    """Factors (3,) from the markup's frame and unit to LPS mm."""
    system = entry.get("coordinateSystem", "LPS")
    signs = None if isinstance(system, bool) else _SIGNS_TO_LPS.get(str(system).strip().upper())
    if signs is None:
        raise PromptFileError(f'{where}: "coordinateSystem" is {_shown(system)}; it must be "LPS" or "RAS"')
    unit = entry.get("coordinateUnits", "mm")
    code = unit[0] if isinstance(unit, list) and len(unit) == 3 else unit  # [code, scheme, meaning]
    mm_per_unit = _MM_PER_UNIT.get(code.strip()) if isinstance(code, str) else None
    if mm_per_unit is None:
        raise PromptFileError(
            f'{where}: "coordinateUnits" is {_shown(unit)}; it must be "mm" or "um". Convert the points to mm'
        )
    return np.array(signs) * mm_per_unit


def _parse_point(point: Any, index: int, where: str) -> tuple[list[float], str] | None:
    """Position and label of a control point, or None if it was never placed."""
    if not isinstance(point, dict):
        raise PromptFileError(f"{where}: point {index} is {_shown(point)}; it must be an object")
    label = str(point.get("label") or point.get("id") or f"point {index}")
    where = f"{where}: point {index} '{label}'"
    position = point.get("position")
    has_position = position is not None and position != ""
    status = point.get("positionStatus", "defined" if has_position else "undefined")
    if status in _UNPLACED:
        return None
    if status != "defined":
        raise PromptFileError(
            f'{where}: "positionStatus" is {_shown(status)}; it must be "defined", "preview" or "undefined"'
        )
    if not has_position:
        raise PromptFileError(f"{where} is defined but has no position. Place it, delete it or mark it undefined")
    if not isinstance(position, list) or len(position) != 3 or not all(map(_is_finite_number, position)):
        raise PromptFileError(
            f'{where}: "position" is {_shown(position)}; it must be three finite numbers. '
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
    points = zip(markup.points_lps_mm.tolist(), markup.point_labels, strict=True)
    return {
        "type": _TYPES[markup.kind],
        "name": markup.name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "labelFormat": "%N-%d",
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
            for index, (position, label) in enumerate(points, start=1)
        ],
        "measurements": [],
    }


def _shown(value: Any) -> str:
    """A value as JSON, cut to a readable length."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
