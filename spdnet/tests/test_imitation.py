"""Simulated prompts that resemble measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from spdnet.geometry import nearest_index
from spdnet.prompts import PromptStatistics, SlicePrompts, count_prompts, make_recipe
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


def two_tubes() -> np.ndarray:
    """Two tubes side by side, in part of the slices both: bool (40, 2, 64, 64)."""
    one = tube()[:, 0]
    other = np.roll(one, (2, 22), axis=(0, 2))
    assert not (one & other).any()
    return np.stack([one, other], axis=1)


def drawn(masks: np.ndarray, *arguments: Any) -> list[SlicePrompts]:
    recipe = make_recipe(*arguments)
    return [recipe.draw(masks, BOX, MM, np.random.default_rng(seed)) for seed in range(20)]


def counted(masks: np.ndarray, prompts: Sequence[SlicePrompts]) -> PromptStatistics:
    return sum((count_prompts(p, masks, MM) for p in prompts), PromptStatistics())


def on_the_other_class(masks: np.ndarray, prompts: Sequence[SlicePrompts]) -> float:
    """Of the points that are not on a class that they speak for, the share that is on the other."""
    found = []
    for p in prompts:
        s, y, x = nearest_index(p.points_syx).T
        for k in range(2):
            bad = ((p.class_index == k) | (p.class_index == -1)) & ~masks[s, k, y, x]
            found += masks[s, 1 - k, y, x][bad].tolist()
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("mode", "parameters", "dropped_share"),
    [
        ("true_points", {"points_per_slice": 1}, 0.0),
        ("bad_points", {"bad": 0.5, "points_per_slice": 2}, 0.0),
        ("bad_points", {"bad": 0.3, "points_per_slice": 1}, 0.7),
        ("recipe", {}, 0.0),
        ("recipe", {"named": False}, 0.0),
    ],
)
def test_points_that_name_no_class_are_imitated_by_such_points(
    mode: str, parameters: dict, dropped_share: float
) -> None:
    masks = two_tubes()
    files = [p.for_all_classes() for p in drawn(masks, mode, parameters, dropped_share)]
    wanted = counted(masks, files)
    like = recipe_like(wanted)
    imitated = drawn(masks, *like)
    found = counted(masks, imitated)
    assert like[0] == "bad_points"
    assert all((p.class_index == -1).all() for p in imitated)
    assert found.points == pytest.approx(wanted.points, rel=0.15)
    assert found.precision == pytest.approx(wanted.precision, abs=0.06)
    assert on_the_other_class(masks, imitated) == pytest.approx(on_the_other_class(masks, files), abs=0.06)


def test_a_small_class_has_its_share_of_points_without_a_name() -> None:
    masks = np.zeros((40, 2, 64, 64), dtype=bool)
    masks[5:35, 0, 5:45, 5:45], masks[5:35, 1, 50:54, 50:54] = True, True
    files = [p.for_all_classes() for p in drawn(masks, "bad_points", {"bad": 0.2, "points_per_slice": 1})]
    imitated = drawn(masks, *recipe_like(counted(masks, files)))

    def on_small(prompts: Sequence[SlicePrompts]) -> float:
        inside = [masks[:, 1][tuple(nearest_index(p.points_syx).T)] for p in prompts]
        return float(np.concatenate(inside).mean())

    assert on_small(imitated) == pytest.approx(on_small(files), abs=0.04)


def test_one_unnamed_curve_is_imitated_by_one_and_several_by_points() -> None:
    masks = two_tubes()
    files = drawn(masks, "centreline", {"uncovered": 0.3, "named": False})
    mode, parameters, _ = like = recipe_like(counted(masks, files), n_curves=20)
    assert mode == "centreline" and parameters["named"] is False
    imitated = drawn(masks, *like)
    found, wanted = (counted(masks, prompts).together for prompts in (imitated, files))
    assert found is not None and wanted is not None
    assert found.coverage == pytest.approx(wanted.coverage, abs=0.06)
    assert all((p.class_index == -1).all() for p in imitated)
    side_by_side = [p.for_all_classes() for p in drawn(masks, "centreline", {"uncovered": 0.0, "overrun_mm": 0.0})]
    shared = np.flatnonzero(masks.any(axis=(2, 3)).all(axis=1))
    both = [p.select(np.isin(p.slice_index, shared)) for p in side_by_side]
    mode, parameters, _ = recipe_like(counted(masks[shared], [p.of_slices(shared[0], 40) for p in both]), n_curves=40)
    assert (mode, parameters) == ("bad_points", {"bad": 0.0, "points_per_slice": 2, "named": False, "by_class": True})


def test_it_is_most_points_that_decide_about_names() -> None:
    masks = two_tubes()
    named = drawn(masks, "true_points", {"points_per_slice": 1})
    unnamed = [p.for_all_classes() for p in named]
    assert recipe_like(counted(masks, named[:12] + unnamed[12:]))[1] == {"bad": 0.29, "points_per_slice": 1}
    assert recipe_like(counted(masks, named[:8] + unnamed[8:]))[1]["named"] is False
    alone = [p.for_all_classes() for p in drawn(tube(), "true_points", {"points_per_slice": 1})]
    assert "named" not in recipe_like(counted(tube(), alone))[1], "one class needs no name"
