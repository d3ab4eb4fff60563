"""Whether the points of neighbouring slices agree with a point, or it looks like a chance hit. Our extension of CPD.

Saliency alone cannot tell the target from a structure that looks like it, and of many random points some fall on
that structure. But the target's points come slice after slice, those of chance do not. How dense chance is can be
read off the points that saliency rejects.

Pure functions on arrays, in the pixel frame of the saliency maps.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from spdnet.geometry import nearest_index
from spdnet.prompts.background import WHOLE_MAPS, Background

_SAMPLES_ACROSS = 8  # of the disc, in which the salient area is estimated
_LEAST = 1e-9  # expected points, in place of none
_IN_PLANE = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])


def agreement(
    points_syx: np.ndarray,
    saliency: np.ndarray,
    tau: float,
    n_slices: int,
    radius: float,
    background: Background = WHOLE_MAPS,
) -> np.ndarray:
    """How likely points are on the target rather than where they are by chance.

    All that is used of a point in slice s lies in the slices from s - n to s + n. In them, points that are not salient
    tell how dense chance is, and with it how many of the salient ones it explains; the others are the target's. That
    ratio is the prior. The evidence is the number of salient points of the other slices that lie near the point in the
    plane: chance puts d A there, with d the density and A the salient area nearby; a target adds t s in each slice,
    with t its points per slice and s the share of its area that is nearby, where the connected salient pieces that
    reach there are taken for the target. Counts are taken as Poisson.

    Args:
        points_syx: float (N, 3), slice, y, x in pixels of the saliency maps.
        saliency: float (S, H, W) in [0, 1].
        tau: a pixel is salient above this.
        n_slices: n.
        radius: in pixels, what counts as near.
        background: where points of chance can lie.

    Returns:
        float64 (N,): natural logarithm of the odds of target to chance. NaN for points that are not salient in their
        own slice or lie outside the maps.
    """
    points = np.asarray(points_syx, dtype=np.float64).reshape(-1, 3)
    count, height, width = saliency.shape
    index = nearest_index(points)
    inside = ((index >= 0) & (index < (count, height, width))).all(axis=1)
    salient = saliency > tau
    hits = inside.copy()
    hits[inside] = salient[tuple(index[inside].T)]
    odds = np.full(len(points), np.nan)
    if not hits.any():
        return odds

    area = _salient_pixels(salient)
    n_hits = _of_windows(np.bincount(index[hits, 0], minlength=count), n_slices)
    density = np.zeros(count)
    for chosen, maps in background.parts(saliency, len(points)):
        off = inside & chosen
        off[off] = ~(maps[tuple(index[off].T)] > tau)
        n_misses = np.bincount(index[off, 0], minlength=count)
        taken = area if maps is saliency else _salient_pixels(maps > tau)
        free = np.maximum(background.content_share * height * width - taken, 0)
        density += _of_windows(n_misses, n_slices) / np.maximum(_of_windows(free, n_slices), 1)
    by_chance = np.minimum(density * _of_windows(area, n_slices), n_hits)
    by_target = n_hits - by_chance
    per_slice = by_target / np.maximum(_of_windows(area > 0, n_slices), 1)

    (top, left), around = _corner_and_content(salient)
    pieces, _ = ndimage.label(around, structure=_IN_PLANE)
    sizes = np.bincount(pieces.ravel()).astype(np.float64)
    sizes[0] = np.inf  # no piece
    source, y, x = index[hits].T
    apart = 4 * radius + height + width  # between slices, so that a search near one never reaches another
    tree = cKDTree(np.column_stack([source * apart, points[hits, 1:]]))
    target_share, near_area, found = (np.zeros(len(source)) for _ in range(3))
    for offset in (d for d in range(-n_slices, n_slices + 1) if d):
        there = source + offset
        own = there.clip(0, count - 1)
        near, share = _salient_near(pieces, sizes, own, y - top, x - left, radius)
        near_area += np.where(there == own, near, 0.0)
        target_share += np.where(there == own, share, 0.0)
        places = np.column_stack([there * apart, points[hits, 1:]])
        found += tree.query_ball_point(places, radius, return_length=True)
    expected_of_chance = density[source] * near_area + _LEAST
    expected_of_target = per_slice[source] * target_share
    prior = np.log((by_target[source] + _LEAST) / (by_chance[source] + _LEAST))
    evidence = found * np.log1p(expected_of_target / expected_of_chance) - expected_of_target
    odds[hits] = prior + evidence
    return odds


def _salient_pixels(salient: np.ndarray) -> np.ndarray:
    """Of bool maps (S, H, W), in each slice: float64 (S,)."""
    return np.array([np.count_nonzero(pixels) for pixels in salient], dtype=np.float64)  # faster than a sum over axes


def _of_windows(values: np.ndarray, reach: int) -> np.ndarray:
    """Sums float64 (S,) of values (S,) over the slices within `reach`."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    middle = np.arange(len(values))
    return sums[(middle + reach + 1).clip(max=len(values))] - sums[(middle - reach).clip(min=0)]


def _corner_and_content(salient: np.ndarray) -> tuple[tuple[int, int], np.ndarray]:
    """The part of bool maps (S, H, W), not all False, that holds all True pixels, and its first row and column."""
    anywhere = np.any(salient, axis=0)
    rows, columns = (np.flatnonzero(np.any(anywhere, axis=axis)) for axis in (1, 0))
    content = salient[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return (int(rows[0]), int(columns[0])), content


def _salient_near(
    pieces: np.ndarray, sizes: np.ndarray, slices: np.ndarray, y: np.ndarray, x: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Salient pixels within a radius of pixels, and which share of their pieces they are, at most 1: float64 (N,) each.

    Args:
        pieces: int (S, H, W), number of the connected piece of every salient pixel, 0 elsewhere. Where a disc has many
            pixels, a grid of samples stands for them.
        sizes: float64, pixels of each piece by its number, infinite for 0.
        slices, y, x: int64 (N,), the pixels.
        radius: in pixels.
    """
    step = max(1, round(2 * radius / _SAMPLES_ACROSS))
    reach = int(radius // step) * step
    dy, dx = np.mgrid[-reach : reach + 1 : step, -reach : reach + 1 : step]
    within = dy**2 + dx**2 <= radius**2
    yy, xx = y[:, None] + dy[within], x[:, None] + dx[within]
    _, height, width = pieces.shape
    in_map = (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width)
    found = np.where(in_map, pieces[slices[:, None], yy.clip(0, height - 1), xx.clip(0, width - 1)], 0)
    pixels = float(step**2)
    return (found > 0).sum(axis=1) * pixels, np.minimum((pixels / sizes[found]).sum(axis=1), 1.0)
