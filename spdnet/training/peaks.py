"""Whether the peak of the saliency can stand in for a trusted point: decided by the training cases after stage 1.

Where the saliency lights up on the target alone, its peak is on the target in slices that no trusted point reaches
too, and gives the decoder the kind of prompt it knows. Where it lights up on something that looks like the target, the
slices without trusted points are those of the other structure, and the peak leads astray.
"""

from __future__ import annotations

import numpy as np

from spdnet.geometry import nearest_index, rescale_points
from spdnet.inference.prompting import distill_volume, distill_volume_boxes, saliency_peak
from spdnet.planning import SPDSettings
from spdnet.training.embedding_store import StoredVariant
from spdnet.training.prompt_source import draw_prompts

_DRAWS = 3  # of prompts for each case
_SEED = 2  # beside the training's


def measure_peak_precision(variants: list[StoredVariant], settings: SPDSettings, seed: int) -> np.ndarray:
    """How often the peak of a training slice without trusted points is on the target.

    Args:
        variants: one of each training case.
        settings: of the plans.
        seed: of the training.

    Returns:
        float32 (k,), for each class the share of peaks inside its mask; 1 where no slice needed one. Pixels with the
        ignore label do not count.
    """
    n_classes = variants[0].saliency.shape[1] if variants else 0
    hits, peaks = np.zeros(n_classes, dtype=np.int64), np.zeros(n_classes, dtype=np.int64)
    rng = np.random.default_rng([seed, _SEED])
    for variant in variants:
        for _ in range(_DRAWS):
            class_index, on_target = _peaks_of(variant, settings, rng)
            hits += np.bincount(class_index[on_target], minlength=n_classes)
            peaks += np.bincount(class_index, minlength=n_classes)
    return np.where(peaks > 0, hits / np.maximum(peaks, 1), 1).astype(np.float32)


def _peaks_of(variant: StoredVariant, settings: SPDSettings, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Peaks of the slices without trusted prompts: class int64 (n,), and whether each is in its mask, bool (n,)."""
    saliency, rule = np.asarray(variant.saliency, dtype=np.float32), settings.distillation
    n_slices, n_classes, mask_size, _ = saliency.shape
    prompts = variant.move(draw_prompts(variant.case, settings.prompts, rng))
    consensus = distill_volume(prompts, saliency, settings.image_size, rule)
    boxes = distill_volume_boxes(prompts, saliency, settings.image_size, rule)
    classes, on_target = [], []
    for k in range(n_classes):
        boxed = ~np.isnan(boxes[k].box_of_slices(n_slices)[:, 0])
        for s in np.flatnonzero(~(consensus[k].slices_with_points(n_slices) | boxed)).tolist():
            peak = saliency_peak(saliency[s, k], rule.tau)
            for y, x in nearest_index(rescale_points(peak, mask_size, settings.image_size)).tolist():
                if variant.valid is None or variant.valid[s, y, x]:
                    classes.append(k)
                    on_target.append(bool(variant.masks[s, k, y, x]))
    return np.array(classes, dtype=np.int64), np.array(on_target, dtype=bool)
