"""Coarse boxes: eight corners in the world, and their cut into boxes of slices in the network frame."""

from __future__ import annotations

import itertools

import numpy as np

from spdnet.errors import PromptFileError
from spdnet.geometry import CaseMapping, nearest_index
from spdnet.prompts.points import ALL_CLASSES, SliceBoxes

_SIDES = np.array(
    list(itertools.product((0.0, 1.0), repeat=3))
)  # corner n: which end along the first, second, third axis
_TOLERANCE = 1e-6  # of a slice: a box that ends on a centre plane holds it
_LEAST_EXTENT_PIXELS = 1e-6


def corners_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Corners float64 (8, 3) of the upright box between two opposite corners (3,), in any order.

    The third axis runs fastest: 0 is the lowest corner, 1, 2 and 4 are its neighbours along the third, second and first
    axis, 7 is the highest.
    """
    low, high = np.minimum(first, second), np.maximum(first, second)
    return low + _SIDES * (high - low)


def oriented_corners(center: np.ndarray, size: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Corners float64 (8, 3), in the order of `corners_between`, of a box with the columns of `axes` (3, 3) as axes."""
    return center + ((_SIDES - 0.5) * size) @ axes.T


def center_size_axes(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inverse of `oriented_corners`: center (3,), size (3,), axes (3, 3).

    Raises:
        ValueError: the corners are not of a box with right angles, or more than one of its edges has no length.
    """
    edges = np.stack([corners[4] - corners[0], corners[2] - corners[0], corners[1] - corners[0]], axis=1)
    size = np.linalg.norm(edges, axis=0)
    flat = np.flatnonzero(size == 0)
    if len(flat) > 1:
        raise ValueError("a box needs at least two edges with length")
    axes = edges / np.where(size == 0, 1.0, size)
    for axis in flat:
        axes[:, axis] = np.cross(axes[:, (axis + 1) % 3], axes[:, (axis + 2) % 3])
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        raise ValueError("a box whose edges are not at right angles")
    return corners.mean(axis=0), size, axes


def overlaps_image(corners_zyx: np.ndarray, shape_zyx: tuple[int, int, int]) -> bool:
    """Whether the upright box around corners (8, 3), in voxels, shares more than its rim with the image."""
    low, high = corners_zyx.min(axis=0), corners_zyx.max(axis=0)
    return bool(np.all((high > -0.5) & (low < np.asarray(shape_zyx) - 0.5)))


def check_extent(corners_syx: np.ndarray, box: str) -> None:
    """Refuse a box that is a line or a dot in the slices, corners (8, 3) in the network frame.

    Raises:
        PromptFileError: it is; `box` is what the message calls it.
    """
    if np.ptp(corners_syx, axis=0)[1:].min() < _LEAST_EXTENT_PIXELS:
        raise PromptFileError(
            f"{box} has no extent within the slices, which may run another way than the slice it was drawn in. Give "
            "it a thickness"
        )


def cut_into_slices(corners_syx: np.ndarray, mapping: CaseMapping, class_index: int = ALL_CLASSES) -> SliceBoxes:
    """One upright box for each slice whose centre plane the box holds, or for the nearest slice if it holds none.

    Args:
        corners_syx: float64 (8, 3) in the network frame.
        mapping: of the case; boxes are cut to the part of the image that it keeps.
        class_index: foreground class that the box speaks for, -1 for all.

    Returns:
        The boxes by ascending slice, all with the same edges: those around the corners as seen along the slicing
        axis, so that a box that is tilted against the slices stays coarse. None if it lies outside the kept part.
    """
    low, high = corners_syx.min(axis=0), corners_syx.max(axis=0)
    first, last = int(np.ceil(low[0] - _TOLERANCE)), int(np.floor(high[0] + _TOLERANCE))
    if first > last:
        first = last = int(nearest_index((low[0] + high[0]) / 2))
    slices = np.arange(max(first, 0), min(last, mapping.n_slices - 1) + 1, dtype=np.int64)
    (top, bottom), (left, right) = mapping.content_box
    edges = np.array(
        [
            max(low[1], top - 0.5),
            max(low[2], left - 0.5),
            min(high[1], bottom - 0.5),
            min(high[2], right - 0.5),
        ]
    )
    if edges[2] <= edges[0] or edges[3] <= edges[1]:
        return SliceBoxes.empty()
    return SliceBoxes(slices, np.tile(edges, (len(slices), 1)), np.full(len(slices), class_index, dtype=np.int64))
