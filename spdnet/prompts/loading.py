"""A prompt file to the points of one case in the network frame, with the checks that need the image.

The way is world, raw voxel, network; the points are checked where a mistake shows best, in the raw voxel
frame.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spdnet.dataset import Labels
from spdnet.errors import PromptFileError
from spdnet.geometry import CaseMapping, ImageGeometry, nearest_index
from spdnet.prompts.markups import read_markups
from spdnet.prompts.points import ALL_CLASSES, Markup, SlicePrompts

logger = logging.getLogger(__name__)

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_NEARLY_ALL = 0.9
_MAX_NAMED = 3


def load_slice_prompts(
    file: Path,
    case: str,
    geometry: ImageGeometry,
    mapping: CaseMapping,
    labels: Labels,
    curve_step_mm: float | None = None,
) -> SlicePrompts:
    """Read the prompt file of a case into the network frame.

    Points of a list are taken as they are. A curve is followed along straight lines between its control points
    and gives each slice one point per visit, halfway along the visit. Points of the image outside the
    mapping's crop are dropped, counted and logged. A file without placed points gives an empty set, logged.

    Args:
        file: Slicer markups file.
        case: identifier, for messages.
        geometry: grid of the raw image.
        mapping: raw voxels to network pixels; its slices are those a curve visits.
        labels: classes; a markup named like one of them speaks for it alone, others for all.
        curve_step_mm: longest distance of a curve's points within a slice, mm; None: one point per visit.

    Raises:
        PromptFileError: the file is faulty (see `read_markups`), points lie outside the image or all on one
            spot, or a markup is named "background".
    """
    markups = read_checked_markups(file, case, geometry)
    if not any(len(markup.points_lps_mm) for markup in markups):
        logger.info("case %s: %s holds no placed points", case, file)
        return SlicePrompts.empty()
    prompts = SlicePrompts.concatenate(
        [_markup_to_slices(markup, geometry, mapping, labels, curve_step_mm) for markup in markups]
    )
    kept = prompts.select(in_crop(prompts, mapping))
    if len(kept) < len(prompts):
        logger.info(
            "case %s: %d of %d points lie outside the cropped region; dropped",
            case,
            len(prompts) - len(kept),
            len(prompts),
        )
    return kept


def read_checked_markups(file: Path, case: str, geometry: ImageGeometry) -> list[Markup]:
    """Read the prompt file of a case and check it against its image; raises as `load_slice_prompts`."""
    markups = read_markups(file)
    for markup in markups:
        if markup.name.casefold() == "background":
            raise PromptFileError(
                f'case {case}: {file} has a markup named "background"; spdnet takes points on the target only. '
                "Remove it, or rename it if its points are meant for a class"
            )
    if any(len(markup.points_lps_mm) for markup in markups):
        _check_pile_up(markups, case, file)
        _check_inside(markups, geometry, case, file)
    return markups


def resample_curve(
    points_syx: np.ndarray, points_mm: np.ndarray, closed: bool = False, step_mm: float | None = None
) -> np.ndarray:
    """Points along a polyline such that every slice it passes through has at least one.

    A visit is a stretch of the line within one slice. It gets one point halfway along its length, or with
    `step_mm` as many evenly spaced ones as keep them no further apart than that.

    Args:
        points_syx: control points float64 (N, 3) in the network frame, N >= 1.
        points_mm: the same points in mm (N, 3), for lengths.
        closed: whether the last point joins the first.
        step_mm: longest distance between points of a visit, mm.

    Returns:
        float64 (M, 3) in the network frame, in order along the line.
    """
    if closed:
        points_syx = np.concatenate([points_syx, points_syx[:1]])
        points_mm = np.concatenate([points_mm, points_mm[:1]])
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points_mm, axis=0), axis=1))])
    if length[-1] == 0:
        return points_syx[:1].copy()
    moves = np.concatenate([[True], np.diff(length) > 0])  # repeated control points have no length to divide
    points_syx, length = points_syx[moves], length[moves]
    starts, ends, slices = _visits(points_syx[:, 0], length)
    if closed and len(slices) > 1 and slices[0] == slices[-1]:  # one visit, cut in two where the curve was opened
        starts, ends = starts[1:], np.append(ends[1:-1], length[-1] + ends[0])
    counts = np.ones(len(starts), dtype=np.int64)
    if step_mm is not None:
        counts = np.maximum(1, np.ceil((ends - starts) / step_mm)).astype(np.int64)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    fraction = (np.arange(counts.sum()) - first + 0.5) / np.repeat(counts, counts)
    position = np.repeat(starts, counts) + fraction * np.repeat(ends - starts, counts)
    position = np.where(position > length[-1], position - length[-1], position)
    return np.stack([np.interp(position, length, axis) for axis in points_syx.T], axis=1)


def _visits(slice_coordinate: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start, end (along `length`) and slice of each stretch of a polyline that stays within one slice."""
    breaks = [length]
    for i in range(len(length) - 1):
        here, there = slice_coordinate[i], slice_coordinate[i + 1]
        low, high = sorted((here, there))
        borders = np.arange(int(nearest_index(low)), int(nearest_index(high))) + 0.5
        if len(borders):
            breaks.append(length[i] + (borders - here) / (there - here) * (length[i + 1] - length[i]))
    positions = np.unique(np.concatenate(breaks))
    middles = (positions[:-1] + positions[1:]) / 2
    slices = nearest_index(np.interp(middles, length, slice_coordinate))
    is_new = np.concatenate([[True], slices[1:] != slices[:-1]])
    starts = positions[:-1][is_new]
    return starts, np.concatenate([starts[1:], positions[-1:]]), slices[is_new]


