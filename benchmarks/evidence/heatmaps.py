"""Points as images on the raw grid: a Gaussian around every point, for programs that read it as a further channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spdnet.geometry import CaseMapping, nearest_index
from spdnet.inference.prompt_maps import SIGMAS_ACROSS

_REACH = 4  # standard deviations


def raw_heat_map(points_syx: np.ndarray, mapping: CaseMapping) -> np.ndarray:
    """Gaussians as wide in mm as those of `evidence.slices.heat_maps`, each in its point's slice alone.

    Args:
        points_syx: float (N, 3), slice, y, x in network pixels.
        mapping: of the case.

    Returns:
        float32 (z, y, x) on the raw grid, in [0, 1].
    """
    sigma = np.zeros(3)
    sigma[list(mapping.permutation[1:])] = mapping.image_size / SIGMAS_ACROSS / np.array(mapping.scale)
    return heat_map(mapping.points_to_raw(points_syx), mapping.raw_shape_zyx, sigma.tolist())


def shifted(array: np.ndarray, axis: int, offset: int) -> np.ndarray:
    """An array in which every slice along an axis is the one `offset` further on; zeros where there is none."""
    moved = np.zeros_like(array)
    n = array.shape[axis]
    if abs(offset) < n:
        index, source = [slice(None)] * array.ndim, [slice(None)] * array.ndim
        index[axis], source[axis] = (slice(max(0, -s), n - max(0, s)) for s in (offset, -offset))
        moved[tuple(index)] = array[tuple(source)]
    return moved


def heat_map(points: np.ndarray, shape: Sequence[int], sigma: Sequence[float]) -> np.ndarray:
    """Gaussians of height 1 around points, the highest where several overlap.

    Args:
        points: float (N, 3), continuous indices into the array; voxel centres are integers.
        shape: of the array.
        sigma: standard deviation along each axis, voxels; 0: the point is in its nearest voxel alone.

    Returns:
        float32 of that shape, in [0, 1]; 0 farther than four standard deviations from every point.
    """
    heat = np.zeros(tuple(shape), dtype=np.float32)
    for point in np.asarray(points, dtype=np.float64).reshape(-1, 3):
        profiles, window = [], []
        for centre, size, width in zip(point, shape, sigma, strict=True):
            nearest, reach = int(nearest_index(centre)), int(np.ceil(_REACH * width))
            first, stop = np.clip([nearest - reach, nearest + reach + 1], 0, size).tolist()
            offsets = np.arange(first, stop) - centre
            profiles.append(np.exp(-0.5 * (offsets / width) ** 2) if width else np.ones(stop - first))
            window.append(slice(first, stop))
        own = heat[tuple(window)]
        own[:] = np.maximum(own, np.einsum("a,b,c->abc", *profiles))
    return heat
