"""A second look at a slice's points, once the slices around it have masks. Our extension of CPD.

A point's own slice and its saliency may mislead; the masks of the slices to either side come from other points. Where
most of them leave a point out it is more likely a chance hit. And a slice without a trusted point that lies between
slices whose masks overlap most likely holds target there. Beside the last mask the target may end, or only what is
trusted of its points: whether one slice on points within that mask are readmitted, and a place is added where there are
none, is for the training cases to say. `spdnet.inference.following` looks further.

Pure functions on arrays, in the pixel frame of the saliency maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from spdnet.geometry import nearest_index
from spdnet.prompts.distillation import Consensus

SUPPORT_SLICES = 2  # to either side, that speak for a point
BRIDGE_SLICES = 3  # to either side, that a gap is bridged from
PROLONG_SLICES = 1  # beside a last mask
LEAST_FOLLOWED = 2  # points of a slice
LOOK_SLICES = max(SUPPORT_SLICES, BRIDGE_SLICES)
LOOK_RADIUS = 1 / 28  # of the maps' side, by which a neighbour's mask is widened to all four sides
MIN_SUPPORT = 0.5  # share of the neighbours
_LEAST_SUPPORT, _LEAST_SALIENCY = 1e-2, 1e-3  # so that either decides where the other is 0


@dataclass(frozen=True)
class NeighbourMasks:
    """What the widened masks of its neighbours say of every pixel of a slice.

    Only the part of the maps that any of them reaches is kept.

    Attributes:
        support: float32 (S, h, w), from 0 to 1: the share of the slices at most `SUPPORT_SLICES` away that have it.
        between: bool (S, h, w): whether both a slice before and one behind, at most `BRIDGE_SLICES` away, have it.
        beside: bool (S, h, w): whether any slice at most `PROLONG_SLICES` away has it.
        corner: first row and column of that part.
        side: M, of the maps.
    """

    support: np.ndarray
    between: np.ndarray
    beside: np.ndarray
    corner: tuple[int, int]
    side: int

    @classmethod
    def of(cls, masks: np.ndarray) -> NeighbourMasks:
        """Of the masks of adjacent slices, bool (S, M, M)."""
        n_slices, side, _ = masks.shape
        reach = int(LOOK_RADIUS * side)
        anywhere = np.any(masks, axis=0)
        rows, columns = (np.flatnonzero(np.any(anywhere, axis=axis)) for axis in (1, 0))
        if not len(rows):
            nothing = np.zeros((n_slices, 0, 0), dtype=bool)
            return cls(nothing.astype(np.float32), nothing, nothing, (0, 0), side)
        top, left = (max(i[0] - reach, 0) for i in (rows, columns))
        widened = masks[:, top : rows[-1] + reach + 1, left : columns[-1] + reach + 1].astype(np.uint8)
        for axis in (1, 2):
            widened = ndimage.maximum_filter1d(widened, 2 * reach + 1, axis, mode="constant")
        support, count = np.zeros(widened.shape, dtype=np.float32), np.zeros(n_slices, dtype=np.float32)
        before, behind, beside = (np.zeros(widened.shape, dtype=np.uint8) for _ in range(3))
        for offset in range(1, min(LOOK_SLICES, n_slices - 1) + 1):
            if offset <= SUPPORT_SLICES:
                support[offset:] += widened[:-offset]
                support[:-offset] += widened[offset:]
                count[offset:] += 1
                count[:-offset] += 1
            if offset <= BRIDGE_SLICES:
                before[offset:] |= widened[:-offset]
                behind[:-offset] |= widened[offset:]
            if offset == PROLONG_SLICES:
                beside |= before | behind
        support /= np.maximum(count, 1)[:, None, None]
        return cls(support, (before & behind).astype(bool), beside.astype(bool), (int(top), int(left)), side)

    def bear_out(self, slice_index: int | np.ndarray, points_yx: np.ndarray) -> np.ndarray:
        """Whether points (N, 2) are supported in a slice, or each in its own, int (N,): bool (N,).

        Those outside the map count as on its border. A slice without neighbours has none that could speak against any.
        """
        if len(self.support) == 1:
            return np.ones(len(points_yx), dtype=bool)
        return self._at_least(MIN_SUPPORT, self.support, slice_index, points_yx)

    def readmit(self, s: int, points_yx: np.ndarray) -> np.ndarray:
        """Whether points (N, 2) of slice `s` lie on the map, in the mask of the slice before or behind: bool (N,)."""
        pixels = nearest_index(points_yx)
        inside = ((pixels >= 0) & (pixels < self.side)).all(axis=1)
        return inside & self._at_least(True, self.beside, s, points_yx)

    def follow(self, s: int, points_yx: np.ndarray) -> np.ndarray:
        """`readmit` of the points (N, 2) of slice `s`, none if less than half of them or `LEAST_FOLLOWED`: bool (N,).

        Points of chance hardly ever lie like that, however many a slice has.
        """
        found = self.readmit(s, points_yx)
        n_found = np.count_nonzero(found)
        return found & (n_found >= max(LEAST_FOLLOWED, len(found) / 2))

    def _at_least(
        self, least: float, values: np.ndarray, slice_index: int | np.ndarray, points_yx: np.ndarray
    ) -> np.ndarray:
        """Whether an array of this class has at least that at points (N, 2); not where no mask reaches: bool (N,)."""
        y, x = (nearest_index(points_yx).clip(0, self.side - 1) - self.corner).T
        height, width = self.support.shape[1:]
        reached = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        found = np.zeros(len(reached), dtype=bool)
        slices = np.broadcast_to(slice_index, len(reached))[reached]
        found[reached] = values[slices, y[reached], x[reached]] >= least
        return found

    def bridge(self, s: int, saliency: np.ndarray) -> np.ndarray:
        """A place in slice `s` between masks: float64 (1, 2) y, x.

        That of the largest product of support, saliency, and distance from where the pixels between masks end. None,
        (0, 2), where there are no such pixels.

        Args:
            s: the slice.
            saliency: float (M, M), the slice's.
        """
        return self._place(s, self.between[s], saliency)

    def prolong(self, s: int, saliency: np.ndarray) -> np.ndarray:
        """The same beside a last mask: in a slice that is not between masks but has a neighbour with one."""
        if self.between[s].any():
            return np.zeros((0, 2))
        return self._place(s, self.beside[s], saliency)

    def _place(self, s: int, pixels: np.ndarray, saliency: np.ndarray) -> np.ndarray:
        """The place among some pixels, bool (h, w); (0, 2) if there are none."""
        if not pixels.any():
            return np.zeros((0, 2))
        (top, left), (height, width) = self.corner, self.support.shape[1:]
        salient = saliency[top : top + height, left : left + width] + _LEAST_SALIENCY
        inner = ndimage.distance_transform_edt(np.pad(pixels, 1))[1:-1, 1:-1]
        weight = inner * (self.support[s] + _LEAST_SUPPORT) * salient
        place = np.unravel_index(weight.argmax(), weight.shape)
        return np.array([place], dtype=np.float64) + self.corner


@dataclass(frozen=True)
class Looks:
    """What looking at the masks of a volume has changed, in all classes.

    Attributes:
        first_masks: bool (S, k, M, M), what the second look saw.
        readmitted: int64 (m, 3), points that were not trusted in their own slice or no more, and prompt it now: class,
            slice, row among the points of the class.
        returned: int64 (m, 3), the same of trusted points that the second look dropped and a further one gave back to a
            slice, which may be another than their own.
    """

    first_masks: np.ndarray
    readmitted: np.ndarray
    returned: np.ndarray

    @classmethod
    def of_second(cls, first_masks: np.ndarray, readmitted: np.ndarray) -> Looks:
        """Before any further one."""
        return cls(first_masks, readmitted, np.zeros((0, 3), dtype=np.int64))

    def bear_out(self, k: int, slice_index: np.ndarray, points_yx: np.ndarray) -> np.ndarray:
        """Whether the second look left points (N, 2) of class `k` to slices int (N,): bool (N,)."""
        return NeighbourMasks.of(self.first_masks[:, k]).bear_out(slice_index, points_yx)

    def of_class(self, k: int, consensus: Consensus, points_syx: np.ndarray, saliency: np.ndarray) -> Consensus:
        """What the looks made of the trusted points of a class.

        Args:
            k: the class.
            consensus: before them.
            points_syx: float (N, 3), all points of the class, in pixels of the saliency maps.
            saliency: float (S, M, M), the maps.
        """
        left = self.bear_out(k, consensus.slice_index, consensus.points_yx)
        left |= is_among(np.column_stack([consensus.slice_index, consensus.point_index]), self.pairs(self.returned, k))
        again = self.pairs(self.readmitted, k)[:, 1]
        return consensus.select(left).with_points(again, points_syx, saliency)

    @staticmethod
    def pairs(points: np.ndarray, k: int) -> np.ndarray:
        """Slices and rows of the points (m, 3) that are of a class: int64 (n, 2)."""
        return points[points[:, 0] == k, 1:]


def is_among(pairs: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each of int pairs (N, 2) is one of others (M, 2): bool (N,)."""
    known = set(map(tuple, others.tolist()))
    return np.array([tuple(pair) in known for pair in pairs.tolist()], dtype=bool)
