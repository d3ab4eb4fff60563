"""Whether the points of neighbouring slices agree with a point, or it looks like a chance hit. Our extension of CPD.

Saliency alone cannot tell the target from a structure that looks like it, and of many random points some fall on
that structure. But the target's points come slice after slice, those of chance do not. For every salient point the
salient points of the slices around it are counted that lie near it in the plane, and two explanations of the
count are compared: chance alone, or chance and a target that has points there, too.

Pure functions on arrays, in the pixel frame of the saliency maps.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from spdnet.geometry import nearest_index

_SAMPLES_ACROSS = 8  # of the disc, in which the salient area is estimated


def agreement(
    points_syx: np.ndarray, saliency: np.ndarray, tau: float, n_slices: int, radius: float, points_per_slice: float
) -> np.ndarray:
    """How much more likely the points around a point are if the target is there than by chance.

    With m points per slice on average, chance puts `m A / (H W)` salient points near a point, where A is the salient
    area within the radius in the slices around it. A target adds `t A / B` in each of those slices, where B is all
    the salient area of the slice and t = min(m, 1): one point per slice, or fewer if there are not as many. Both counts
    are taken as Poisson.

    Args:
        points_syx: float (N, 3), slice, y, x in pixels of the saliency maps.
        saliency: float (S, H, W) in [0, 1].
        tau: a pixel is salient above this.
        n_slices: how many slices to either side are asked.
        radius: in pixels, what counts as near.
        points_per_slice: mean number of points in a slice of the volume, whatever their saliency.

    Returns:
        float64 (N,): natural logarithm of the likelihood ratio, 0 where nothing speaks for either; NaN for points
        that are not salient in their own slice or lie outside the maps.
    """
    points = np.asarray(points_syx, dtype=np.float64).reshape(-1, 3)
    count, height, width = saliency.shape
    index = nearest_index(points)
    inside = ((index >= 0) & (index < (count, height, width))).all(axis=1)
    ratio = np.full(len(points), np.nan)
    rows = np.flatnonzero(inside)
    rows = rows[saliency[tuple(index[rows].T)] > tau]
    if not len(rows):
        return ratio
    salient = saliency > tau
    whole_area = salient.sum(axis=(1, 2))
    source, y, x = index[rows].T
    apart = 4 * radius + height + width  # between slices, so that a search near one never reaches another
    tree = cKDTree(np.column_stack([source * apart, points[rows, 1:]]))
    expected_of_target, near_area, found = (np.zeros(len(rows)) for _ in range(3))
    for offset in (d for d in range(-n_slices, n_slices + 1) if d):
        target = source + offset
        there = (target >= 0) & (target < count)
        own = target.clip(0, count - 1)
        area = np.where(there, _salient_area_near(salient, own, y, x, radius), 0.0)
        expected_of_target += area / np.maximum(whole_area[own], 1)
        near_area += area
        places = np.column_stack([target * apart, points[rows, 1:]])
        found += tree.query_ball_point(places, radius, return_length=True)
    by_chance = points_per_slice * near_area / (height * width)
    by_target = min(points_per_slice, 1.0) * expected_of_target
    more = np.divide(by_target, by_chance, out=np.zeros(len(rows)), where=by_chance > 0)
    ratio[rows] = found * np.log1p(more) - by_target
    return ratio


def _salient_area_near(
    salient: np.ndarray, slices: np.ndarray, y: np.ndarray, x: np.ndarray, radius: float
) -> np.ndarray:
    """Salient pixels within a radius of pixels, float64 (N,), estimated from a grid of samples where there are many."""
    step = max(1, round(2 * radius / _SAMPLES_ACROSS))
    reach = int(radius // step) * step
    dy, dx = np.mgrid[-reach : reach + 1 : step, -reach : reach + 1 : step]
    within = dy**2 + dx**2 <= radius**2
    yy, xx = y[:, None] + dy[within], x[:, None] + dx[within]
    _, height, width = salient.shape
    in_map = (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width)
    hits = salient[slices[:, None], yy.clip(0, height - 1), xx.clip(0, width - 1)] & in_map
    return hits.sum(axis=1) * float(step**2)
