"""Contextual Prompt Distillation (CPD): which of the noisy points to trust.

Pure functions on arrays, without a model, a file or torch, vectorised over a volume. Everything is in the
pixel frame of the saliency maps.

    local_i     = points of slice i that are salient in slice i
    context_i   = points of slices j, 0 < |j - i| <= n, that are salient in slice j and in slice i
    consensus_i = local_i and context_i together
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spdnet.geometry import nearest_index


@dataclass(frozen=True)
class Consensus:
    """The points that CPD trusts, and why.

    One entry per (slice, point) pair: a point may prompt its own slice and neighbouring ones.

    Attributes:
        slice_index: int64 (M,), slice that the point prompts; ascending.
        point_index: int64 (M,), row of the point among those given.
        source_slice: int64 (M,), slice in which the point was placed; equals `slice_index` for local points.
        points_yx: float64 (M, 2), position in pixels of the saliency map.
        saliency: float32 (M,), saliency at the point in the slice that it prompts.
        own_saliency: float32 (N,), for every given point its saliency in its own slice; 0 outside the map. A point was
            rejected everywhere if this is at most tau.
    """

    slice_index: np.ndarray
    point_index: np.ndarray
    source_slice: np.ndarray
    points_yx: np.ndarray
    saliency: np.ndarray
    own_saliency: np.ndarray

    @property
    def is_local(self) -> np.ndarray:
        """bool (M,): the point was placed in the slice that it prompts."""
        return self.source_slice == self.slice_index

    def in_slice(self, slice_index: int) -> np.ndarray:
        """Positions (m, 2) of the points that prompt one slice, y, x in pixels of the saliency map."""
        first, last = np.searchsorted(self.slice_index, [slice_index, slice_index + 1])
        return self.points_yx[first:last]

    def select(self, chosen: np.ndarray) -> Consensus:
        """The entries of a bool mask (M,) or of an array of indices; what is known of the given points stays."""
        names = "slice_index", "point_index", "source_slice", "points_yx", "saliency"
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def slices_with_points(self, n_slices: int) -> np.ndarray:
        """bool (n_slices,): which slices have a consensus."""
        return np.bincount(self.slice_index, minlength=n_slices)[:n_slices] > 0


def distill_prompts(points_syx: np.ndarray, saliency: np.ndarray, tau: float, n_context: int) -> Consensus:
    """Distil the noisy points of one volume and class (equations of CPD, arXiv 2604.23314).

    Args:
        points_syx: float (N, 3), slice, y, x in pixels of the saliency maps; a point belongs to the slice whose
            centre plane is nearest.
        saliency: float (S, H, W) in [0, 1].
        tau: a point is salient where the nearest pixel exceeds this.
        n_context: how many slices to either side may lend points; 0 is local validation only.

    Returns:
        The consensus of every slice, sorted by slice, local points first, then by distance of the source slice.
    """
    points = np.asarray(points_syx, dtype=np.float64).reshape(-1, 3)
    index = nearest_index(points)
    inside = np.flatnonzero(((index >= 0) & (index < saliency.shape)).all(axis=1))
    own = np.zeros(len(points), dtype=np.float32)
    own[inside] = saliency[tuple(index[inside].T)]
    lent = np.flatnonzero(own > tau)
    slices = index[lent, :1] + np.arange(-n_context, n_context + 1)
    rows, columns = np.nonzero((slices >= 0) & (slices < len(saliency)))
    target, point = slices[rows, columns], lent[rows]
    source, y, x = index[point].T
    here = saliency[target, y, x].astype(np.float32)
    kept = np.flatnonzero(here > tau)
    kept = kept[np.lexsort((point[kept], np.abs(target - source)[kept], target[kept]))]
    return Consensus(target[kept], point[kept], source[kept], points[point[kept], 1:], here[kept], own)


def raw_prompts(points_syx: np.ndarray, n_slices: int) -> Consensus:
    """All points, each in its own slice, undistilled: what plain SAM would be given (saliency is NaN)."""
    points = np.asarray(points_syx, dtype=np.float64).reshape(-1, 3)
    source = nearest_index(points[:, 0])
    kept = np.flatnonzero((source >= 0) & (source < n_slices))
    kept = kept[np.argsort(source[kept], kind="stable")]
    unknown = np.full(len(points), np.nan, dtype=np.float32)
    return Consensus(source[kept], kept, source[kept], points[kept, 1:], unknown[kept], unknown)


def limit_points(consensus: Consensus, max_points: int) -> Consensus:
    """Keep at most `max_points` per slice: those that come first (local, then from the nearest slices)."""
    starts = np.searchsorted(consensus.slice_index, consensus.slice_index, side="left")
    keep = np.arange(len(consensus.slice_index)) - starts < max_points
    return consensus.select(keep)
