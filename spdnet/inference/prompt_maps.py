"""The maps that a network's dense prompt is made of, for rows of one volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spdnet.geometry import nearest_index, rescale_points
from spdnet.inference.prompting import DecoderRows
from spdnet.network import SPDNetwork

SIGMAS_ACROSS = 28  # a point's Gaussian has a standard deviation of 1/28 of the image's side


@dataclass(frozen=True)
class PromptMaps:
    """What is known of a volume beside its embeddings.

    Attributes:
        points_syx: for each class all its points, float64 (N, 3), slice, y, x in pixels of the maps.
        saliency: float (S, k, M, M), in [0, 1]. Slices may be missing yet that lie farther than `n_slices` from those
            that maps are asked for.
        n_slices: slices to either side whose maps count.
        image_size: side of the network's slices, pixels.
    """

    points_syx: Sequence[np.ndarray]
    saliency: np.ndarray
    n_slices: int
    image_size: int

    @classmethod
    def of(cls, network: SPDNetwork, points_syx: Sequence[np.ndarray], saliency: np.ndarray) -> PromptMaps | None:
        """Those that a network asks for, or None if it has no dense prompt."""
        if network.dense_prompt is None:
            return None
        return cls(points_syx, saliency, network.dense_prompt.n_slices, network.image_size)

    def of_rows(self, rows: DecoderRows, device: torch.device) -> torch.Tensor:
        """Maps float32 (R, n_maps, M, M) of rows, as `DensePrompt` takes them; 0 in slices that the volume lacks."""
        n_slices, _, size, _ = self.saliency.shape
        window = rows.slice_index[:, None] + np.arange(-self.n_slices, self.n_slices + 1)
        is_there = (window >= 0) & (window < n_slices)
        needed, place = np.unique(window.clip(0, n_slices - 1), return_inverse=True)
        place = place.reshape(window.shape)
        own = rescale_points(rows.points_yx[rows.point_is_real], self.image_size, size)
        maps = [heat_maps(np.nonzero(rows.point_is_real)[0], own, len(rows), size, device)[:, None]]
        around = torch.zeros(2, *window.shape, size, size, device=device)
        for k in np.unique(rows.class_index).tolist():
            points, saliency = self.points_syx[k], np.array(self.saliency[needed, k], dtype=np.float32)
            slices = nearest_index(points[:, 0])
            used = np.isin(slices, needed)
            heat = heat_maps(np.searchsorted(needed, slices[used]), points[used, 1:], len(needed), size, device)
            chosen = np.nonzero((rows.class_index == k)[:, None] & is_there)
            at = torch.from_numpy(place[chosen]).to(device)
            where = tuple(torch.from_numpy(index).to(device) for index in chosen)
            around[0][where] = heat[at]
            around[1][where] = torch.from_numpy(saliency).to(device)[at]
        return torch.cat([*maps, around[0], around[1]], dim=1)


def heat_maps(
    slice_index: np.ndarray, points_yx: np.ndarray, n_slices: int, size: int, device: torch.device
) -> torch.Tensor:
    """Points as images: float32 (n_slices, size, size), in [0, 1].

    Each point is a Gaussian of height 1 and standard deviation `size / SIGMAS_ACROSS` pixels; where several overlap the
    highest counts.

    Args:
        slice_index: int64 (N,), from 0 to `n_slices` - 1.
        points_yx: float (N, 2), in pixels of the maps.
    """
    centres = torch.from_numpy(points_yx).to(device, torch.float32)
    distance = torch.arange(size, device=device) - centres[..., None]  # (N, 2, size): rows, columns
    profiles = torch.exp(-0.5 * (distance * SIGMAS_ACROSS / size) ** 2)
    blobs = (profiles[:, 0, :, None] * profiles[:, 1, None, :]).flatten(1)
    slices = torch.from_numpy(slice_index).to(device)[:, None].expand_as(blobs)
    found = torch.zeros(n_slices, size**2, device=device).scatter_reduce(0, slices, blobs, "amax")
    return found.view(n_slices, size, size)
