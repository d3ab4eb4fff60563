"""Test-time mirroring: one volume predicted in every mirrored copy, the probabilities averaged.

Only the geometry of mirroring is owned here: slices, points and maps are turned the same way, and back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from spdnet.inference.volume import VolumePrediction, predict_volume
from spdnet.network import SPDNetwork
from spdnet.planning.plans import DistillationSettings
from spdnet.prompts import SlicePrompts

IN_PLANE_AXES = (0, 1)  # rows, columns


def mirror_combinations(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All sets of axes to mirror, but the empty one: (0, 1) gives (0,), (1,) and (0, 1)."""
    return [c for n in range(1, len(axes) + 1) for c in itertools.combinations(axes, n)]


def mirror_maps(maps: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Mirror arrays (..., rows, columns) along in-plane axes, 0 rows and 1 columns; a view, its own inverse."""
    return np.flip(maps, tuple(axis - 2 for axis in axes))


def mirror_prompts(prompts: SlicePrompts, axes: Sequence[int], image_size: int) -> SlicePrompts:
    """Mirror points with their slices: a coordinate v of a mirrored axis becomes `image_size` - 1 - v."""
    points = prompts.points_syx.copy()
    columns = [axis + 1 for axis in axes]  # behind the slice
    points[:, columns] = image_size - 1 - points[:, columns]
    return SlicePrompts(points, prompts.class_index, prompts.boxes.mirrored(axes, image_size))


def predict_mirrored(
    network: SPDNetwork,
    slices: np.ndarray,
    prompts: SlicePrompts | None,
    settings: DistillationSettings,
    batch_size: int,
    device: torch.device,
    mirroring_axes: Sequence[int] | None,
    content_share: float = 1.0,
) -> VolumePrediction:
    """`predict_volume`, averaged over the mirrored copies of the volume; the other arguments are its own.

    Every copy distils its own mirrored prompts, but the volume as it is decides whether its points look random.
    nnU-Net averages logits here; spdnet averages probabilities, because what is not decoded has no logit.

    Args:
        mirroring_axes: in-plane axes to mirror, 0 rows and 1 columns; None or empty is plain `predict_volume`.

    Returns:
        The prediction of the volume as it is, with averaged probabilities; its saliency and consensus are those of
        the volume as it is.
    """
    how = settings, batch_size, device, content_share
    prediction = predict_volume(network, slices, prompts, *how)
    combinations = mirror_combinations(mirroring_axes or ())
    if not combinations:
        return prediction
    total = prediction.probabilities.copy()
    for axes in combinations:
        turned = mirror_prompts(prompts, axes, slices.shape[-1]) if prompts is not None else None
        copy = predict_volume(network, mirror_maps(slices, axes), turned, *how, prediction.random)
        total += mirror_maps(copy.probabilities, axes)
    return replace(prediction, probabilities=total / np.float32(len(combinations) + 1))
