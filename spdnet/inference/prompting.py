"""From saliency and noisy points to what the mask decoder is asked, for one volume.

Training and inference both build their decoder rows here, so that the decoder is trained on exactly the
kind of rows that it will be given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spdnet.geometry import rescale_points
from spdnet.planning.plans import DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.distillation import Consensus, distill_prompts, limit_points, raw_prompts


@dataclass(frozen=True)
class DecoderRows:
    """What the decoder is asked: one row per (slice, class), sorted by class, then slice.

    Attributes:
        slice_index, class_index: int64 (R,).
        points_yx: float32 (R, P, 2), y, x in network pixels, padded with zeros.
        point_is_real: bool (R, P).
    """

    slice_index: np.ndarray
    class_index: np.ndarray
    points_yx: np.ndarray
    point_is_real: np.ndarray

    def __len__(self) -> int:
        return len(self.slice_index)


def distill_volume(
    prompts: SlicePrompts, saliency: np.ndarray, image_size: int, settings: DistillationSettings
) -> list[Consensus]:
    """Run CPD for every class of a volume.

    Args:
        prompts: points in network pixels.
        saliency: float (S, k, M, M), in [0, 1].
        image_size: side of the network's slices.
        settings: of the plans.

    Returns:
        One consensus per class; its `points_yx` are in pixels of the saliency map.
    """
    results = []
    for k in range(saliency.shape[1]):
        points = prompts.for_class(k).points_syx.copy()
        points[:, 1:] = rescale_points(points[:, 1:], image_size, saliency.shape[-1])
        if settings.mode == "raw":
            consensus = raw_prompts(points, len(saliency))
        else:
            consensus = distill_prompts(points, saliency[:, k], settings.tau, settings.n_context)
        results.append(limit_points(consensus, settings.max_points))
    return results


def decoder_rows(
    consensus: list[Consensus], saliency: np.ndarray, image_size: int, settings: DistillationSettings
) -> DecoderRows:
    """Which slices and classes are decoded, with which points.

    A slice with trusted points always is. One without is where the plans say "decode" and any of its pixels is
    salient; raw prompts decode every slice.
    """
    n_slices, n_classes, mask_size, _ = saliency.shape
    slices, classes, points = [], [], []
    for k in range(n_classes):
        decoded = consensus[k].slices_with_points(n_slices)
        if settings.mode == "raw":
            decoded = np.ones(n_slices, dtype=bool)
        elif settings.empty_consensus == "decode":
            decoded = decoded | (saliency[:, k].max(axis=(1, 2)) > settings.tau)
        for s in np.flatnonzero(decoded).tolist():
            slices.append(s)
            classes.append(k)
            points.append(rescale_points(consensus[k].in_slice(s), mask_size, image_size))
    longest = max((len(p) for p in points), default=0)
    padded = np.zeros((len(points), longest, 2), dtype=np.float32)
    is_real = np.zeros((len(points), longest), dtype=bool)
    for row, own in enumerate(points):
        padded[row, : len(own)] = own
        is_real[row, : len(own)] = True
    return DecoderRows(np.array(slices, dtype=np.int64), np.array(classes, dtype=np.int64), padded, is_real)
