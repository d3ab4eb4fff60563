"""What became of every point: the same rules as distillation, told for those that were dropped too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from spdnet.geometry import nearest_index


class Fate(Enum):
    """What distillation decided on a point for one slice; the value is what users read."""

    KEPT_LOCAL = "kept: local"
    KEPT_CONTEXT = "kept: from a neighbouring slice"
    REJECTED_OWN = "rejected: not salient in its own slice"
    REJECTED_RANDOM = "rejected: the points of this volume look random"
    REJECTED_HERE = "rejected: not salient here"
    OVER_LIMIT = "left out: more points than the decoder takes"
    OUTSIDE = "rejected: outside the cropped image"

    @property
    def is_kept(self) -> bool:
        """Whether distillation keeps the point; a decoder that weighs points is told of all."""
        return self in (Fate.KEPT_LOCAL, Fate.KEPT_CONTEXT)


_Judged = tuple[int, int, int, float, float, Fate]  # point, source slice, target slice, saliency in either, fate


@dataclass(frozen=True)
class PointFates:
    """One row for each slice that a point could have prompted, sorted by point, then slice.

    A point that is rejected in its own slice has one row, of that slice: it is judged nowhere else.

    Attributes:
        point_index: int64 (M,), row of the point among those judged, or after `among_given` among those given.
        source_slice: int64 (M,), slice in which it was placed.
        target_slice: int64 (M,), slice that it was judged for.
        own_saliency: float32 (M,), saliency at the point in its own slice; NaN outside the maps.
        saliency: float32 (M,), saliency at the point in the target slice; NaN outside the maps.
        fates: M decisions.
    """

    point_index: np.ndarray
    source_slice: np.ndarray
    target_slice: np.ndarray
    own_saliency: np.ndarray
    saliency: np.ndarray
    fates: tuple[Fate, ...]

    def __len__(self) -> int:
        return len(self.point_index)

    def rows(self, fate: Fate) -> np.ndarray:
        """int64: the rows with one fate."""
        return np.flatnonzero([f is fate for f in self.fates])


def point_fates(
    points_syx: np.ndarray,
    saliency: np.ndarray,
    tau: float,
    n_context: int,
    max_points: int,
    refused: bool = False,
) -> PointFates:
    """Judge the points of one volume and class as `distill_prompts` and `limit_points` do, and say why.

    Args:
        points_syx: float (N, 3), slice, y, x in pixels of the saliency maps.
        saliency: float (S, H, W) in [0, 1].
        tau, n_context, max_points: of the plans.
        refused: no point of the volume and class is trusted, see `spdnet.prompts.random_points`.
    """
    points = np.asarray(points_syx, dtype=np.float64).reshape(-1, 3)
    n_slices, height, width = saliency.shape
    judged: list[_Judged] = []
    for index, (source, y, x) in enumerate(nearest_index(points).tolist()):
        if not (0 <= source < n_slices and 0 <= y < height and 0 <= x < width):
            judged.append((index, source, source, np.nan, np.nan, Fate.OUTSIDE))
            continue
        own = float(saliency[source, y, x])
        if own <= tau or refused:
            fate = Fate.REJECTED_OWN if own <= tau else Fate.REJECTED_RANDOM
            judged.append((index, source, source, own, own, fate))
            continue
        for target in range(max(0, source - n_context), min(n_slices, source + n_context + 1)):
            here = float(saliency[target, y, x])
            fate = Fate.KEPT_LOCAL if target == source else Fate.KEPT_CONTEXT
            judged.append((index, source, target, own, here, fate if here > tau else Fate.REJECTED_HERE))
    return _limited(judged, max_points)


def among_given(fates: PointFates, used: np.ndarray, outside: np.ndarray, source_slice: np.ndarray) -> PointFates:
    """The fates of the points that were judged, told among all that were given, with those outside the crop.

    Args:
        fates: of the points that the network got.
        used: int64 (n,), row of each of them among all.
        outside: bool (N,), which of all lie outside the crop.
        source_slice: int64 (N,), slice of each of all.
    """
    out = np.flatnonzero(outside)
    nowhere = np.full(len(out), np.nan, dtype=np.float32)
    point = np.concatenate([used[fates.point_index], out])
    source = np.concatenate([fates.source_slice, source_slice[out]])
    target = np.concatenate([fates.target_slice, source_slice[out]])
    own, here = (np.concatenate([values, nowhere]) for values in (fates.own_saliency, fates.saliency))
    told = [*fates.fates, *[Fate.OUTSIDE] * len(out)]
    order = np.argsort(point, kind="stable")
    in_order = tuple(told[row] for row in order.tolist())
    return PointFates(point[order], source[order], target[order], own[order], here[order], in_order)


def _limited(judged: Sequence[_Judged], max_points: int) -> PointFates:
    """Mark what exceeds the decoder's points per slice: local points come first, then those of the nearest slices."""
    if not judged:
        empty = np.zeros(0, dtype=np.int64)
        none = empty.astype(np.float32)
        return PointFates(empty, empty, empty, none, none, ())
    point, source, target = (np.array([j[i] for j in judged], dtype=np.int64) for i in range(3))
    own, here = (np.array([j[i] for j in judged], dtype=np.float32) for i in (3, 4))
    fates = [j[5] for j in judged]
    kept = np.flatnonzero([f.is_kept for f in fates])
    order = kept[np.lexsort((point[kept], np.abs(target - source)[kept], target[kept]))]
    taken: dict[int, int] = {}
    for row in order.tolist():
        taken[target[row]] = taken.get(target[row], 0) + 1
        if taken[target[row]] > max_points:
            fates[row] = Fate.OVER_LIMIT
    return PointFates(point, source, target, own, here, tuple(fates))
