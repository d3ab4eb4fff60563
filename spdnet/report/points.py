"""The prompts of a case in the display frame: as they were given, and what distillation made of them.

Reads the tables that `spd_predict --save_prompts` and validation write, and prompt files.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spdnet.dataset import Labels
from spdnet.errors import PromptFileError
from spdnet.geometry import CaseMapping, ImageGeometry, nearest_index
from spdnet.prompts import PromptReading, SlicePrompts, count_prompts, load_given_prompts
from spdnet.prompts.fates import Fate

_SAME_PLACE = 3  # decimals of a pixel


@dataclass(frozen=True)
class JudgedPoint:
    """One row of a table of fates.

    Attributes:
        number: of the point among those of its class, from 1.
        class_index: foreground class (from 0).
        source_slice, target_slice: where it was placed, and the slice that it was judged for.
        y, x: continuous row and column in the display frame.
        own_saliency, saliency: at the point in either slice; NaN outside the maps.
        threshold: what it was compared with.
        fate: what became of it.
    """

    number: int
    class_index: int
    source_slice: int
    target_slice: int
    y: float
    x: float
    own_saliency: float
    saliency: float
    threshold: float
    fate: Fate

    @property
    def is_at_home(self) -> bool:
        """Whether it was judged for the slice that it was placed in."""
        return self.source_slice == self.target_slice


def read_judged_points(file: Path, geometry: ImageGeometry, mapping: CaseMapping, labels: Labels) -> list[JudgedPoint]:
    """Read a table of fates, `prompts/CASE.csv`, into the display frame.

    Args:
        file: the table.
        geometry: grid of the image.
        mapping: raw voxels to display pixels.
        labels: the classes.

    Raises:
        PromptFileError: it is not such a table, or names a class that the data set does not have.
    """
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        world = np.array([[float(r[f"{axis}_lps_mm"]) for axis in "xyz"] for r in rows]).reshape(-1, 3)
        placed = mapping.points_to_network(geometry.world_to_voxel(world))
        shift = _slice_shift(placed[:, 0], np.array([int(r["judged_for_slice"]) for r in rows]))
        return [_judged_point(row, at, shift, labels) for row, at in zip(rows, placed.tolist(), strict=True)]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise PromptFileError(
            f"{file} is not a table of what became of prompts for the classes {', '.join(labels.names)} ({error}); "
            "make it anew with spd_predict --save_prompts"
        ) from error


def _slice_shift(placed: np.ndarray, judged_for: np.ndarray) -> int:
    """How many slices the network's crop left out before its first one."""
    return int(nearest_index(np.median(placed - judged_for))) if len(placed) else 0


def _judged_point(row: dict[str, str], at_syx: list[float], shift: int, labels: Labels) -> JudgedPoint:
    source, target = (int(row[key]) + shift for key in ("slice", "judged_for_slice"))
    saliency = [float(row[f"saliency_{where}"] or "nan") for where in ("in_own_slice", "here")]
    return JudgedPoint(
        int(row["point"]), labels.names.index(row["label"]), source, target, at_syx[1], at_syx[2],
        saliency[0], saliency[1], float(row["threshold"]), Fate(row["fate"]),
    )  # fmt: skip


def read_given_prompts(
    file: Path, case: str, geometry: ImageGeometry, mapping: CaseMapping, labels: Labels, reading: PromptReading
) -> SlicePrompts:
    """The points and boxes of a prompt file in the display frame; raises `PromptFileError`."""
    return load_given_prompts(file, case, geometry, mapping, labels, reading=reading).for_network()


def points_as_given(points: list[JudgedPoint]) -> np.ndarray:
    """The points that a table of fates tells of, where they were placed, each once: float64 (N, 3) slice, y, x."""
    given = [p for p in points if p.is_at_home]
    places = {(p.source_slice, round(p.y, _SAME_PLACE), round(p.x, _SAME_PLACE)): None for p in given}
    return np.array(list(places), dtype=np.float64).reshape(-1, 3)


def prompt_quality(points: list[JudgedPoint], masks: np.ndarray) -> dict[str, dict[str, int]]:
    """Counts of the points before and after distillation against the reference.

    Args:
        points: of one case.
        masks: bool (slices, classes, rows, columns).

    Returns:
        for "raw" and "distilled" the counts `points`, `points_inside`, `target_slices`, `target_slices_hit`.
    """
    given, kept = [p for p in points if p.is_at_home], [p for p in points if p.fate.is_kept]
    return {"raw": _counts(given, masks), "distilled": _counts(kept, masks)}


def _counts(points: list[JudgedPoint], masks: np.ndarray) -> dict[str, int]:
    places = [(p.target_slice, p.y, p.x) for p in points]
    prompts = SlicePrompts(
        np.array(places, dtype=np.float64).reshape(-1, 3), np.array([p.class_index for p in points], dtype=np.int64)
    )
    counted = count_prompts(prompts, masks)
    names = ("points", "points_inside", "target_slices", "target_slices_hit")
    return {name: int(getattr(counted, name)) for name in names}


def judged_point_to_plain(point: JudgedPoint) -> list[Any]:
    """A row for the page: number, class, source, target, y, x, own saliency, saliency, threshold, fate's name."""
    values = (_or_none(point.own_saliency), _or_none(point.saliency), point.threshold)
    return [
        point.number, point.class_index, point.source_slice, point.target_slice, round(point.y, 2), round(point.x, 2),
        *values, point.fate.name,
    ]  # fmt: skip


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
