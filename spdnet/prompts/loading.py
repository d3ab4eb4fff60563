"""A prompt file to the points and boxes of one case in the network frame, with the checks that need the image.

The way is world, raw voxel, network; the points are checked where a mistake shows best, in the raw voxel
frame.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from spdnet.dataset import Labels
from spdnet.errors import PromptFileError
from spdnet.geometry import CaseMapping, ImageGeometry, nearest_index
from spdnet.prompts.boxes import check_extent, cut_into_slices, overlaps_image
from spdnet.prompts.points import ALL_CLASSES, Markup, SliceBoxes, SlicePrompts
from spdnet.prompts.reading import read_prompt_file
from spdnet.prompts.text_files import MAX_POINTS, Frame, shown_text
from spdnet.prompts.used_points import GivenPrompts, log_outside_crop, sort_out

logger = logging.getLogger(__name__)

Outside = Literal["error", "drop"]


@dataclass(frozen=True)
class PromptReading:
    """What the user says of prompt files that the files do not say themselves.

    Attributes:
        frame: "lps" or "ras", for files that do not say theirs.
        outside: what to do with points outside the image, see `read_checked_markups`.
    """

    frame: Frame | None = None
    outside: Outside = "error"


_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_NEARLY_ALL = 0.9
_NEGATIVE_WORDS = {"background", "negative", "negatives", "neg", "bg"}
_WORDS_OF_LISTS = {"point", "points", "prompt", "prompts", "click", "clicks"}
_MAX_NAMED = 3
_CENTRE_TOLERANCE = 1e-9  # of a slice


def load_given_prompts(
    file: Path,
    case: str,
    geometry: ImageGeometry,
    mapping: CaseMapping,
    labels: Labels,
    curve_step_mm: float | None = None,
    reading: PromptReading = PromptReading(),
    log_dropped: bool = True,
) -> GivenPrompts:
    """Read the prompt file of a case into the network frame.

    Points of a list are taken as they are. A curve is followed along straight lines between its control points
    and gives each slice one point per visit, where it crosses the slice's centre plane. A box becomes one for each
    slice whose centre plane it holds. Which of these the network gets, `GivenPrompts` says: of points of one class and
    slice within 0.1 mm of each other, or within half a voxel in plane where that is less, only the first, and none of
    the image outside the mapping's crop; boxes there are left out. All that the network does not get is counted and
    logged. A file without placed points gives an empty set, logged.

    Args:
        file: prompt file of any format (see `read_prompt_file`).
        case: identifier, for messages; a table's column `case_id` must name it.
        geometry: grid of the raw image.
        mapping: raw voxels to network pixels; its slices are those a curve visits.
        labels: classes; a markup named like one of them speaks for it alone, others for all.
        curve_step_mm: longest distance of a curve's points within a slice, mm; None: one point per visit.
        reading: what the user says of the file.
        log_dropped: as in `read_checked_markups`.

    Raises:
        PromptFileError: the file is faulty (see `read_prompt_file`), points lie outside the image or all on one
            spot, or a markup is named "background", or like a class but for capital letters.
    """
    how = reading.frame, reading.outside, log_dropped
    markups = read_checked_markups(file, case, geometry, labels, *how, mapping, curve_step_mm)
    if not any(len(markup.points_lps_mm) for markup in markups):
        logger.info("case %s: %s holds no placed points in the image", case, file)
        return GivenPrompts.empty()
    parts = [_markup_to_slices(markup, geometry, mapping, labels, curve_step_mm) for markup in markups]
    prompts = SlicePrompts.concatenate(parts)
    n_boxes = sum(markup.kind == "box" and len(markup.points_lps_mm) > 0 for markup in markups)
    n_boxes_kept = sum(len(part.boxes) > 0 for part in parts)
    log_outside_crop(case, n_boxes_kept, n_boxes, "boxes")
    return sort_out(prompts, geometry, mapping, case)


def read_checked_markups(
    file: Path,
    case: str,
    geometry: ImageGeometry,
    labels: Labels | None = None,
    frame: Frame | None = None,
    outside: Outside = "error",
    log_dropped: bool = True,
    mapping: CaseMapping | None = None,
    curve_step_mm: float | None = None,
) -> list[Markup]:
    """Read the prompt file of a case and check it against its image; raises as `load_given_prompts`.

    Args:
        file, case, geometry, frame: as in `load_given_prompts`.
        labels: classes; without them names of classes are not checked.
        outside: "error": points outside the image are an error. "drop": they are left out, counted and logged; a curve
            is interrupted where it loses a point, and boxes are left out if they share nothing with the image. If the
            image holds less than half of the points but nearly all with x and y flipped, it is an error all the same.
        log_dropped: False where the file is read again and the log has what was left out.
        mapping: whose slices curves visit and boxes are cut into; None: whether they can is not checked.
        curve_step_mm: as in `load_given_prompts`.
    """
    if outside not in ("error", "drop"):
        raise ValueError(f'outside is {outside!r}; it must be "error" or "drop"')
    markups = read_prompt_file(file, frame, geometry, labels, case)
    for markup in markups:
        _check_name(markup.name, labels, case, file)
    if any(len(markup.points_lps_mm) for markup in markups):
        _check_pile_up(markups, labels, case, file)
        markups = _checked_inside(markups, geometry, case, file, outside, log_dropped)
        if mapping is not None:
            _check_in_slices(markups, geometry, mapping, curve_step_mm, case, file)
    return markups


def _check_name(name: str, labels: Labels | None, case: str, file: Path) -> None:
    """Refuse names that speak for the background, or for a class but for capital letters."""
    if labels is not None and name in labels.names:
        return
    words = _words(name)
    classes = [_words(n) for n in labels.names] if labels is not None else []
    others = words.difference(_WORDS_OF_LISTS, *(c for c in classes if c <= words))
    if others and others <= _NEGATIVE_WORDS:
        raise PromptFileError(
            f'case {case}: {file} has points named "{shown_text(name)}"; spdnet takes points on the target only, none '
            'on the "background". Remove them, or rename them if they are meant for a class'
        )
    if labels is None or len(labels) == 1:
        return
    alike = [label for label in labels.names if label.casefold() == name.casefold()]
    if alike:
        raise PromptFileError(
            f'case {case}: {file} has a markup named "{shown_text(name)}", which is the class "{alike[0]}" but for '
            f'capital letters. Rename it to "{alike[0]}" if it means that class, to something else if it means all'
        )


def _words(name: str) -> set[str]:
    """The words of a name, without numbers, in lower case."""
    return set(re.findall(r"[^\W\d_]+", name.casefold()))


def resample_curve(
    points_syx: np.ndarray, points_mm: np.ndarray, closed: bool = False, step_mm: float | None = None
) -> np.ndarray:
    """Points along a polyline such that every slice it passes through has at least one.

    A visit is a stretch of the line within one slice. It gets one point, where it crosses the slice's centre plane or
    comes nearest to it (if it does so more than once, where that is nearest to halfway along). With `step_mm` a longer
    visit gets as many evenly spaced points as keep them no further apart than that.

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
        starts, ends, slices = starts[1:], np.append(ends[1:-1], length[-1] + ends[0]), slices[1:]
    counts = np.ones(len(starts), dtype=np.int64)
    if step_mm is not None:
        counts = np.maximum(1, np.ceil((ends - starts) / step_mm)).astype(np.int64)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    fraction = (np.arange(counts.sum()) - first + 0.5) / np.repeat(counts, counts)
    position = np.repeat(starts, counts) + fraction * np.repeat(ends - starts, counts)
    single = counts == 1
    position[first[single.repeat(counts)]] = _nearest_to_centre(
        starts[single], ends[single], slices[single], points_syx[:, 0], length
    )
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


