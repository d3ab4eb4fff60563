"""How good prompts are before and after distillation, against the masks: the quantity that distillation improves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spdnet.geometry import rescale_points
from spdnet.inference.volume import VolumePrediction
from spdnet.planning import StoredCase
from spdnet.prompts import PromptStatistics, SlicePrompts, count_prompts
from spdnet.prompts.distillation import Consensus


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
        prompts: as they came, in network pixels.
        prediction: made with them.
    """
    masks = np.asarray(case.masks)
    trusted = _trusted(prediction.consensus or [], prediction.saliency.shape[-1], masks.shape[-1])
    return PromptQuality(case.case, count_prompts(prompts, masks), count_prompts(trusted, masks))


def summarise_quality(cases: Sequence[PromptQuality]) -> dict[str, Any]:
    """Precision and recall over all cases and of each, as plain data."""
    total_raw = sum((c.raw for c in cases), PromptStatistics())
    total_distilled = sum((c.distilled for c in cases), PromptStatistics())
    return {
        "all_cases": {"raw": _rates(total_raw), "distilled": _rates(total_distilled)},
        "cases": [{"case": c.case, "raw": _rates(c.raw), "distilled": _rates(c.distilled)} for c in cases],
    }


def _trusted(consensus: Sequence[Consensus], map_size: int, image_size: int) -> SlicePrompts:
    """The trusted points of all classes, each in the slice that it prompts, in network pixels."""
    parts = []
    for k, trusted in enumerate(consensus):
        positions = rescale_points(trusted.points_yx, map_size, image_size)
        points = np.column_stack([trusted.slice_index.astype(np.float64), positions])
        parts.append(SlicePrompts(points, np.full(len(points), k, dtype=np.int64)))
    return SlicePrompts.concatenate(parts)


def _rates(counts: PromptStatistics) -> dict[str, float | int | None]:
    return {
        "points": counts.points,
        "points_inside": counts.points_inside,
        "precision": counts.points_inside / counts.points if counts.points else None,
        "target_slices": counts.target_slices,
        "target_slices_hit": counts.target_slices_hit,
        "recall": counts.target_slices_hit / counts.target_slices if counts.target_slices else None,
    }
