"""A recipe that draws prompts like those that were measured, for training cases that have none."""

from __future__ import annotations

import math
from typing import Any

from spdnet.prompts.statistics import PromptStatistics, prompt_type

_SEVERAL_CURVES = 1.5  # points in each slice that has some


def recipe_like(statistics: PromptStatistics, n_curves: int = 0) -> tuple[str, dict[str, Any], float]:
    """Mode, parameters and dropped share (see `make_recipe`) of simulated points that resemble measured ones.

    Args:
        statistics: of the measured prompts; they must hold points.
        n_curves: curves in their files.

    Returns:
        For centrelines a drifting centreline that leaves as large a share of the target's slices uncovered; for other
        points as many for each slice with target, of which as large a share is bad; where there are fewer points than
        slices with target, in as many of the slices. If most points name none of several classes, those that are drawn
        name none either, and the target is all classes together, where the classes of a slice have equal chances of a
        good point. Then several curves side by side, as one for each class, become points too: an unnamed centreline is
        one.

    Raises:
        ValueError: there are no points.
    """
    if not statistics.points:
        raise ValueError("there are no points to imitate")
    is_centreline = prompt_type(statistics, n_curves) == "centreline"
    names: dict[str, Any] = {}
    if statistics.is_unnamed and statistics.together is not None:
        names, statistics = {"named": False}, statistics.together
        is_centreline &= statistics.points < _SEVERAL_CURVES * statistics.slices_with_points
    if is_centreline:
        return "centreline", {"uncovered": round(1 - statistics.coverage, 2), **names}, 0.0
    density = statistics.points / max(1, statistics.target_slices)
    bad, dropped = (1 - statistics.precision, 0.0) if density >= 1 else _thinned(statistics, density)
    parameters = {"bad": round(bad, 2), "points_per_slice": max(1, round(density)), **names}
    if names:
        parameters["by_class"] = True
    return "bad_points", parameters, round(dropped, 2)


def _thinned(statistics: PromptStatistics, density: float) -> tuple[float, float]:
    """Bad share b and dropped share d at which one point per slice with target becomes fewer, as precise as measured.

    Per slice with target good = (1 - b) (1 - d) and bad = b (1 - t d) points are left, where t is the share of slices
    that have target: points are dropped there alone.
    """
    good = density * statistics.precision
    bad = density - good
    target_share = statistics.target_slices / max(1, statistics.slices)
    middle = 1 - target_share + target_share * good + bad
    b = 2 * bad / (middle + math.sqrt(middle**2 - 4 * (1 - target_share) * bad)) if bad else 0.0
    return b, 1 - good / (1 - b) if b < 1 else 0.0
