"""How many points prompts have and how many of them are right, as counts that add up over cases."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from spdnet.geometry import nearest_index
from spdnet.prompts.points import SlicePrompts


@dataclass(frozen=True)
class PromptStatistics:
    """Counts over one or several cases; `+` adds them, a fresh object counts nothing.

    Every class is a problem of its own: slices are counted once per class, and a point that speaks for all
    classes is counted for each of them.

    Attributes:
        points: points in slices of the volume.
        points_inside: points in a pixel of the target.
        slices: slices.
        slices_with_points: slices with at least one point.
        target_slices: slices with target.
        target_slices_hit: slices with target that have a point inside it.
    """

    points: int = 0
    points_inside: int = 0
    slices: int = 0
    slices_with_points: int = 0
    target_slices: int = 0
    target_slices_hit: int = 0

    def __add__(self, other: PromptStatistics) -> PromptStatistics:
        return PromptStatistics(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def as_floats(self) -> dict[str, float]:
        """Rates and counts under names for a JSON file; a rate of nothing is 0, and the counts tell."""
        return {
            "points_per_slice": _rate(self.points, self.slices),
            "share_of_slices_with_points": _rate(self.slices_with_points, self.slices),
            "share_of_points_inside": _rate(self.points_inside, self.points),
            "share_of_target_slices_hit": _rate(self.target_slices_hit, self.target_slices),
            **{f.name: float(getattr(self, f.name)) for f in fields(self)},
        }


def count_prompts(prompts: SlicePrompts, masks: np.ndarray) -> PromptStatistics:
    """Count the prompts of one case against its masks.

    Args:
        prompts: points in the frame of `masks`.
        masks: bool or uint8 (slices, classes, rows, columns).
    """
    total = PromptStatistics()
    for k in range(masks.shape[1]):
        total = total + _count_class(prompts.for_class(k), masks[:, k])
    return total


def prompt_statistics(prompts: SlicePrompts, masks: np.ndarray) -> dict[str, float]:
    """Rates and counts of one case; see `PromptStatistics.as_floats` and `count_prompts`."""
    return count_prompts(prompts, masks).as_floats()


def _count_class(prompts: SlicePrompts, masks: np.ndarray) -> PromptStatistics:
    """Counts for one class; `masks` is (slices, rows, columns)."""
    masks = masks.astype(bool, copy=False)
    pixels = nearest_index(prompts.points_syx)
    pixels = pixels[(pixels[:, 0] >= 0) & (pixels[:, 0] < len(masks))]
    in_square = np.all((pixels >= 0) & (pixels < masks.shape), axis=1)
    inside = np.zeros(len(pixels), dtype=bool)
    inside[in_square] = masks[tuple(pixels[in_square].T)]
    return PromptStatistics(
        points=len(pixels),
        points_inside=int(inside.sum()),
        slices=len(masks),
        slices_with_points=len(np.unique(pixels[:, 0])),
        target_slices=int(masks.any(axis=(1, 2)).sum()),
        target_slices_hit=len(np.unique(pixels[inside, 0])),
    )


def _rate(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
