"""How many prompts there are, how many of them are right, and of what type they are; counts add up over cases.

Owns the measures that the fingerprint keeps and the planner's rules speak of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from spdnet.geometry import nearest_index
from spdnet.prompts.coarse_boxes import bounding_edges
from spdnet.prompts.points import ALL_CLASSES, SliceBoxes, SlicePrompts
from spdnet.prompts.simulate import problem_masks

# Bins of the distances of outside points from the target: edges at half octaves, the first and last bin open.
DISTANCE_EDGES_MM = 0.25 * 2.0 ** (np.arange(24) / 2)

_SMOOTH_SHARE_OF_SPREAD = 0.25
_SMOOTH_PIXELS = 1.5
_MOSTLY_SINGLE = 0.8
_MOSTLY_SMOOTH = 0.5
_MOSTLY_SHORT = 0.7  # a line has more short steps, points drawn one by one far fewer: see docs/choices.md
_MIN_POINTS_OF_STEPS = 8  # of few points any are near


@dataclass(frozen=True)
class PromptStatistics:
    """Counts over one or several cases; `+` adds them, a fresh object counts nothing.

    Every class is a problem of its own: slices are counted once per class, and a prompt that speaks for all
    classes is counted for each of them.

    Attributes:
        points: points in slices of the volume.
        points_inside: points in a pixel of the target.
        slices: slices.
        slices_with_points: slices with at least one point.
        target_slices: slices with target.
        target_slices_hit: slices with target that have a point inside it.
        single_point_slices: slices with exactly one point.
        point_triples: three adjacent slices with exactly one point each.
        smooth_triples: those whose middle point lies near the straight line between the others: nearer to its middle
            than a quarter of the in-plane spread of the class's points, or than 1.5 pixels.
        steps: from a point to the next one in the file, where that lies in another slice; counted where lengths are
            known and a case has 8 points or more.
        short_steps: those that lead to one of the two points that are nearest in 3D.
        boxes: boxes in slices of the volume, one for each slice that a box is cut into.
        slices_with_boxes: slices with at least one box.
        target_slices_with_boxes: slices with target and at least one box.
        boxes_on_target: boxes in slices with target.
        box_iou_sum: sum over those boxes of their intersection over union with the target's bounding box in the slice.
        outside_distance_counts: points outside the target, where lengths are known, by their distance in 3D from the
            centre of the nearest target voxel: numbers in the bins of `DISTANCE_EDGES_MM`, without empty bins at the
            end.
        unnamed_points: where there are several classes, points that speak for all of them, each counted once.
        together: where there are several classes, all points as if none named its class, against all classes together:
            every point and every slice counts once; neither boxes nor distances. None with one class, and in
            fingerprints that were made before.
    """

    points: int = 0
    points_inside: int = 0
    slices: int = 0
    slices_with_points: int = 0
    target_slices: int = 0
    target_slices_hit: int = 0
    single_point_slices: int = 0
    point_triples: int = 0
    smooth_triples: int = 0
    steps: int = 0
    short_steps: int = 0
    boxes: int = 0
    slices_with_boxes: int = 0
    target_slices_with_boxes: int = 0
    boxes_on_target: int = 0
    box_iou_sum: float = 0.0
    outside_distance_counts: tuple[int, ...] = ()
    unnamed_points: int = 0
    together: PromptStatistics | None = None

    def __post_init__(self) -> None:
        if isinstance(self.together, dict):  # when it comes from JSON
            object.__setattr__(self, "together", PromptStatistics(**self.together))
        counts = list(self.outside_distance_counts)  # a list when it comes from JSON
        while counts and counts[-1] == 0:
            counts.pop()
        object.__setattr__(self, "outside_distance_counts", tuple(counts))

    def __add__(self, other: PromptStatistics) -> PromptStatistics:
        numbers = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        pairs = zip_longest(self.outside_distance_counts, other.outside_distance_counts, fillvalue=0)
        parts = [part for part in (self.together, other.together) if part is not None]
        together = sum(parts, PromptStatistics()) if parts else None
        return PromptStatistics(**numbers, outside_distance_counts=tuple(a + b for a, b in pairs), together=together)

    @property
    def is_unnamed(self) -> bool:
        """Whether most points do not say which of several classes they are for."""
        return self.together is not None and 2 * self.unnamed_points > self.together.points

    @property
    def is_line(self) -> bool:
        """Whether points, several in most slices, follow one another in their files, as those along a bowel do."""
        are_single = self.single_point_slices >= _MOSTLY_SINGLE * self.slices_with_points
        return not are_single and self.steps > 0 and self.short_steps >= _MOSTLY_SHORT * self.steps

    @property
    def precision(self) -> float:
        """Share of points inside the target; 0 without points."""
        return _rate(self.points_inside, self.points)

    @property
    def coverage(self) -> float:
        """Share of target slices with a point inside the target; 0 without target."""
        return _rate(self.target_slices_hit, self.target_slices)

    @property
    def quality(self) -> float:
        """Harmonic mean of precision and coverage: 1 if all points are right and all slices have one."""
        return 2 * _rate(self.precision * self.coverage, self.precision + self.coverage)

    @property
    def box_coverage(self) -> float:
        """Share of target slices with a box."""
        return _rate(self.target_slices_with_boxes, self.target_slices)

    @property
    def mean_box_iou(self) -> float:
        """Mean intersection over union of boxes in target slices with the target's bounding box there."""
        return _rate(self.box_iou_sum, self.boxes_on_target)

    @property
    def median_outside_mm(self) -> float | None:
        """Median distance of outside points from the target, mm, to about a tenth; None if none was measured."""
        counts = np.array(self.outside_distance_counts, dtype=np.float64)
        if not counts.sum():
            return None
        below = np.cumsum(counts)
        bin_index = int(np.searchsorted(below, counts.sum() / 2))
        part = 1 - (below[bin_index] - counts.sum() / 2) / counts[bin_index]
        edges = np.concatenate([DISTANCE_EDGES_MM[:1] / np.sqrt(2), DISTANCE_EDGES_MM, DISTANCE_EDGES_MM[-1:]])
        low, high = edges[bin_index], edges[bin_index + 1]
        return float(low * (high / low) ** part)

    def as_floats(self) -> dict[str, float]:
        """Rates and counts under names for a JSON file; a rate of nothing is 0, and the counts tell."""
        return {
            "points_per_slice": _rate(self.points, self.slices),
            "points_per_slice_with_points": _rate(self.points, self.slices_with_points),
            "share_of_slices_with_points": _rate(self.slices_with_points, self.slices),
            "share_of_points_inside": self.precision,
            "share_of_target_slices_hit": self.coverage,
            "median_distance_of_outside_points_mm": self.median_outside_mm or 0.0,
            "share_of_target_slices_with_box": self.box_coverage,
            "mean_box_iou": self.mean_box_iou,
            **{name: float(getattr(self, name)) for name in _NUMBERS},
        }


