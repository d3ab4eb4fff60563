"""Drifting centrelines drawn from masks: one point per slice, on a smooth curve that only partly follows the target.

The curve starts from the target's axis: in each slice the middle of one connected piece of the mask, followed from
slice to slice, so that any shape has one and a tube's is its centreline. It wanders off this axis, leaves the target in
some slices, and runs on into the background at both ends, as a line drawn for another purpose does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import ndimage

from spdnet.errors import ConfigurationError
from spdnet.geometry import nearest_index
from spdnet.prompts.points import SlicePrompts
from spdnet.prompts.simulate import HALF_PIXEL, check_length, check_share, number_of, problem_masks

_DIRECTIONS = 16
_MAX_DETOURS = 3
_PULL_STEPS = 16
_SHORT_OF_RIM = 0.75  # how far towards the rim a curve goes that wants to leave a covered slice
_LEANING_SHARE = 1 / 3  # of the covered slices on a side of a detour, at most this share bends towards it
_MAX_SLOPE = 1.0  # in-plane mm per mm along the slices, where the curve runs on beyond the target


@dataclass(frozen=True)
class Centreline:
    """How a drifting centreline is drawn.

    Attributes:
        uncovered: share of the target's slices in which the curve runs outside the target, on one to three detours by
            the shortest way out. In all other slices of the target it stays inside, whatever its drift.
        overrun_mm: how far, along the slices, the curve runs on beyond either end of the target, in the direction that
            it had there. It ends where it would leave the image.
        drift_mm: root mean square distance of the curve from the axis, mm, before it is kept inside covered slices.
        drift_length_mm: distance along the slices over which the drift's correlation falls to 1/e, mm.
        smoothing_mm: standard deviation of the Gaussian that smooths the axis along the slices, mm.
        named: a curve for each class; False: one anonymous curve for all classes together.

    Raises:
        ConfigurationError: a share beyond 0 to 1 or a negative length.
    """

    draws_curves: ClassVar[bool] = True

    uncovered: float = 0.2
    overrun_mm: float = 20.0
    drift_mm: float = 3.0
    drift_length_mm: float = 30.0
    smoothing_mm: float = 5.0
    named: bool = True

    def __post_init__(self) -> None:
        check_share("uncovered", self.uncovered)
        for name in ("overrun_mm", "drift_mm", "drift_length_mm", "smoothing_mm"):
            check_length(name, getattr(self, name))

    def draw(
        self,
        masks: np.ndarray,
        content_box: Sequence[tuple[int, int]],
        mm_per_pixel: tuple[float, float, float],
        rng: np.random.Generator,
    ) -> SlicePrompts:
        """Draw the curves of one case.

        Args:
            masks: bool or uint8 (slices, classes, rows, columns).
            content_box: half-open rows and columns that hold image; the curve stays in it.
            mm_per_pixel: distance of rows, of columns and of slices, mm.
            rng: source of all draws.

        Returns:
            One point per slice from one end of the curve to the other, sorted by class and slice, each at the centre
            plane of its slice. A slice that the target fills cannot be left uncovered.
        """
        if min(mm_per_pixel) <= 0:
            raise ConfigurationError(f"pixels of {mm_per_pixel} mm; lengths in mm need positive spacing")
        problems = problem_masks(masks, self.named)
        parts = []
        for k in range(problems.shape[1]):
            if problems[:, k].any():
                points = self._draw_curve(problems[:, k], np.asarray(content_box), np.asarray(mm_per_pixel), rng)
                parts.append(SlicePrompts(points, np.full(len(points), k, dtype=np.int64)))
        prompts = SlicePrompts.concatenate(parts)
        return prompts if self.named else prompts.for_all_classes()

    def _draw_curve(
        self, masks: np.ndarray, content_box: np.ndarray, mm_per_pixel: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Points (n, 3) for one class; `masks` is bool (slices, rows, columns) and not empty."""
        in_plane_mm, slice_mm = mm_per_pixel[:2], float(mm_per_pixel[2])
        target, middles = trace_axis(masks, in_plane_mm)
        slices, axis = self._smooth_and_extend(target, middles, len(masks), mm_per_pixel)
        drift = smooth_walk(len(slices), self.drift_length_mm / 2 / slice_mm, rng) * self.drift_mm / np.sqrt(2)
        wanted = axis + drift / in_plane_mm
        at_target = np.searchsorted(slices, target)
        stays = _connected_stay(wanted, content_box, at_target)
        detours = draw_runs(number_of(self.uncovered, len(target), rng), len(target), _MAX_DETOURS, rng)
        image = np.zeros(masks.shape[1:], dtype=bool)
        image[slice(*content_box[0]), slice(*content_box[1])] = True
        is_out = np.zeros(len(slices), dtype=bool)
        out = wanted.copy()
        gaps = np.diff([0, *np.ravel(detours), len(target)])[::2]  # covered slices before, between and after detours
        reach = self.drift_length_mm / 4 / slice_mm
        for n, (start, end) in enumerate(detours):
            run = at_target[start:end]
            found, places = _detour(wanted[run], masks[target[start:end]], image, in_plane_mm, self.drift_mm, rng)
            is_out[run[found]], out[run[found]] = True, places[found]
            reaches = [min(reach, _LEANING_SHARE * gap) for gap in gaps[n : n + 2]]
            _lean(wanted, run[0], run[-1], out, *reaches)
        for i, middle in zip(at_target, middles, strict=True):
            wanted[i] = out[i] if is_out[i] else _pulled_inside(masks[slices[i]], middle, wanted[i])
        low, high = content_box[:, 0], content_box[:, 1] - 1
        pixels = np.clip(nearest_index(wanted), low, high)
        places = pixels + np.clip(wanted - pixels, -HALF_PIXEL, HALF_PIXEL)
        return np.column_stack([slices, places])[stays]

    def _smooth_and_extend(
        self, target: np.ndarray, middles: np.ndarray, n_slices: int, mm_per_pixel: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Slices (n,) from end to end of the curve, and its axis there (n, 2), before any drift."""
        slice_mm = float(mm_per_pixel[2])
        between = np.arange(target[0], target[-1] + 1)
        axis = np.stack([np.interp(between, target, column) for column in middles.T], axis=1)
        axis = ndimage.gaussian_filter1d(axis, self.smoothing_mm / slice_mm, axis=0, mode="nearest")
        overrun = int(np.floor(self.overrun_mm / slice_mm + 0.5))
        before, after = min(overrun, int(target[0])), min(overrun, n_slices - 1 - int(target[-1]))
        reach = min(len(axis) - 1, max(1, round(2 * self.smoothing_mm / slice_mm)))
        head = _slope(axis[reach], axis[0], reach, mm_per_pixel) * np.arange(before, 0, -1)[:, None] + axis[0]
        tail = _slope(axis[-1 - reach], axis[-1], reach, mm_per_pixel) * np.arange(1, after + 1)[:, None] + axis[-1]
        slices = np.arange(target[0] - before, target[-1] + after + 1)
        return slices, np.concatenate([head, axis, tail])


def trace_axis(masks: np.ndarray, in_plane_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The axis of a target: the middle of one connected piece of the mask in each slice that has target.

    It starts from the slice with the largest mask and follows the piece that overlaps most with the last one, or else
    is nearest to it. A middle is the pixel nearest to the piece's centre of mass among those at least half as deep in
    it as its deepest, so it lies inside, whatever the shape.

    Args:
        masks: bool (slices, rows, columns), not empty.
        in_plane_mm: distance of rows and of columns, mm.

    Returns:
        int64 (n,) slices with target, ascending, and float64 (n, 2) middles, y and x.
    """
    rows, columns = (np.flatnonzero(masks.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    corner = np.array([rows[0], columns[0]])
    cropped = masks[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    areas = cropped.sum(axis=(1, 2))
    target = np.flatnonzero(areas)
    start = int(areas[target].argmax())
    pieces = {start: _next_piece(cropped[target[start]], None)}
    for i in range(start + 1, len(target)):
        pieces[i] = _next_piece(cropped[target[i]], pieces[i - 1])
    for i in range(start - 1, -1, -1):
        pieces[i] = _next_piece(cropped[target[i]], pieces[i + 1])
    middles = np.stack([_middle(pieces[i], in_plane_mm) for i in range(len(target))])
    return target, middles + corner


def smooth_walk(length: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Two independent smooth random functions, of mean 0 and variance 1 at every sample: float64 (length, 2).

    White noise under a Gaussian of standard deviation `sigma` samples: their correlation over k samples is
    exp(-k^2 / (4 sigma^2)).
    """
    reach = int(np.ceil(4 * sigma))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offsets**2) / (2 * max(sigma, 1e-6) ** 2))
    kernel /= np.sqrt(np.sum(kernel**2))
    noise = rng.standard_normal((2, length + 2 * reach))
    return np.stack([np.convolve(row, kernel, mode="valid") for row in noise], axis=1)


def draw_runs(count: int, total: int, max_runs: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Choose `count` of `total` places in a row as one to `max_runs` runs with a gap of one or more between them.

    Returns:
        Half-open ranges, ascending.
    """
    if count == 0:
        return []
    rest = total - count
    n_runs = int(rng.integers(1, min(max_runs, count, rest + 1) + 1))
    cuts = np.sort(rng.choice(np.arange(1, count), n_runs - 1, replace=False)) if n_runs > 1 else np.zeros(0, int)
    lengths = np.diff([0, *cuts, count])
    gaps_before = np.sort(rng.choice(rest + 1, n_runs, replace=False))
    starts = gaps_before + np.concatenate([[0], np.cumsum(lengths[:-1])])
    return [(int(s), int(s + n)) for s, n in zip(starts, lengths, strict=True)]


def _next_piece(mask: np.ndarray, last: np.ndarray | None) -> np.ndarray:
    """The connected piece of a slice's mask that continues the last slice's piece; the largest if there is none."""
    labels, n_pieces = ndimage.label(mask, structure=np.ones((3, 3)))
    if n_pieces == 1:
        return mask
    if last is None:
        return labels == np.bincount(labels.ravel())[1:].argmax() + 1
    overlap = np.bincount(labels[last], minlength=n_pieces + 1)[1:]
    if overlap.any():
        return labels == overlap.argmax() + 1
    centres = np.array(ndimage.center_of_mass(mask, labels, np.arange(1, n_pieces + 1)))
    last_centre = np.argwhere(last).mean(axis=0)
    return labels == np.linalg.norm(centres - last_centre, axis=1).argmin() + 1


def _middle(piece: np.ndarray, in_plane_mm: np.ndarray) -> np.ndarray:
    depth = ndimage.distance_transform_edt(np.pad(piece, 1), sampling=in_plane_mm)[1:-1, 1:-1]
    deep = np.argwhere(depth >= depth.max() / 2)
    centre = np.argwhere(piece).mean(axis=0)
    return deep[np.linalg.norm((deep - centre) * in_plane_mm, axis=1).argmin()].astype(np.float64)


def _slope(inner: np.ndarray, end: np.ndarray, reach: int, mm_per_pixel: np.ndarray) -> np.ndarray:
    """In-plane pixels per slice (2,) with which an axis arrives at its end, limited to `_MAX_SLOPE`."""
    if reach == 0:
        return np.zeros(2)
    slope = (end - inner) / reach
    steepness = float(np.linalg.norm(slope * mm_per_pixel[:2]) / mm_per_pixel[2])
    return slope * min(1.0, _MAX_SLOPE / steepness) if steepness else slope


def _connected_stay(places: np.ndarray, content_box: np.ndarray, at_target: np.ndarray) -> np.ndarray:
    """Which places (n, 2) belong to the curve: bool (n,). Beyond the target it ends where it leaves the image."""
    is_in = np.all((places >= content_box[:, 0] - 0.5) & (places < content_box[:, 1] - 0.5), axis=1)
    first, last = at_target[0], at_target[-1]
    is_in[first : last + 1] = True
    is_in[last:] = np.logical_and.accumulate(is_in[last:])
    is_in[: first + 1] = np.logical_and.accumulate(is_in[first::-1])[::-1]
    return is_in


def _detour(
    wanted: np.ndarray,
    masks: np.ndarray,
    image: np.ndarray,
    in_plane_mm: np.ndarray,
    swing_mm: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Places outside the target in each slice of a run, all in one direction if the image has room for it.

    Args:
        wanted: where the curve would be, float64 (n, 2).
        masks: of the slices, bool (n, rows, columns).
        image: which pixels are image, bool (rows, columns).
        in_plane_mm: distance of rows and of columns, mm.
        swing_mm: how far beyond the target's edge the middle of the detour lies, if there is room, mm.
        rng: decides the direction among those that are equally short.

    Returns:
        bool (n,), where there is a way out of the target, and places float64 (n, 2).
    """
    step_mm = in_plane_mm.min() / 2
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    directions = np.stack([np.sin(angles), np.cos(angles)], axis=1) / in_plane_mm
    reach_mm = np.arange(0, np.linalg.norm(np.array(image.shape) * in_plane_mm) + step_mm, step_mm)
    exits_mm = np.full((len(wanted), _DIRECTIONS), np.inf)
    for i, (place, mask) in enumerate(zip(wanted, masks, strict=True)):
        for d, direction in enumerate(directions):
            is_out = _is_outside(place + reach_mm[:, None] * direction, mask, image)
            if is_out.any():
                exits_mm[i, d] = reach_mm[is_out.argmax()]
    shared = exits_mm.max(axis=0).argmin()
    best = np.where(np.isfinite(exits_mm[:, shared]), shared, exits_mm.argmin(axis=1))
    exit_mm = exits_mm[np.arange(len(wanted)), best]
    found = np.isfinite(exit_mm)
    swing = max(swing_mm, step_mm) * np.sin(np.pi * (np.arange(len(wanted)) + 0.5) / len(wanted))
    places = wanted.copy()
    for i in np.flatnonzero(found).tolist():
        candidates = wanted[i] + np.array([[exit_mm[i] + swing[i]], [exit_mm[i]]]) * directions[best[i]]
        places[i] = candidates[_is_outside(candidates, masks[i], image).argmax()]
    return found, places


def _is_outside(places: np.ndarray, mask: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Which places (n, 2) lie in the image and not on the target: bool (n,)."""
    pixels = nearest_index(places)
    is_in = np.all((pixels >= 0) & (pixels < mask.shape), axis=1)
    rows, columns = np.where(is_in[:, None], pixels, 0).T
    return is_in & image[rows, columns] & ~mask[rows, columns]


def _lean(wanted: np.ndarray, first: int, last: int, out: np.ndarray, reach_before: float, reach_after: float) -> None:
    """Bend the curve towards a detour from `first` to `last` over the slices before and after it, in place."""
    for at, direction, reach in ((first, -1, reach_before), (last, 1, reach_after)):
        pull, n_slices = out[at] - wanted[at], int(np.ceil(reach))
        for j in range(1, n_slices + 1):
            if 0 <= at + direction * j < len(wanted):
                wanted[at + direction * j] += (1 - j / (n_slices + 1)) * pull


def _pulled_inside(mask: np.ndarray, middle: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """A place inside the mask on the way to `wanted` from `middle`, which is inside.

    That is `wanted` itself if it is inside; else short of the mask's rim, where that is inside too: a point on the rim
    would be inside or outside by how the mask is resampled.
    """
    shares = np.linspace(1, 0, _PULL_STEPS + 1)
    inside = _is_on(mask, middle + shares[:, None] * (wanted - middle))
    furthest = shares[inside.argmax()]
    if furthest == 1:
        return wanted
    candidates = middle + np.array([[_SHORT_OF_RIM * furthest], [furthest]]) * (wanted - middle)
    return candidates[_is_on(mask, candidates).argmax()]


def _is_on(mask: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Which places (n, 2) lie on the mask: bool (n,)."""
    pixels = nearest_index(places)
    is_in = np.all((pixels >= 0) & (pixels < mask.shape), axis=1)
    rows, columns = np.where(is_in[:, None], pixels, 0).T
    return is_in & mask[rows, columns]