def _nearest_to_centre(
    starts: np.ndarray, ends: np.ndarray, slices: np.ndarray, slice_coordinate: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """Where, along `length`, each visit is nearest to the centre plane of its slice; a closed line goes round again."""
    around = np.concatenate([length, length[1:] + length[-1]])
    coordinate = np.concatenate([slice_coordinate, slice_coordinate[1:]])
    found = np.empty(len(starts))
    for i, (start, end, index) in enumerate(zip(starts, ends, slices, strict=True)):
        halfway = (start + end) / 2
        places = np.unique(np.concatenate([[start, halfway, end], around[(around > start) & (around < end)]]))
        offset = np.interp(places, around, coordinate) - index
        crosses = np.flatnonzero(offset[:-1] * offset[1:] < 0)
        share = offset[crosses] / (offset[crosses] - offset[crosses + 1])
        places = np.concatenate([places, places[crosses] + share * np.diff(places)[crosses]])
        distance = np.concatenate([np.abs(offset), np.zeros(len(crosses))])
        nearest = places[distance < distance.min() + _CENTRE_TOLERANCE]
        found[i] = nearest[np.argmin(np.abs(nearest - halfway))]
    return found


def _markup_to_slices(
    markup: Markup, geometry: ImageGeometry, mapping: CaseMapping, labels: Labels, curve_step_mm: float | None
) -> SlicePrompts:
    points = mapping.points_to_network(geometry.world_to_voxel(markup.points_lps_mm))
    class_index = labels.names.index(markup.name) if markup.name in labels.names else ALL_CLASSES
    if markup.kind == "box":
        boxes = cut_into_slices(points, mapping, class_index) if len(points) else SliceBoxes.empty()
        return replace(SlicePrompts.empty(), boxes=boxes)
    if markup.kind != "points" and len(points):
        points = resample_curve(points, markup.points_lps_mm, markup.kind == "closed_curve", curve_step_mm)
    return SlicePrompts(points, np.full(len(points), class_index, dtype=np.int64))


def _check_in_slices(
    markups: Sequence[Markup],
    geometry: ImageGeometry,
    mapping: CaseMapping,
    curve_step_mm: float | None,
    case: str,
    file: Path,
) -> None:
    """Refuse boxes without extent in the slices, and curves that would become more points than a file may hold."""
    n = 0.0
    for markup in markups:
        if markup.kind == "box" and len(markup.points_lps_mm):
            corners = mapping.points_to_network(geometry.world_to_voxel(markup.points_lps_mm))
            check_extent(corners, f"case {case}: box '{shown_text(markup.point_labels[0])}' of {file}")
        if markup.kind in ("curve", "closed_curve") and len(markup.points_lps_mm) > 1:
            slices = nearest_index(mapping.points_to_network(geometry.world_to_voxel(markup.points_lps_mm))[:, 0])
            n += float(np.abs(np.diff(slices)).sum())
            if curve_step_mm is not None:
                n += float(np.linalg.norm(np.diff(markup.points_lps_mm, axis=0), axis=1).sum()) / curve_step_mm
    if n > MAX_POINTS:
        raise PromptFileError(
            f"case {case}: the curves of {file} cross slices {n:.0f} times; more than {MAX_POINTS} points are refused. "
            "Are their points in order? Resample the curves"
        )


def _check_pile_up(markups: Sequence[Markup], labels: Labels | None, case: str, file: Path) -> None:
    """Refuse points all on one spot; one click may speak for several classes, with a point for each."""
    points = np.concatenate([np.zeros((0, 3)), *(m.points_lps_mm for m in markups if m.kind != "box")])
    per_class: Counter[str | None] = Counter()
    for markup in markups:
        if markup.kind != "box":
            name = markup.name if labels is None or markup.name in labels.names else None
            per_class[name] += len(markup.points_lps_mm)
    if max(per_class.values(), default=0) > 1 and np.all(points == points[0]):
        raise PromptFileError(
            f"case {case}: all {len(points)} points of {file} lie at {_in_words(points[0])} LPS mm, one on the other; "
            "were they imported with the wrong column names? Export them again"
        )
    for markup in markups:
        if len(markup.points_lps_mm) > 1 and not markup.points_lps_mm.any():
            raise PromptFileError(
                f'case {case}: all {len(markup.points_lps_mm)} points of markup "{shown_text(markup.name)}" in {file} '
                "lie at the origin; were they imported with the wrong column names? Export them again"
            )


@dataclass(frozen=True)
class _Places:
    """Points and boxes of all markups, as far as the image is concerned: N of them.

    Attributes:
        names: of each, for messages.
        voxels_zyx: float64 (N, 3), of a box the centre.
        is_inside: bool (N,), of a box whether it shares anything with the image.
        is_inside_flipped: the same with x and y flipped.
    """

    names: list[str]
    voxels_zyx: np.ndarray
    is_inside: np.ndarray
    is_inside_flipped: np.ndarray


def _checked_inside(
    markups: Sequence[Markup], geometry: ImageGeometry, case: str, file: Path, outside: Outside, log_dropped: bool
) -> list[Markup]:
    """The markups, without what lies outside the image where that is no error."""
    per_markup = [_places(markup, geometry) for markup in markups]
    is_inside = np.concatenate([p.is_inside for p in per_markup])
    if is_inside.all():
        return list(markups)
    flipped = np.concatenate([p.is_inside_flipped for p in per_markup])
    in_voxels = any(markup.in_voxels for markup in markups)  # which have no frame to be mistaken for another
    looks_flipped = not in_voxels and flipped.mean() >= _NEARLY_ALL and flipped.sum() > is_inside.sum()
    found = _outside_message(per_markup, is_inside, geometry, case, file)
    if outside == "error" or (looks_flipped and is_inside.mean() < 0.5):
        remedy = _voxel_remedy(geometry) if in_voxels else _remedy_for_outside(flipped if looks_flipped else None)
        raise PromptFileError(f"{found}. {remedy}")
    if log_dropped:
        logger.warning("%s. Dropped", found)
    return [part for markup, p in zip(markups, per_markup, strict=True) for part in _parts_inside(markup, p.is_inside)]


def _places(markup: Markup, geometry: ImageGeometry) -> _Places:
    in_markup = f' of markup "{shown_text(markup.name)}"' if markup.name else ""
    voxels = geometry.world_to_voxel(markup.points_lps_mm)
    flipped = geometry.world_to_voxel(markup.points_lps_mm * _LPS_TO_RAS)
    if markup.kind != "box":
        names = [f"point '{shown_text(label)}'{in_markup}" for label in markup.point_labels]
        return _Places(names, voxels, geometry.contains(voxels), geometry.contains(flipped))
    if not len(voxels):
        nothing = np.zeros(0, dtype=bool)
        return _Places([], voxels, nothing, nothing)
    inside = [np.array([overlaps_image(corners, geometry.shape_zyx)]) for corners in (voxels, flipped)]
    name = f"the centre of box '{shown_text(markup.point_labels[0])}'"
    return _Places([name], voxels.mean(axis=0, keepdims=True), *inside)


def _outside_message(
    per_markup: Sequence[_Places], is_inside: np.ndarray, geometry: ImageGeometry, case: str, file: Path
) -> str:
    """What lies outside, with the first few by name."""
    names = [name for p in per_markup for name in p.names]
    voxels = np.concatenate([p.voxels_zyx for p in per_markup])
    out = np.flatnonzero(~is_inside)
    first = "; ".join(f"{names[i]} lies at {_at(voxels[i])}" for i in out[:_MAX_NAMED])
    return (
        f"case {case}: {first}{' ...' if len(out) > _MAX_NAMED else ''}, outside the image {geometry.shape_zyx} "
        f"({len(out)} of {len(names)} points of {file})"
    )


def _remedy_for_outside(flipped: np.ndarray | None) -> str:
    """What to do about points outside; `flipped` if this looks like the wrong frame."""
    if flipped is None:
        return 'Do the points belong to this image? Remove or move those outside, or give the option "--outside drop"'
    which = "all" if flipped.all() else f"{flipped.sum()} of {len(flipped)} points"
    return (
        f"Flipping x and y would put {which} inside: are the numbers RAS where the file says LPS, or the reverse? "
        "Set its coordinateSystem, or the names of its columns"
    )


def _voxel_remedy(geometry: ImageGeometry) -> str:
    k, j, i = (n - 1 for n in geometry.shape_zyx)
    return (
        f"Voxel indices run from 0 to {i} along i, to {j} along j and to {k} along k: are they counted from 1, or are "
        'they of another image? Correct or remove those outside, or give the option "--outside drop"'
    )


def _parts_inside(markup: Markup, is_inside: np.ndarray) -> list[Markup]:
    """What is left of a markup: its points inside, or for a curve each stretch between points that are dropped."""
    if is_inside.all():
        return [markup]
    if markup.kind == "box" or not is_inside.any():
        return []
    inside = np.flatnonzero(is_inside)
    if markup.kind == "points":
        return [_selected(markup, inside, "points")]
    if markup.kind == "closed_curve":  # open it at a point that goes
        start = int(np.flatnonzero(~is_inside)[0])
        order = np.roll(np.arange(len(is_inside)), -start)
        inside = order[is_inside[order]]
        breaks = np.flatnonzero(np.diff(np.flatnonzero(is_inside[order])) > 1) + 1
    else:
        breaks = np.flatnonzero(np.diff(inside) > 1) + 1
    return [_selected(markup, stretch, "curve") for stretch in np.split(inside, breaks)]


def _selected(markup: Markup, chosen: np.ndarray, kind: str) -> Markup:
    point_labels = tuple(markup.point_labels[i] for i in chosen)
    return replace(markup, kind=kind, points_lps_mm=markup.points_lps_mm[chosen], point_labels=point_labels)


def _at(voxel_zyx: np.ndarray) -> str:
    z, y, x = voxel_zyx
    return f"voxel (z {z:.1f}, y {y:.1f}, x {x:.1f})"


def _in_words(point: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.5g}" for v in point) + ")"