_NUMBERS = tuple(f.name for f in fields(PromptStatistics) if f.name not in ("outside_distance_counts", "together"))


def prompt_type(statistics: PromptStatistics, n_curves: int = 0, n_boxes: int = 0) -> str:
    """What kind of prompts a data set has, by its points if it has both points and boxes.

    Args:
        statistics: of all its cases.
        n_curves: curves in its prompt files that have points.
        n_boxes: boxes in its prompt files, for those that were cut into no slice.

    Returns:
        "centreline": there are curves, or nearly all slices with points have one point only (4 of 5) and at least half
        of the points lie smoothly between their neighbours; "points"; "boxes"; or "none".
    """
    if not statistics.points:
        return "boxes" if statistics.boxes or n_boxes else "none"
    if n_curves:
        return "centreline"
    is_single = statistics.single_point_slices >= _MOSTLY_SINGLE * statistics.slices_with_points
    is_smooth = statistics.smooth_triples >= _MOSTLY_SMOOTH * max(1, statistics.point_triples)
    return "centreline" if is_single and is_smooth else "points"


def count_prompts(
    prompts: SlicePrompts, masks: np.ndarray, mm_per_pixel: Sequence[float] | None = None
) -> PromptStatistics:
    """Count the prompts of one case against its masks.

    Args:
        prompts: points and boxes in the frame of `masks`.
        masks: bool or uint8 (slices, classes, rows, columns).
        mm_per_pixel: distance of rows, of columns and of slices, mm; None: distances are not measured.
    """
    masks = masks.astype(bool, copy=False)
    total = PromptStatistics()
    for k in range(masks.shape[1]):
        own = prompts.for_class(k)
        total = total + _count_points(own, masks[:, k], mm_per_pixel) + _count_boxes(own.boxes, masks[:, k])
    if masks.shape[1] == 1:
        return total
    in_volume = (prompts.slice_index >= 0) & (prompts.slice_index < len(masks))
    n_unnamed = int((in_volume & (prompts.class_index == ALL_CLASSES)).sum())
    return replace(
        total, unnamed_points=n_unnamed, together=_count_points(prompts, problem_masks(masks, named=False)[:, 0], None)
    )


def prompt_statistics(prompts: SlicePrompts, masks: np.ndarray) -> dict[str, float]:
    """Rates and counts of one case; see `PromptStatistics.as_floats` and `count_prompts`."""
    return count_prompts(prompts, masks).as_floats()


