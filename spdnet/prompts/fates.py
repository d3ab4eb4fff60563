"""What became of every point: the same rules as distillation, told for those that were dropped too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from spdnet.geometry import nearest_index
from spdnet.prompts.learned_trust import JudgedUses
from spdnet.prompts.second_look import Looks, is_among


class Fate(Enum):
    """What distillation decided on a point for one slice; the value is what users read."""

    KEPT_LOCAL = "kept: local"
    KEPT_CONTEXT = "kept: from a neighbouring slice"
    KEPT_NEAR = "kept: near trusted points of neighbouring slices"
    KEPT_MASKS = "kept: in the mask of a neighbouring slice"
    REJECTED_OWN = "rejected: not salient in its own slice"
    REJECTED_UNLIKELY = "rejected: unlikely to be on the target"
    REJECTED_ALONE = "rejected: the points of neighbouring slices do not agree"
    REJECTED_RANDOM = "rejected: the points of this volume look random"
    REJECTED_HERE = "rejected: not salient here"
    REJECTED_MASKS = "rejected: the masks of neighbouring slices leave it out"
    OVER_LIMIT = "left out: more points than the decoder takes"
    OUTSIDE = "rejected: outside the cropped image"

    @property
    def is_kept(self) -> bool:
        """Whether the point reached the decoder."""
        return self in (Fate.KEPT_LOCAL, Fate.KEPT_CONTEXT, Fate.KEPT_NEAR, Fate.KEPT_MASKS)


# point, source slice, target slice, saliency in either, fate, probability
_Judged = tuple[int, int, int, float, float, Fate, float]


@dataclass(frozen=True)
class PointFates:
    """One row for each slice that a point could have prompted, sorted by point, then slice.

    A point that is rejected in its own slice has one row, of that slice: it is judged nowhere else, but where trust was
    learned, which may find it likely in another slice all the same.

    Attributes:
        point_index: int64 (M,), row of the point among those judged, or after `among_given` among those given.
        source_slice: int64 (M,), slice in which it was placed.
        target_slice: int64 (M,), slice that it was judged for.
        own_saliency: float32 (M,), saliency at the point in its own slice; NaN outside the maps.
        saliency: float32 (M,), saliency at the point in the target slice; NaN outside the maps.
        fates: M decisions.
        probability: float32 (M,), of being on the target in the target slice where trust was learned; NaN elsewhere.
    """

    point_index: np.ndarray
    source_slice: np.ndarray
    target_slice: np.ndarray
    own_saliency: np.ndarray
    saliency: np.ndarray
    fates: tuple[Fate, ...]
    probability: np.ndarray

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
    agreement: np.ndarray | None = None,
    min_agreement: float = -np.inf,
    refused: bool = False,
    near: np.ndarray | None = None,
) -> PointFates:
    """Judge the points of one volume and class as `distill_prompts` and `limit_points` do, and say why.

    Args:
        points_syx: float (N, 3), slice, y, x in pixels of the saliency maps.
        saliency: float (S, H, W) in [0, 1].
        tau, n_context, max_points: of the plans.
        agreement, min_agreement: as `distill_prompts` takes them.
        refused: no point of the volume and class is trusted, see `spdnet.prompts.random_points`.
        near: int64, the points that `spdnet.prompts.near_points` adds; None for none.
    """
    points = np.asarray(points_syx, dtype=np.float64).reshape(-1, 3)
    n_slices, height, width = saliency.shape
    is_near = set() if near is None else set(near.tolist())
    judged: list[_Judged] = []
    for index, (source, y, x) in enumerate(nearest_index(points).tolist()):
        if not (0 <= source < n_slices and 0 <= y < height and 0 <= x < width):
            judged.append((index, source, source, np.nan, np.nan, Fate.OUTSIDE, np.nan))
            continue
        own = float(saliency[source, y, x])
        if index in is_near and not refused:
            judged.append((index, source, source, own, own, Fate.KEPT_NEAR, np.nan))
            continue
        if own <= tau:
            judged.append((index, source, source, own, own, Fate.REJECTED_OWN, np.nan))
            continue
        if refused:
            judged.append((index, source, source, own, own, Fate.REJECTED_RANDOM, np.nan))
            continue
        if agreement is not None and agreement[index] < min_agreement:
            judged.append((index, source, source, own, own, Fate.REJECTED_ALONE, np.nan))
            continue
        for target in range(max(0, source - n_context), min(n_slices, source + n_context + 1)):
            here = float(saliency[target, y, x])
            fate = Fate.KEPT_LOCAL if target == source else Fate.KEPT_CONTEXT
            judged.append((index, source, target, own, here, fate if here > tau else Fate.REJECTED_HERE, np.nan))
    return _limited(judged, max_points)


def fates_by_trust(judged: JudgedUses, min_trust: float, max_points: int, refused: bool = False) -> PointFates:
    """Say what becomes of points that are judged by learned trust; see `point_fates`.

    A point has a row for its own slice, and for every other one that it is trusted in or, if it is trusted in its own,
    could have prompted.

    Args:
        judged: of all uses.
        min_trust: probability above which a use counts.
        max_points: of the plans.
        refused: no point of the volume and class is trusted, see `spdnet.prompts.random_points`.
    """
    uses, likely = judged.uses, judged.probability > min_trust
    local = uses.offset == 0
    trusted_at_home = uses.at_home(likely, len(judged.own_saliency))
    inside = np.zeros(len(judged.own_saliency), dtype=bool)
    inside[uses.point_index] = True
    nearest = judged.nearest_slice.tolist()
    rows: list[_Judged] = [
        (i, nearest[i], nearest[i], np.nan, np.nan, Fate.OUTSIDE, np.nan) for i in np.flatnonzero(~inside).tolist()
    ]
    for row in np.flatnonzero(local | likely | trusted_at_home[uses.point_index]).tolist():
        point, source, target = (int(a[row]) for a in (uses.point_index, uses.source_slice, uses.slice_index))
        if refused and source != target:
            continue
        if not likely[row]:
            fate = Fate.REJECTED_UNLIKELY
        elif refused:
            fate = Fate.REJECTED_RANDOM
        else:
            fate = Fate.KEPT_LOCAL if source == target else Fate.KEPT_CONTEXT
        own, here = float(judged.own_saliency[point]), float(judged.here[row])
        rows.append((point, source, target, own, here, fate, float(judged.probability[row])))
    return _limited(sorted(rows, key=lambda r: r[:3]), max_points)


def overrule(fates: PointFates, points_syx: np.ndarray, looks: Looks, k: int) -> PointFates:
    """What is left of the points that were kept, after looks at the masks, and which came back.

    One that was kept, and that is dropped and comes back, keeps its fate.

    Args:
        fates: before them.
        points_syx: float (N, 3), those that were judged, in pixels of the saliency maps.
        looks: what they changed.
        k: the class of the points.
    """
    places = np.asarray(points_syx, dtype=np.float64).reshape(-1, 3)[fates.point_index, 1:]
    kept = np.flatnonzero([fate.is_kept for fate in fates.fates])
    dropped = set(kept[~looks.bear_out(k, fates.target_slice[kept], places[kept])].tolist())
    uses = np.column_stack([fates.target_slice, fates.point_index])
    again = np.concatenate([looks.pairs(points, k) for points in (looks.readmitted, looks.returned)])
    back = set(np.flatnonzero(is_among(uses, again)).tolist())
    after = []
    for row, fate in enumerate(fates.fates):
        if row in back:
            after.append(fate if fate.is_kept else Fate.KEPT_MASKS)
        else:
            after.append(Fate.REJECTED_MASKS if row in dropped else fate)
    return replace(fates, fates=tuple(after))


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
    own, here, probability = (
        np.concatenate([values, nowhere]) for values in (fates.own_saliency, fates.saliency, fates.probability)
    )
    told = [*fates.fates, *[Fate.OUTSIDE] * len(out)]
    order = np.argsort(point, kind="stable")
    return PointFates(
        point[order], source[order], target[order], own[order], here[order],
        tuple(told[row] for row in order.tolist()), probability[order],
    )  # fmt: skip


def _limited(judged: Sequence[_Judged], max_points: int) -> PointFates:
    """Mark what exceeds the decoder's points per slice: local points come first, then those of the nearest slices."""
    if not judged:
        empty = np.zeros(0, dtype=np.int64)
        none = empty.astype(np.float32)
        return PointFates(empty, empty, empty, none, none, (), none)
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
    probability = np.array([j[6] for j in judged], dtype=np.float32)
    return PointFates(point, source, target, own, here, tuple(fates), probability)
