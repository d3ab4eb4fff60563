"""What speaks for and against a point, in numbers: what the learned trust weighs. Our extension of CPD.

A point may prompt its own slice and those beside it. For each of these slices is told how salient the place is, how
many other points lie near it in the slices around, beside how many chance would put there, and what other points the
slice itself has. Neither file, model nor label is needed, so that training and prediction describe points alike.

Pure functions on arrays, in the pixel frame of the saliency maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from spdnet.geometry import nearest_index

REACH = 8  # slices to either side that are looked at
_WINDOWS = (2, 4, 8)  # slices to either side in which points are counted
_WIDTHS = (1 / 16, 1 / 8)  # standard deviations of what is near, as shares of the maps' side
_SURROUNDINGS = 1 / 32  # the same of a place's surroundings
_CELLS = 64  # about as many to a side: what is near is coarse, so the maps need not be fine
_SMOOTH = 0.2  # points, added to counts before their logarithm
_LEAST_SALIENCY = 1e-3
_OFFSETS = np.arange(-REACH, REACH + 1)


@dataclass(frozen=True)
class PointUses:
    """Which point might prompt which slice, one entry each, sorted by slice, its own points first, then the nearest.

    Attributes:
        slice_index: int64 (Q,), slice that would be prompted.
        point_index: int64 (Q,), row of the point among those given.
        source_slice: int64 (Q,), the point's own slice.
        pixel: int64 (Q, 2), row and column of the pixel that it lies in.
    """

    slice_index: np.ndarray
    point_index: np.ndarray
    source_slice: np.ndarray
    pixel: np.ndarray

    @property
    def offset(self) -> np.ndarray:
        """int64 (Q,): from the point's own slice to the one that it would prompt."""
        return self.slice_index - self.source_slice


def point_uses(points_syx: np.ndarray, shape: tuple[int, ...], n_context: int) -> PointUses:
    """All uses of the points that lie within maps (S, H, W), in slices at most `n_context` away.

    Args:
        points_syx: float (N, 3), slice, y, x in pixels of the maps; a point belongs to the slice whose centre plane
            is nearest.
    """
    index = nearest_index(np.asarray(points_syx, dtype=np.float64).reshape(-1, 3))
    inside = np.flatnonzero(((index >= 0) & (index < shape)).all(axis=1))
    offsets = np.arange(-n_context, n_context + 1)
    slices = index[inside, :1] + offsets
    rows, columns = np.nonzero((slices >= 0) & (slices < shape[0]))
    order = np.lexsort((rows, np.abs(offsets[columns]), slices[rows, columns]))
    rows, columns = rows[order], columns[order]
    points = inside[rows]
    return PointUses(slices[rows, columns], points, index[points, 0], index[points, 1:])


def describe_uses(uses: PointUses, saliency: np.ndarray) -> np.ndarray:
    """Features float32 (Q, F) of uses; every point within the maps has to be among them in its own slice.

    They depend on the slices within `REACH` alone.

    Args:
        uses: of the points of one volume and class.
        saliency: float (S, M, M) in [0, 1].
    """
    if not len(uses.slice_index):
        return np.zeros((0, N_FEATURES), dtype=np.float32)
    local = np.flatnonzero(uses.offset == 0)
    n_slices, side, _ = saliency.shape
    s, (y, x) = uses.slice_index, uses.pixel.T
    here = saliency[s, y, x].astype(np.float64)
    weight_of_point = np.zeros(int(uses.point_index.max()) + 1)
    weight_of_point[uses.point_index[local]] = here[local]
    weight = weight_of_point[uses.point_index]

    factor = max(1, round(side / _CELLS))
    maps = _shrink(saliency, factor)
    cells = maps.shape[-1]
    place = s, y // factor, x // factor
    points = np.zeros_like(maps)
    np.add.at(points, tuple(axis[local] for axis in place), weight[local].astype(np.float32))
    density = _density_of_chance(maps, s[local], weight[local])

    around = _near(maps, _SURROUNDINGS * cells)
    columns = [
        _logit(here),
        _logit(around[place] / _kernel(cells, _SURROUNDINGS * cells).sum(axis=0).max() ** 2),
        _logit(saliency.max(axis=(1, 2))[s]),
    ]
    slices = s[:, None] + _OFFSETS
    is_there = (slices >= 0) & (slices < n_slices)
    stack = slices.clip(0, n_slices - 1), place[1][:, None], place[2][:, None]
    others = is_there & (_OFFSETS != 0)
    is_source = slices == uses.source_slice[:, None]
    for width in _WIDTHS:
        near_points, near_area = (_near(m, width * cells) for m in (points, maps))
        found = np.where(others, near_points[stack], 0.0) - np.where(others & is_source, weight[:, None], 0.0)
        chance = np.where(others, near_area[stack], 0.0) * density[s][:, None]
        for window in _WINDOWS:
            within = np.abs(_OFFSETS) <= window
            n_found, n_chance = found[:, within].sum(axis=1), chance[:, within].sum(axis=1)
            surplus = np.log((n_found + _SMOOTH).clip(min=_SMOOTH / 2) / (n_chance + _SMOOTH))
            columns += [surplus, n_found / others[:, within].sum(axis=1).clip(min=1)]
        columns.append(near_points[place] - np.where(uses.offset == 0, weight, 0.0))
    sides = [
        found[:, chosen].sum(axis=1) for chosen in ((_OFFSETS < 0) & (_OFFSETS >= -4), (_OFFSETS > 0) & (_OFFSETS <= 4))
    ]
    columns += [np.minimum(*sides), np.maximum(*sides)]

    n_points = np.bincount(s[local], minlength=n_slices)
    total = np.bincount(s[local], weights=weight[local], minlength=n_slices)
    columns += [np.log1p(n_points[s]), total[s] - np.where(uses.offset == 0, weight, 0.0)]
    surplus_of_point = np.zeros(len(weight_of_point))
    surplus_of_point[uses.point_index[local]] = surplus[local]
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
    n, side, _ = maps.shape
    missing = -side % factor
    padded = np.pad(maps.astype(np.float32), ((0, 0), (0, missing), (0, missing)))
    cells = (side + missing) // factor
    return padded.reshape(n, cells, factor, cells, factor).mean(axis=(2, 4))


def _kernel(cells: int, width: float) -> np.ndarray:
    """Gaussian float32 (cells, cells), 1 where the distance is 0."""
    apart = np.arange(cells)
    return np.exp(-((apart[:, None] - apart) ** 2) / (2 * width**2)).astype(np.float32)


def _near(maps: np.ndarray, width: float) -> np.ndarray:
    """Of every cell of maps (S, m, m) how much lies near it, weighted by a Gaussian."""
    kernel = _kernel(maps.shape[-1], width)
    return kernel @ maps @ kernel


def _density_of_chance(maps: np.ndarray, slices: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Points that are not salient per cell that is not, float64 (S,), in the slices within `REACH`."""
    n_slices, cells, _ = maps.shape
    missed = np.bincount(slices, weights=1 - weight, minlength=n_slices)
    area = cells**2 - maps.sum(axis=(1, 2), dtype=np.float64)
    return _within_reach(missed) / _within_reach(area).clip(min=1)


def _within_reach(values: np.ndarray) -> np.ndarray:
    return np.convolve(values, np.ones(len(_OFFSETS)))[REACH : REACH + len(values)]


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