def _markup_to_slices(
    markup: Markup, geometry: ImageGeometry, mapping: CaseMapping, labels: Labels, curve_step_mm: float | None
) -> SlicePrompts:
    points = mapping.points_to_network(geometry.world_to_voxel(markup.points_lps_mm))
    if markup.kind != "points" and len(points):
        points = resample_curve(points, markup.points_lps_mm, markup.kind == "closed_curve", curve_step_mm)
    class_index = labels.names.index(markup.name) if markup.name in labels.names else ALL_CLASSES
    return SlicePrompts(points, np.full(len(points), class_index, dtype=np.int64))


def in_crop(prompts: SlicePrompts, mapping: CaseMapping) -> np.ndarray:
    """Which points lie on the part of the image that the mapping keeps: bool (N,)."""
    low = np.array([0, *(lo for lo, _ in mapping.content_box)]) - 0.5
    high = np.array([mapping.n_slices, *(hi for _, hi in mapping.content_box)]) - 0.5
    return np.all((prompts.points_syx >= low) & (prompts.points_syx < high), axis=1)


def _check_pile_up(markups: Sequence[Markup], case: str, file: Path) -> None:
    points = np.concatenate([markup.points_lps_mm for markup in markups])
    if len(points) > 1 and np.all(points == points[0]):
        raise PromptFileError(
            f"case {case}: all {len(points)} points of {file} lie at {_in_words(points[0])} LPS mm, one on the other; "
            "were they imported with the wrong column names? Export them again"
        )
    for markup in markups:
        if len(markup.points_lps_mm) > 1 and not markup.points_lps_mm.any():
            raise PromptFileError(
                f'case {case}: all {len(markup.points_lps_mm)} points of markup "{markup.name}" in {file} lie at the '
                "origin; were they imported with the wrong column names? Export them again"
            )


def _check_inside(markups: Sequence[Markup], geometry: ImageGeometry, case: str, file: Path) -> None:
    points = np.concatenate([markup.points_lps_mm for markup in markups])
    names = [(markup.name, label) for markup in markups for label in markup.point_labels]
    voxels = geometry.world_to_voxel(points)
    outside = np.flatnonzero(~geometry.contains(voxels))
    if not len(outside):
        return
    flipped_inside = geometry.contains(geometry.world_to_voxel(points * _LPS_TO_RAS))
    first = [
        f"point '{names[i][1]}'" + (f' of markup "{names[i][0]}"' if names[i][0] else "") + f" lies at {_at(voxels[i])}"
        for i in outside[:_MAX_NAMED]
    ]
    remedy = "Do the points belong to this image? Remove or move those outside"
    if flipped_inside.mean() >= _NEARLY_ALL and flipped_inside.sum() > len(points) - len(outside):
        which = "all" if flipped_inside.all() else f"{flipped_inside.sum()} of {len(points)} points"
        remedy = (
            f"Flipping x and y would put {which} inside: are the numbers RAS where the file says LPS, or the reverse? "
            "Set its coordinateSystem"
        )
    raise PromptFileError(
        f"case {case}: {'; '.join(first)}{' ...' if len(outside) > _MAX_NAMED else ''}, outside the image "
        f"{geometry.shape_zyx} ({len(outside)} of {len(points)} points of {file}). {remedy}"
    )


def _at(voxel_zyx: np.ndarray) -> str:
    z, y, x = voxel_zyx
    return f"voxel (z {z:.1f}, y {y:.1f}, x {x:.1f})"


def _in_words(point: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.5g}" for v in point) + ")"
