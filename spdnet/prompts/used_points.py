"""Which of the points that were given the network gets: those on its crop, and of several on one spot the first.

The same for points of files and of arrays. What is dropped is counted and logged.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

import numpy as np

from spdnet.geometry import CaseMapping, ImageGeometry
from spdnet.prompts.points import ALL_CLASSES, SlicePrompts

logger = logging.getLogger(__name__)

_SAME_SPOT_MM = 0.1
_SAME_SPOT_VOXELS = 0.5  # in plane, for grids finer than 0.2 mm


@dataclass(frozen=True)
class GivenPrompts:
    """All prompts of a case in the network frame, and which of them the network gets.

    Attributes:
        prompts: in the order in which they were given.
        outside: bool (N,), the points outside the crop.
        used: int64 (n,), rows of the points that the network gets, ascending.
    """

    prompts: SlicePrompts
    outside: np.ndarray
    used: np.ndarray

    @classmethod
    def empty(cls) -> GivenPrompts:
        """Nothing was given."""
        return cls(SlicePrompts.empty(), np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64))

    def for_network(self) -> SlicePrompts:
        """What the network gets."""
        return self.prompts.select(self.used)

    def of_class(self, k: int) -> GivenPrompts:
        """The same of what speaks for class `k` (from 0): its rows count the points of that class."""
        own = np.isin(self.prompts.class_index, (k, ALL_CLASSES))
        used = np.searchsorted(np.flatnonzero(own), self.used[own[self.used]])
        return GivenPrompts(self.prompts.for_class(k), self.outside[own], used)


def sort_out(given: SlicePrompts, geometry: ImageGeometry, mapping: CaseMapping, case: str) -> GivenPrompts:
    """Which of the points the network gets.

    Points outside the mapping's crop are left out. Of points of one class and slice that lie within 0.1 mm of each
    other, or half the smallest in-plane voxel spacing where that is less, the first is kept.

    Args:
        given: in the network frame.
        geometry: grid of the raw image.
        mapping: raw voxels to network pixels.
        case: identifier, for the log.
    """
    in_crop = _in_crop(given, mapping)
    inside = np.flatnonzero(in_crop)
    log_outside_crop(case, len(inside), len(given), "points")
    return GivenPrompts(given, ~in_crop, inside[_first_of_spots(given.select(inside), geometry, mapping, case)])


def log_outside_crop(case: str, n_kept: int, n: int, what: str) -> None:
    """Say how many of `n` "points" or "boxes" lie outside the crop, if any do."""
    if n_kept < n:
        logger.info("case %s: %d of %d %s lie outside the cropped region; dropped", case, n - n_kept, n, what)


def _in_crop(prompts: SlicePrompts, mapping: CaseMapping) -> np.ndarray:
    """Which points lie on the part of the image that the mapping keeps: bool (N,)."""
    low = np.array([0, *(lo for lo, _ in mapping.content_box)]) - 0.5
    high = np.array([mapping.n_slices, *(hi for _, hi in mapping.content_box)]) - 0.5
    return np.all((prompts.points_syx >= low) & (prompts.points_syx < high), axis=1)


def _first_of_spots(prompts: SlicePrompts, geometry: ImageGeometry, mapping: CaseMapping, case: str) -> np.ndarray:
    """Rows, int64, without the points of one class and slice that lie on nearly one spot with an earlier one."""
    in_plane_mm = min(geometry.spacing_zyx_mm[axis] for axis in mapping.permutation[1:])
    reach_mm = min(_SAME_SPOT_MM, _SAME_SPOT_VOXELS * in_plane_mm)
    world = geometry.voxel_to_world(mapping.points_to_raw(prompts.points_syx))
    cells = np.floor(world / reach_mm)
    kept: dict[tuple[float, ...], list[int]] = {}
    chosen = []
    groups = zip(prompts.slice_index.tolist(), prompts.class_index.tolist(), cells.tolist(), strict=True)
    for i, (slice_index, class_index, (x, y, z)) in enumerate(groups):
        near = [
            j
            for dx, dy, dz in itertools.product((-1, 0, 1), repeat=3)
            for j in kept.get((slice_index, class_index, x + dx, y + dy, z + dz), ())
        ]
        if near and np.linalg.norm(world[near] - world[i], axis=1).min() <= reach_mm:
            continue
        kept.setdefault((slice_index, class_index, x, y, z), []).append(i)
        chosen.append(i)
    if merged := len(prompts) - len(chosen):
        logger.info(
            "case %s: %d of %d points lie within %g mm of another one; merged", case, merged, len(prompts), reach_mm
        )
    return np.array(chosen, dtype=np.int64)