def _count_points(prompts: SlicePrompts, masks: np.ndarray, mm_per_pixel: Sequence[float] | None) -> PromptStatistics:
    """Counts of points for one class; `masks` is bool (slices, rows, columns)."""
    pixels = nearest_index(prompts.points_syx)
    in_volume = (pixels[:, 0] >= 0) & (pixels[:, 0] < len(masks))
    points, pixels = prompts.points_syx[in_volume], pixels[in_volume]
    in_square = np.all((pixels >= 0) & (pixels < masks.shape), axis=1)
    inside = np.zeros(len(pixels), dtype=bool)
    inside[in_square] = masks[tuple(pixels[in_square].T)]
    per_slice = np.bincount(pixels[:, 0], minlength=len(masks))
    n_triples, n_smooth = _count_triples(points[:, 1:], pixels[:, 0], per_slice)
    n_steps, n_short = (0, 0) if mm_per_pixel is None else _count_steps(points, mm_per_pixel)
    return PromptStatistics(
        points=len(pixels),
        points_inside=int(inside.sum()),
        slices=len(masks),
        slices_with_points=int((per_slice > 0).sum()),
        target_slices=int(masks.any(axis=(1, 2)).sum()),
        target_slices_hit=len(np.unique(pixels[inside, 0])),
        single_point_slices=int((per_slice == 1).sum()),
        point_triples=n_triples,
        smooth_triples=n_smooth,
        steps=n_steps,
        short_steps=n_short,
        outside_distance_counts=() if mm_per_pixel is None else _distances(points[~inside], masks, mm_per_pixel),
    )


def _count_triples(points_yx: np.ndarray, slices: np.ndarray, per_slice: np.ndarray) -> tuple[int, int]:
    """How often three adjacent slices have one point each, and how often these are smooth."""
    is_single = per_slice == 1
    middles = np.flatnonzero(is_single[:-2] & is_single[1:-1] & is_single[2:]) + 1
    if not len(middles):
        return 0, 0
    of_slice = np.zeros(len(per_slice), dtype=np.int64)
    of_slice[slices] = np.arange(len(slices))  # slices with several points are not asked for
    before, here, after = (points_yx[of_slice[middles + step]] for step in (-1, 0, 1))
    deviation = np.linalg.norm(here - (before + after) / 2, axis=1)
    singles = points_yx[of_slice[is_single]]
    spread = np.sqrt(np.sum((singles - singles.mean(axis=0)) ** 2, axis=1).mean())
    return len(middles), int((deviation < max(_SMOOTH_SHARE_OF_SPREAD * spread, _SMOOTH_PIXELS)).sum())


def _count_steps(points_syx: np.ndarray, mm_per_pixel: Sequence[float]) -> tuple[int, int]:
    """Steps from point to point into another slice, and those of them to one of the two nearest points."""
    if len(points_syx) < _MIN_POINTS_OF_STEPS:
        return 0, 0
    rows_mm, columns_mm, slices_mm = mm_per_pixel
    places = points_syx * np.array([slices_mm, rows_mm, columns_mm])
    _, nearest = cKDTree(places).query(places, 3)  # the point itself among them
    is_step = np.diff(nearest_index(points_syx[:, 0])) != 0
    is_short = (nearest[:-1] == np.arange(1, len(places))[:, None]).any(axis=1)
    return int(is_step.sum()), int((is_step & is_short).sum())


def _distances(points_syx: np.ndarray, masks: np.ndarray, mm_per_pixel: Sequence[float]) -> tuple[int, ...]:
    """Histogram of the distances of points from the nearest voxel of a mask (slices, rows, columns)."""
    if not len(points_syx) or not masks.any():
        return ()
    rows_mm, columns_mm, slices_mm = mm_per_pixel
    scale = np.array([slices_mm, rows_mm, columns_mm])
    (box,) = ndimage.find_objects(masks.astype(np.uint8))
    cropped = masks[box]
    rim = np.argwhere(cropped & ~ndimage.binary_erosion(cropped)) + [axis.start for axis in box]
    distances, _ = cKDTree(rim * scale).query(points_syx * scale)
    counts = np.bincount(np.searchsorted(DISTANCE_EDGES_MM, distances), minlength=1)
    return tuple(int(n) for n in counts)


def _count_boxes(boxes: SliceBoxes, masks: np.ndarray) -> PromptStatistics:
    """Counts of boxes for one class; `masks` is bool (slices, rows, columns)."""
    boxes = boxes.select((boxes.slice_index >= 0) & (boxes.slice_index < len(masks)))
    if not len(boxes):
        return PromptStatistics()
    has_target = np.any(masks, axis=(1, 2))
    on_target = boxes.select(has_target[boxes.slice_index])
    ious = [
        _iou(box, bounding_edges(masks[s]).reshape(4))
        for s, box in zip(on_target.slice_index, on_target.boxes_yxyx, strict=True)
    ]
    return PromptStatistics(
        boxes=len(boxes),
        slices_with_boxes=len(np.unique(boxes.slice_index)),
        target_slices_with_boxes=len(np.unique(on_target.slice_index)),
        boxes_on_target=len(on_target),
        box_iou_sum=float(np.sum(ious)),
    )


def _iou(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes top, left, bottom, right."""
    sides = np.clip(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0, None)
    areas = [float(np.prod(b[2:] - b[:2])) for b in (box, other)]
    common = float(np.prod(sides))
    return common / (sum(areas) - common)


def _rate(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
