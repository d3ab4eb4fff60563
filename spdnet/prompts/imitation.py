"""A recipe that draws prompts like those that were measured, for training cases that have none."""

from __future__ import annotations

from typing import Any

from spdnet.prompts.statistics import PromptStatistics, prompt_type


def recipe_like(statistics: PromptStatistics, n_curves: int = 0) -> tuple[str, dict[str, Any]]:
    """Mode and parameters (see `make_recipe`) of simulated points that resemble measured ones.

    Args:
        statistics: of the measured prompts; they must hold points.
        n_curves: curves in their files.

    Returns:
        For centrelines a drifting centreline that leaves as large a share of the target's slices uncovered; for other
        points as many for each slice with target, of which as large a share is bad.

    Raises:
        ValueError: there are no points.
    """
    if not statistics.points:
        raise ValueError("there are no points to imitate")
    if prompt_type(statistics, n_curves) == "centreline":
        return "centreline", {"uncovered": round(1 - statistics.coverage, 2)}
    density = max(1, round(statistics.points / max(1, statistics.target_slices)))
    return "bad_points", {"bad": round(1 - statistics.precision, 2), "points_per_slice": density}
