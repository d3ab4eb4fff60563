"""Simulated prompts that resemble measured ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spdnet.prompts import PromptStatistics, count_prompts, make_recipe
from spdnet.prompts.imitation import recipe_like

BOX = ((0, 64), (0, 64))
MM = (1.0, 1.0, 3.0)


def tube() -> np.ndarray:
    """A bent tube: bool (40, 1, 64, 64)."""
    rows, columns = np.mgrid[:64, :64]
    masks = np.zeros((40, 1, 64, 64), dtype=bool)
    for s in range(8, 32):
        masks[s, 0] = (rows - 20 - s / 2) ** 2 + (columns - 30 - 5 * np.sin(s / 6)) ** 2 < 49
    return masks


@pytest.mark.parametrize(
    ("mode", "parameters", "dropped_share"),
    [
        ("centreline", {"uncovered": 0.5, "drift_mm": 1.0}, 0.0),
        ("centreline", {"uncovered": 0.0, "drift_mm": 1.0}, 0.0),
        ("bad_points", {"bad": 0.75, "points_per_slice": 4}, 0.0),
        ("bad_points", {"bad": 0.7, "points_per_slice": 1}, 0.6),
        ("recipe", {}, 0.0),
    ],
)
def test_what_is_drawn_has_the_coverage_and_precision_that_were_measured(
    mode: str, parameters: dict, dropped_share: float
) -> None:
    masks = tube()

    def measured(*arguments: Any) -> PromptStatistics:
        recipe = make_recipe(*arguments)
        drawn = [recipe.draw(masks, BOX, MM, np.random.default_rng(seed)) for seed in range(20)]
        return sum((count_prompts(d, masks, MM) for d in drawn), PromptStatistics())

    wanted = measured(mode, parameters, dropped_share)
    like = recipe_like(wanted)
    found = measured(*like)
    assert (like[0] == "centreline") == (mode == "centreline")
    if mode == "centreline":
        assert found.coverage == pytest.approx(wanted.coverage, abs=0.06)
    else:
        assert found.precision == pytest.approx(wanted.precision, abs=0.06)
        assert found.points == pytest.approx(wanted.points, rel=0.15)


def test_curves_in_files_are_centrelines_whatever_they_look_like() -> None:
    scattered = PromptStatistics(points=100, points_inside=40, target_slices=50, target_slices_hit=30)
    assert recipe_like(scattered, n_curves=2) == ("centreline", {"uncovered": 0.4}, 0.0)
    assert recipe_like(scattered) == ("bad_points", {"bad": 0.6, "points_per_slice": 2}, 0.0)
    few = PromptStatistics(points=10, points_inside=10, target_slices=50, target_slices_hit=10)
    assert recipe_like(few) == ("bad_points", {"bad": 0.0, "points_per_slice": 1}, 0.8)


def test_there_must_be_points() -> None:
    with pytest.raises(ValueError, match="no points to imitate"):
        recipe_like(PromptStatistics(boxes=3))
