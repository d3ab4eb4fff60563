"""A second look at a slice's points, once the slices around it have masks. Our extension of CPD.

A point's own slice and its saliency may mislead; the masks of the slices to either side come from other points. Where
most of them leave a point out it is more likely a chance hit. And a slice without a trusted point that lies between
slices whose masks overlap most likely holds target there. Beyond the last mask nothing is added: the target may end.

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
LOOK_SLICES = max(SUPPORT_SLICES, BRIDGE_SLICES)
LOOK_RADIUS = 1 / 28  # of the maps' side, by which a neighbour's mask is widened to all four sides
MIN_SUPPORT = 0.5  # share of the neighbours
_LEAST_SUPPORT, _LEAST_SALIENCY = 1e-2, 1e-3  # so that either decides where the other is 0


@dataclass(frozen=True)
class NeighbourMasks:
    """What the widened masks of its neighbours say of every pixel of a slice.

    Attributes:
        support: float32 (S, M, M), from 0 to 1: the share of the slices at most `SUPPORT_SLICES` away that have it.
        between: bool (S, M, M): whether both a slice before and one behind, at most `BRIDGE_SLICES` away, have it.
    """

    support: np.ndarray
    between: np.ndarray

    @classmethod
    def of(cls, masks: np.ndarray) -> NeighbourMasks:
        """Of the masks of adjacent slices, bool (S, M, M)."""
        n_slices, side, _ = masks.shape
        support, between = np.zeros(masks.shape, dtype=np.float32), np.zeros(masks.shape, dtype=bool)
        reach = int(LOOK_RADIUS * side)
        rows, columns = (np.flatnonzero(masks.any(axis=(0, axis))) for axis in (2, 1))
        if not len(rows):
            return cls(support, between)
        near = (slice(max(i[0] - reach, 0), i[-1] + reach + 1) for i in (rows, columns))
        content = (slice(None), *near)
        widened = masks[content].astype(np.uint8)
        for axis in (1, 2):
            widened = ndimage.maximum_filter1d(widened, 2 * reach + 1, axis, mode="constant")
        share, count = support[content], np.zeros(n_slices, dtype=np.float32)
        before, behind = (np.zeros(widened.shape, dtype=np.uint8) for _ in range(2))
        for offset in range(1, min(LOOK_SLICES, n_slices - 1) + 1):
            if offset <= SUPPORT_SLICES:
                share[offset:] += widened[:-offset]
                share[:-offset] += widened[offset:]
                count[offset:] += 1
                count[:-offset] += 1
            if offset <= BRIDGE_SLICES:
                before[offset:] |= widened[:-offset]
                behind[:-offset] |= widened[offset:]
        share /= np.maximum(count, 1)[:, None, None]
        between[content] = before & behind
        return cls(support, between)

    def bear_out(self, slice_index: int | np.ndarray, points_yx: np.ndarray) -> np.ndarray:
        """Whether points (N, 2) are supported in a slice, or each in its own, int (N,): bool (N,).

        Those outside the map count as on its border.
        """
        y, x = nearest_index(points_yx).clip(0, self.support.shape[-1] - 1).T
        return np.asarray(self.support[slice_index, y, x] >= MIN_SUPPORT)

    def bridge(self, s: int, saliency: np.ndarray) -> np.ndarray:
        """A place in slice `s` between masks: float64 (1, 2) y, x, that of the largest product of support and saliency.

        None, (0, 2), where no pixel lies between masks.

        Args:
            s: the slice.
            saliency: float (M, M), the slice's.
        """
        weight = np.where(self.between[s], (self.support[s] + _LEAST_SUPPORT) * (saliency + _LEAST_SALIENCY), 0)
        if not weight.any():
            return np.zeros((0, 2))
        return np.array([np.unravel_index(weight.argmax(), weight.shape)], dtype=np.float64)


def borne_out(consensus: Consensus, masks: np.ndarray) -> Consensus:
    """The trusted points of a class that a second look leaves, given the first masks, bool (S, M, M)."""
    return consensus.select(NeighbourMasks.of(masks).bear_out(consensus.slice_index, consensus.points_yx))
