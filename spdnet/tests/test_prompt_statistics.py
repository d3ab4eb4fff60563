"""Statistics of prompts beyond plain counts: boxes, distances, smoothness, and the type that follows from them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from spdnet.prompts import PromptStatistics, SliceBoxes, SlicePrompts, count_prompts, make_recipe, prompt_type

MM = (0.5, 2.0, 3.0)  # rows, columns, slices


def points_of(points: Any, k: int = 0) -> SlicePrompts:
    """Points of one class."""
    array = np.array(points, dtype=np.float64).reshape(-1, 3)
    return SlicePrompts(array, np.full(len(array), k, dtype=np.int64))


def boxes_of(slices: list[int], boxes: Any, classes: list[int]) -> SlicePrompts:
    """Boxes and no points."""
    nothing = SlicePrompts.empty()
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return SlicePrompts(nothing.points_syx, nothing.class_index, SliceBoxes(np.array(slices), array, np.array(classes)))


def tube_masks() -> np.ndarray:
    """bool (40, 1, 64, 64): a bending tube in slices 8 to 31."""
    y, x = np.mgrid[:64, :64]
    masks = np.zeros((40, 1, 64, 64), dtype=bool)
    for s in range(8, 32):
        masks[s, 0] = (y - 30 - 12 * np.sin(s / 6)) ** 2 + (x - 25) ** 2 <= 6**2
    return masks


def test_boxes_are_counted_by_hand() -> None:
    masks = np.zeros((5, 2, 20, 20), dtype=bool)
    masks[1:4, 0, 2:6, 2:6] = True
    prompts = boxes_of(
        [0, 1, 1, 2, 2, 9],
        [[0, 0, 5, 5], [1.5, 1.5, 5.5, 5.5], [1.5, 1.5, 5.5, 9.5], [10, 10, 12, 12], [0, 0, 1, 1], [0, 0, 1, 1]],
        [0, 0, 0, 0, 1, 0],
    )
    statistics = count_prompts(prompts, masks)
    assert (statistics.boxes, statistics.slices_with_boxes) == (5, 4)  # one of them for class 1
    assert (statistics.boxes_on_target, statistics.target_slices_with_boxes) == (3, 2)
    assert statistics.mean_box_iou == pytest.approx((1 + 0.5 + 0) / 3)
    assert statistics.box_coverage == 2 / 3
    rates = statistics.as_floats()
    assert rates["mean_box_iou"] == pytest.approx(0.5) and rates["share_of_target_slices_with_box"] == 2 / 3
    assert rates["boxes"] == 5.0


def test_boxes_for_all_classes_count_for_each() -> None:
    masks = np.ones((2, 2, 4, 4), dtype=bool)
    statistics = count_prompts(boxes_of([0], [[-0.5, -0.5, 3.5, 3.5]], [-1]), masks)
    assert (statistics.boxes, statistics.box_iou_sum) == (2, 2.0)


def test_precision_coverage_and_quality() -> None:
    statistics = PromptStatistics(points=10, points_inside=4, target_slices=5, target_slices_hit=3)
    assert (statistics.precision, statistics.coverage) == (0.4, 0.6)
    assert statistics.quality == pytest.approx(2 * 0.24 / 1.0)
    nothing = PromptStatistics()
    assert (nothing.precision, nothing.coverage, nothing.quality, nothing.mean_box_iou) == (0, 0, 0, 0)


def test_distances_are_those_in_space_and_in_mm() -> None:
    masks = np.zeros((9, 1, 32, 32), dtype=bool)
    masks[4, 0, 10:20, 10:20] = True
    for point, distance in (([4, 15, 22], 6.0), ([4, 25, 15], 3.0), ([2, 15, 15], 6.0), ([6, 27, 21], np.sqrt(68))):
        statistics = count_prompts(points_of(point), masks, MM)
        assert statistics.median_outside_mm == pytest.approx(distance, rel=0.2)
        assert sum(statistics.outside_distance_counts) == 1
    inside = count_prompts(points_of([4, 15, 15]), masks, MM)
    assert inside.median_outside_mm is None and inside.outside_distance_counts == ()
    assert count_prompts(points_of([4, 15, 22]), masks).median_outside_mm is None
    assert count_prompts(points_of([4, 15, 22]), np.zeros_like(masks), MM).median_outside_mm is None


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 1e5])
def test_the_median_comes_from_the_bins_to_a_tenth(scale: float) -> None:
    masks = np.zeros((1, 1, 4, 4000), dtype=bool)
    masks[0, 0, 0, 0] = True
    columns = np.random.default_rng(0).gamma(4, 100, size=801).clip(1, 3999).round()
    prompts = points_of(np.stack([np.zeros(801), np.zeros(801), columns], axis=1))
    median = count_prompts(prompts, masks, (1.0, scale, 1.0)).median_outside_mm
    assert median is not None
    if scale == 1e5:
        assert median == pytest.approx(0.25 * 2**11.5), "beyond the last edge"
    else:
        assert median == pytest.approx(np.median(columns) * scale, rel=0.1)


def test_statistics_add_up_over_cases_and_survive_json() -> None:
    masks = tube_masks()
    parts, all_points = [], []
    slices_of_a_case = np.array([40, 0, 0])
    for seed in range(3):
        prompts = make_recipe("displaced", {"displacement_mm": 6.0 * seed}).draw(
            masks, ((0, 64), (0, 64)), MM, np.random.default_rng(seed)
        )
        parts.append(count_prompts(prompts, masks, MM))
        all_points.append(prompts.points_syx + seed * slices_of_a_case)
    stacked = np.concatenate([masks] * 3)
    total = parts[0] + parts[1] + parts[2]
    together = count_prompts(points_of(np.concatenate(all_points)), stacked)
    for name in ("points", "points_inside", "slices", "single_point_slices", "target_slices_hit", "point_triples"):
        assert getattr(total, name) == getattr(together, name), name
    assert sum(total.outside_distance_counts) == total.points - total.points_inside
    assert total + PromptStatistics() == total == PromptStatistics() + total
    assert parts[1] + parts[2] == parts[2] + parts[1]
    assert PromptStatistics(**json.loads(json.dumps(asdict(total)))) == total
    old = dict(list(asdict(total).items())[:6])
    assert PromptStatistics(**old).points == total.points, "files of before the later measures are read"


@pytest.mark.parametrize(
    ("mode", "parameters", "expected"),
    [
        ("centreline", {}, "centreline"),
        ("centreline", {"drift_mm": 8.0, "uncovered": 0.5}, "centreline"),
        ("recipe", {}, "points"),
        ("true_points", {"points_per_slice": 1}, "points"),
        ("true_points", {"points_per_slice": 4}, "points"),
        ("bad_points", {"bad": 0.5, "points_per_slice": 1}, "points"),
        ("displaced", {"displacement_mm": 20.0}, "points"),
        ("boxes", {}, "boxes"),
    ],
)
def test_the_type_of_simulated_prompts_is_found(mode: str, parameters: dict[str, Any], expected: str) -> None:
    masks = tube_masks()
    total = PromptStatistics()
    for seed in range(5):
        prompts = make_recipe(mode, parameters).draw(masks, ((0, 64), (0, 64)), MM, np.random.default_rng(seed))
        total = total + count_prompts(prompts, masks, MM)
    assert prompt_type(total) == expected


def test_the_type_follows_from_curves_and_boxes_of_the_files() -> None:
    some = PromptStatistics(points=5, slices_with_points=2)
    assert prompt_type(some) == "points" and prompt_type(some, n_curves=1) == "centreline"
    assert prompt_type(some, n_boxes=3) == "points", "by the points, if there are both"
    assert prompt_type(PromptStatistics()) == "none" and prompt_type(PromptStatistics(), 1) == "none"
    assert prompt_type(PromptStatistics(), n_boxes=2) == "boxes" == prompt_type(PromptStatistics(boxes=2))


def test_one_point_on_a_straight_line_is_smooth_and_a_jump_is_not() -> None:
    masks = np.ones((7, 1, 64, 64), dtype=bool)
    line = points_of([[s, 5 + 8 * s, 20] for s in range(7)])
    assert (count_prompts(line, masks).point_triples, count_prompts(line, masks).smooth_triples) == (5, 5)
    line.points_syx[3, 2] = 60
    assert count_prompts(line, masks).smooth_triples == 2, "the jump is in three of five triples"
    gap = line.select(np.arange(7) != 3)
    assert count_prompts(gap, masks).point_triples == 2
    pair = SlicePrompts.concatenate([gap, points_of([[1, 0, 0]])])
    assert (count_prompts(pair, masks).point_triples, count_prompts(pair, masks).single_point_slices) == (1, 5)


@pytest.mark.parametrize("slice_mm", [1.0, 3.0, 8.0])
@pytest.mark.parametrize(
    ("mode", "parameters"),
    [
        ("recipe", {}),
        ("true_points", {"points_per_slice": 1}),
        ("true_points", {"points_per_slice": 2}),
        ("true_points", {"points_per_slice": 4}),
        ("bad_points", {"bad": 0.5, "points_per_slice": 3}),
    ],
)
def test_points_drawn_one_by_one_are_no_line(mode: str, parameters: dict[str, Any], slice_mm: float) -> None:
    """However thick the slices are; also points in file order by slice, one in each."""
    masks, total, mm = tube_masks(), PromptStatistics(), (1.0, 1.0, slice_mm)
    for seed in range(5):
        drawn = make_recipe(mode, parameters).draw(masks, ((0, 64), (0, 64)), mm, np.random.default_rng(seed))
        total = total + count_prompts(drawn, masks, mm)
    assert total.steps > 100 and not total.is_line
    if parameters.get("points_per_slice") != 1:
        assert total.short_steps < 0.5 * total.steps


def test_points_that_follow_one_another_are_a_line() -> None:
    """There and back again through the same slices."""
    masks = np.ones((9, 1, 64, 64), dtype=bool)
    line = points_of([[s, 10, 10] for s in range(9)] + [[8 - s, 10, 50] for s in range(9)])
    found = count_prompts(line, masks, MM)
    assert (found.steps, found.short_steps) == (16, 16), "the turn stays in its slice"
    assert found.is_line and not count_prompts(line, masks).is_line, "lengths are not known"
    mixed = line.select(np.random.default_rng(0).permutation(18))
    assert not count_prompts(mixed, masks, MM).is_line, "in the order of the file"
    assert not count_prompts(line.select(np.arange(9)), masks, MM).is_line, "one in each slice"
    assert count_prompts(line.select(np.arange(7)), masks, MM).steps == 0 and not PromptStatistics().is_line


def test_points_without_a_class_are_counted_once_beside() -> None:
    masks = np.zeros((4, 2, 8, 8), dtype=bool)
    masks[:2, 0, :4], masks[1:3, 1, 4:] = True, True
    points = [[0, 1, 1], [1, 1, 1], [1, 6, 6], [3, 1, 1], [9, 1, 1]]
    prompts = points_of([[1, 6, 6], [2, 1, 1]], 0)
    unnamed = count_prompts(SlicePrompts.concatenate([points_of(points, -1), prompts]), masks)
    assert (unnamed.points, unnamed.points_inside, unnamed.unnamed_points) == (2 * 4 + 2, 3, 4)
    together = unnamed.together
    assert together is not None and unnamed.is_unnamed
    assert (together.points, together.points_inside) == (6, 4), "a point on the wrong class is on one of them"
    assert (together.slices, together.target_slices, together.target_slices_hit) == (4, 3, 2)
    named = count_prompts(SlicePrompts.concatenate([points_of(points, 0), points_of(points[1:3], -1)]), masks)
    assert named.unnamed_points == 2 and not named.is_unnamed
    both = unnamed + named + PromptStatistics()
    assert both.unnamed_points == 6 and both.together == together + named.together  # type: ignore[operator]
    alone = count_prompts(points_of(points, -1), masks[:, :1])
    assert (alone.unnamed_points, alone.together, alone.is_unnamed) == (0, None, False)
    assert not PromptStatistics(points=4).is_unnamed
