"""How good prompts are before and after distillation, against the masks: the quantity that distillation improves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spdnet.geometry import rescale_points
from spdnet.inference.volume import VolumePrediction
from spdnet.planning import StoredCase
from spdnet.prompts import PromptStatistics, SliceBoxes, SlicePrompts, count_prompts


@dataclass(frozen=True)
class PromptQuality:
    """Counts of one case, of its prompts as they came and of those that distillation left."""

    case: str
    raw: PromptStatistics
    distilled: PromptStatistics


def prompt_quality(case: StoredCase, prompts: SlicePrompts, prediction: VolumePrediction) -> PromptQuality:
    """Count the points of a preprocessed case against its masks.

    Args:
        case: with masks.
        prompts: points and boxes as they came, in network pixels.
        prediction: made with them.
    """
    masks = np.asarray(case.masks)
    trusted = _trusted(prediction, masks.shape[-1])
    return PromptQuality(case.case, count_prompts(prompts, masks), count_prompts(trusted, masks))


def summarise_quality(cases: Sequence[PromptQuality]) -> dict[str, Any]:
    """Precision and recall over all cases and of each, as plain data."""
    total_raw = sum((c.raw for c in cases), PromptStatistics())
    total_distilled = sum((c.distilled for c in cases), PromptStatistics())
    return {
        "all_cases": {"raw": _rates(total_raw), "distilled": _rates(total_distilled)},
        "cases": [{"case": c.case, "raw": _rates(c.raw), "distilled": _rates(c.distilled)} for c in cases],
    }


def _trusted(prediction: VolumePrediction, image_size: int) -> SlicePrompts:
    """The trusted points and boxes of all classes, each in the slice that it prompts, in network pixels."""
    map_size, n_slices = prediction.saliency.shape[-1], len(prediction.saliency)
    parts = []
    for k, trusted in enumerate(prediction.consensus or []):
        positions = rescale_points(trusted.points_yx, map_size, image_size)
        points = np.column_stack([trusted.slice_index.astype(np.float64), positions])
        parts.append(SlicePrompts(points, np.full(len(points), k, dtype=np.int64)))
    for k, trusted_boxes in enumerate(prediction.boxes or []):
        edges = trusted_boxes.box_of_slices(n_slices)  # the one box that SAM is given
        slices = np.flatnonzero(~np.isnan(edges[:, 0]))
        scaled = rescale_points(edges[slices].reshape(-1, 2), map_size, image_size).reshape(-1, 4)
        boxes = SliceBoxes(slices, scaled, np.full(len(slices), k, dtype=np.int64))
        parts.append(replace(SlicePrompts.empty(), boxes=boxes))
    return SlicePrompts.concatenate(parts)


def _rates(counts: PromptStatistics) -> dict[str, float | int | None]:
    points: dict[str, float | int | None] = {
        "points": counts.points,
        "points_inside": counts.points_inside,
        "precision": counts.points_inside / counts.points if counts.points else None,
        "target_slices": counts.target_slices,
        "target_slices_hit": counts.target_slices_hit,
        "recall": counts.target_slices_hit / counts.target_slices if counts.target_slices else None,
    }
    if not counts.boxes:
        return points
    return {
        **points,
        "boxes": counts.boxes,
        "boxes_on_target": counts.boxes_on_target,
        "mean_box_iou": counts.mean_box_iou,
    }
