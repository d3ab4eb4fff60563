"""Points that are trusted for their place alone: near trusted points of neighbouring slices. Our extension of CPD.

At its ends a target fades, and saliency with it, while points still follow it. Where a slice has no trusted point, one
that lies where the slices beside it have theirs is more likely to be right than to be there by chance.

Pure functions on arrays, in the pixel frame of the saliency maps.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from spdnet.geometry import nearest_index
from spdnet.prompts.distillation import Consensus

NEAR_SLICES = 2  # to either side
NEAR_RADIUS = 1 / 14  # of the maps' side


def near_points(consensus: Consensus, points_syx: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Rows int64 (m,) of the points that are near enough, of slices that have no trusted point; ascending.

    They lie in the plane at most `NEAR_RADIUS` of the maps' side from a point that is trusted in its own slice, at most
    `NEAR_SLICES` away.

    Args:
        consensus: of a volume and class.
        points_syx: float (N, 3), slice, y, x in pixels of the saliency maps, as they were distilled.
        saliency: float (S, M, M) in [0, 1].
    """
    n_slices, side, _ = saliency.shape
    points = np.asarray(points_syx, dtype=np.float64).reshape(-1, 3)
    index = nearest_index(points)
    free = np.flatnonzero(((index >= 0) & (index < saliency.shape)).all(axis=1))
    free = free[~consensus.slices_with_points(n_slices)[index[free, 0]]]
    local = consensus.is_local
    if not len(free) or not local.any():
        return np.zeros(0, dtype=np.int64)
    apart = 4 * side  # between slices, so that a search near one never reaches another
    tree = cKDTree(np.column_stack([consensus.slice_index[local] * apart, consensus.points_yx[local]]))
    is_near = np.zeros(len(free), dtype=bool)
    for offset in (d for d in range(-NEAR_SLICES, NEAR_SLICES + 1) if d):
        places = np.column_stack([(index[free, 0] + offset) * apart, points[free, 1:]])
        is_near |= np.isfinite(tree.query(places, distance_upper_bound=NEAR_RADIUS * side)[0])
    return free[is_near]


def add_near_points(consensus: Consensus, points_syx: np.ndarray, saliency: np.ndarray) -> Consensus:
    """The consensus with its `near_points`, each in its own slice; they take along no other point.

    Arguments as there.

    Returns:
        Sorted by slice, like `consensus`. A point that was taken has `own_saliency` of at most tau, or was not trusted
        for the points round it.
    """
    return consensus.with_points(near_points(consensus, points_syx, saliency), points_syx, saliency)
