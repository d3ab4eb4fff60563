"""What speaks for and against a point, in numbers: what the learned trust weighs. Our extension of CPD.

A point may prompt its own slice and those beside it. For each of these slices is told how salient the place is, how
many other points lie near it in the slices around, beside how many chance would put there, and what other points the
slice itself has. Neither file, model nor label is needed, so that training and prediction describe points alike.

Pure functions on arrays, in the pixel frame of the saliency maps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logit

from spdnet.prompts.background import WHOLE_MAPS, Background
from spdnet.prompts.distillation import PointUses

REACH = 8  # slices to either side that are looked at
_WINDOWS = (2, 4, 8)  # slices to either side in which points are counted
_WIDTHS = (1 / 16, 1 / 8)  # standard deviations of what is near, as shares of the maps' side
_SURROUNDINGS = 1 / 32  # the same of a place's surroundings
_CELLS = 64  # about as many to a side: what is near is coarse, so the maps need not be fine
_SMOOTH = 0.2  # points, added to counts before their logarithm
_LEAST_SALIENCY = 1e-3
_ONE_SIDE = 4  # slices, before a place and after it


def describe_uses(uses: PointUses, saliency: np.ndarray, background: Background = WHOLE_MAPS) -> np.ndarray:
    """Features float32 (Q, F) of uses; every point within the maps has to be among them in its own slice.

    They depend on the slices within `REACH` of the one that is prompted, and of the point's own.

    Args:
        uses: of the points of one volume and class.
        saliency: float (S, M, M) in [0, 1].
        background: where points of chance can lie.
    """
    if not len(uses.slice_index):
        return np.zeros((0, N_FEATURES), dtype=np.float32)
    local = np.flatnonzero(uses.offset == 0)
    n_slices, side, _ = saliency.shape
    s, (y, x) = uses.slice_index, uses.pixel.T
    here = saliency[s, y, x].astype(np.float64)
    n_points = int(uses.point_index.max()) + 1
    weight_of_point = uses.at_home(here, n_points)
    weight = weight_of_point[uses.point_index]

    factor = max(1, round(side / _CELLS))
    maps = _shrink(saliency, factor)
    cells = maps.shape[-1]
    place = s, y // factor, x // factor
    points = np.zeros_like(maps)
    np.add.at(points, tuple(axis[local] for axis in place), weight[local].astype(np.float32))
    density = _density_of_chance(uses.select(local), saliency, background) * factor**2

    around = _near(maps, _SURROUNDINGS * cells)
    columns = [
        _logit(here),
        _logit(around[place] / _kernel(cells, _SURROUNDINGS * cells).sum(axis=0).max() ** 2),
        _logit(saliency.max(axis=(1, 2))[s]),
    ]
    own, lent = np.where(uses.offset == 0, weight, 0.0), np.where(uses.offset == 0, 0.0, weight)
    one_side = np.where(np.abs(uses.offset) <= _ONE_SIDE, lent, 0.0)
    before, after = np.where(uses.offset > 0, one_side, 0.0), np.where(uses.offset < 0, one_side, 0.0)
    neighbours = _Neighbours(place, maps.shape)
    for width in _WIDTHS:
        points_near, area_near = (neighbours.sums(_near(m, width * cells)) for m in (points, maps))
        for window in _WINDOWS:
            found = points_near.around(window) - np.where(np.abs(uses.offset) <= window, lent, 0.0)
            surplus = np.log(
                (found + _SMOOTH).clip(min=_SMOOTH / 2) / (density[s] * area_near.around(window) + _SMOOTH)
            )
            columns += [surplus, found / _n_others(s, window, n_slices).clip(min=1)]
        columns.append(points_near.here - own)
    sides = points_near.before[:, _ONE_SIDE - 1] - before, points_near.after[:, _ONE_SIDE - 1] - after
    columns += [np.minimum(*sides), np.maximum(*sides)]

    count = np.bincount(s[local], minlength=n_slices)
    total = np.bincount(s[local], weights=weight[local], minlength=n_slices)
    columns += [np.log1p(count[s]), total[s] - own]
    surplus_of_point = uses.at_home(surplus, n_points)
    columns += [
        _best_other(uses, local, weight_of_point, 0.0),
        _best_other(uses, local, surplus_of_point, float(np.log(_SMOOTH))),
        np.abs(uses.offset).astype(np.float64),
        _logit(weight),
        surplus_of_point[uses.point_index],
    ]
    return np.stack(columns, axis=1).astype(np.float32)


N_FEATURES = 3 + len(_WIDTHS) * (2 * len(_WINDOWS) + 1) + 2 + 2 + 5


def _logit(probability: np.ndarray) -> np.ndarray:
    return logit(np.clip(probability, _LEAST_SALIENCY, 1 - _LEAST_SALIENCY))


def _shrink(maps: np.ndarray, factor: int) -> np.ndarray:
    """Means float32 (S, m, m) over blocks of `factor` pixels a side; what is beyond the edge is 0."""
    maps = maps.astype(np.float32, copy=False)
    if factor == 1:
        return maps
    n, side, _ = maps.shape
    if missing := -side % factor:
        maps = np.pad(maps, ((0, 0), (0, missing), (0, missing)))
    cells = (side + missing) // factor
    of_rows = maps.reshape(n, -1, cells, factor).sum(axis=3)
    return of_rows.reshape(n, cells, factor, cells).sum(axis=2) / np.float32(factor**2)


def _kernel(cells: int, width: float) -> np.ndarray:
    """Gaussian float32 (cells, cells), 1 where the distance is 0."""
    apart = np.arange(cells)
    return np.exp(-((apart[:, None] - apart) ** 2) / (2 * width**2)).astype(np.float32)


def _near(maps: np.ndarray, width: float) -> np.ndarray:
    """Of every cell of maps (S, m, m) how much lies near it, weighted by a Gaussian."""
    kernel = _kernel(maps.shape[-1], width)
    return kernel @ maps @ kernel


def _density_of_chance(points: PointUses, saliency: np.ndarray, background: Background) -> np.ndarray:
    """Points that are not salient per pixel of the image that is not, float64 (S,), in the slices within `REACH`.

    Args:
        points: each in its own slice.
        saliency: float (S, M, M).
        background: of the points.
    """
    n_slices, side, _ = saliency.shape
    density = np.zeros(n_slices)
    for chosen, maps in background.parts(saliency, int(points.point_index.max(initial=-1)) + 1):
        own = points.select(chosen[points.point_index])
        missed = np.bincount(own.slice_index, weights=1 - own.saliency(maps).astype(np.float64), minlength=n_slices)
        free = np.maximum(background.content_share * side**2 - maps.sum(axis=(1, 2), dtype=np.float64), 0)
        density += _within_reach(missed) / _within_reach(free).clip(min=1)
    return density


def _within_reach(values: np.ndarray) -> np.ndarray:
    return np.convolve(values, np.ones(2 * REACH + 1))[REACH : REACH + len(values)]


def _n_others(slices: np.ndarray, window: int, n_slices: int) -> np.ndarray:
    """How many other slices lie within a window: int64 (Q,)."""
    return (slices + window).clip(max=n_slices - 1) - (slices - window).clip(min=0)


class _Sums(NamedTuple):
    """What a map holds at places, float32 (Q,), and up to so many slices before and after them, (Q, REACH)."""

    here: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def around(self, window: int) -> np.ndarray:
        """In the other slices at most `window` away."""
        return self.before[:, window - 1] + self.after[:, window - 1]


class _Neighbours:
    """Looks places (slices, rows and columns, (Q,) each) of maps (S, m, m) up in all slices within `REACH`."""

    def __init__(self, place: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> None:
        slices, rows, columns = place
        _, height, width = shape
        of_slice = height * width
        steps = np.arange(2 * REACH + 1) * of_slice
        self._index = (slices * of_slice + rows * width + columns)[:, None] + steps

    def sums(self, maps: np.ndarray) -> _Sums:
        """What is beyond the first and the last slice counts as 0."""
        padded = np.zeros((len(maps) + 2 * REACH, *maps.shape[1:]), dtype=maps.dtype)
        padded[REACH:-REACH] = maps
        near = padded.ravel()[self._index]
        return _Sums(near[:, REACH], near[:, REACH - 1 :: -1].cumsum(axis=1), near[:, REACH + 1 :].cumsum(axis=1))


def _best_other(uses: PointUses, local: np.ndarray, value_of_point: np.ndarray, if_none: float) -> np.ndarray:
    """Highest value float64 (Q,) of the slice's own points other than the used one."""
    own = uses.slice_index[local], value_of_point[uses.point_index[local]]
    order = np.lexsort((-own[1], own[0]))
    slices, first = np.unique(own[0][order], return_index=True)
    n_slices = int(uses.slice_index.max()) + 1
    best, second = np.full(n_slices, if_none), np.full(n_slices, if_none)
    best_point = np.full(n_slices, -1)
    best[slices] = own[1][order][first]
    best_point[slices] = uses.point_index[local][order][first]
    has_second = np.diff(np.append(first, len(order))) > 1
    second[slices[has_second]] = own[1][order][first[has_second] + 1]
    s = uses.slice_index
    return np.where(best_point[s] == uses.point_index, second[s], best[s])
