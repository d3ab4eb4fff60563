"""Noise made on purpose: that each kind of simulated points has the faults it is asked for, and no other."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from spdnet.errors import ConfigurationError
from spdnet.geometry import nearest_index
from spdnet.prompts import DroppedSlices, NoiseRecipe, PromptRecipe, SlicePrompts, make_recipe, simulate_prompts
from spdnet.prompts.noise_centreline import Centreline, draw_runs, smooth_walk, trace_axis
from spdnet.prompts.noise_modes import MODES, recipe_from_dict, recipe_to_dict
from spdnet.prompts.noise_points import BadPoints, DisplacedPoints
from spdnet.prompts.simulate import number_of

MM = (0.5, 2.0, 3.0)  # rows, columns, slices
BOX = ((0, 64), (4, 60))
POINT_MODES = tuple(mode for mode in MODES if mode != "boxes")


def tube_masks() -> np.ndarray:
    """bool (40, 2, 64, 64): class 0 a bending tube in slices 8 to 31; class 1 a C with a far speck in 10 to 19."""
    masks = np.zeros((40, 2, 64, 64), dtype=bool)
    y, x = np.mgrid[:64, :64]
    for s in range(8, 32):
        masks[s, 0] = (y - 30 - 12 * np.sin(s / 6)) ** 2 + (x - 25) ** 2 <= 6**2
    for s in range(10, 20):
        ring = (y - 30) ** 2 + (x - 45) ** 2
        masks[s, 1] = (ring <= 10**2) & (ring >= 7**2) & (x < 50)
        masks[s, 1, 60, 8] = True
    return masks


def draw(recipe: PromptRecipe, seed: int = 0, masks: np.ndarray | None = None) -> SlicePrompts:
    """Prompts of the tubes."""
    return recipe.draw(tube_masks() if masks is None else masks, BOX, MM, np.random.default_rng(seed))


def is_inside(prompts: SlicePrompts, masks: np.ndarray) -> np.ndarray:
    """Which points lie in the mask of their class, of any class for points that speak for all: bool (N,)."""
    s, y, x = nearest_index(prompts.points_syx).T
    own = masks[s, prompts.class_index, y, x]
    return np.where(prompts.class_index < 0, masks[s, :, y, x].any(axis=1), own)


def covered(prompts: SlicePrompts, masks: np.ndarray, k: int) -> np.ndarray:
    """Target slices of a class with a point inside it, ascending."""
    own = prompts.for_class(k)
    return np.unique(own.slice_index[is_inside(own, masks)])


# all modes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("named", [True, False])
def test_the_same_generator_draws_the_same_prompts(mode: str, named: bool) -> None:
    recipe = make_recipe(mode, {"named": named}, dropped_share=0.2)
    first, second, other = (draw(recipe, seed).to_dict() for seed in (3, 3, 4))
    assert first == second and first != other


@pytest.mark.parametrize("mode", MODES)
def test_masks_of_any_type_are_left_alone_and_give_the_same(mode: str) -> None:
    masks = tube_masks().astype(np.uint8)
    masks.flags.writeable = False
    assert draw(make_recipe(mode), masks=masks).to_dict() == draw(make_recipe(mode)).to_dict()


@pytest.mark.parametrize("mode", POINT_MODES)
@pytest.mark.parametrize("seed", range(5))
def test_points_lie_in_the_image_on_centre_planes_sorted_by_slice(mode: str, seed: int) -> None:
    prompts = draw(make_recipe(mode), seed)
    assert len(prompts) and not len(prompts.boxes)
    for k in range(2):
        slices = prompts.for_class(k).points_syx[:, 0]
        assert (np.diff(slices) >= 0).all() and np.array_equal(slices, np.rint(slices))
    low, high = np.array(BOX).T
    assert (prompts.points_syx[:, 1:] >= low - 0.5).all() and (prompts.points_syx[:, 1:] < high - 0.5).all()


@pytest.mark.parametrize("mode", MODES)
def test_anonymous_prompts_speak_for_all_classes(mode: str) -> None:
    prompts = draw(make_recipe(mode, {"named": False}))
    assert set(prompts.class_index.tolist()) | set(prompts.boxes.class_index.tolist()) == {-1}


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "recipe"])
def test_no_target_gives_no_prompts(mode: str) -> None:
    for named in (True, False):
        prompts = draw(make_recipe(mode, {"named": named}, 0.5), masks=np.zeros((4, 2, 64, 64), dtype=bool))
        assert len(prompts) == 0 and len(prompts.boxes) == 0


def test_the_papers_recipe_is_drawn_as_ever() -> None:
    old = simulate_prompts(tube_masks(), BOX, np.random.default_rng(5), NoiseRecipe())
    assert draw(make_recipe("recipe"), 5).to_dict() == old.to_dict()


# clean points


@pytest.mark.parametrize(
    "recipe",
    [
        make_recipe("true_points", {"points_per_slice": 2}),
        BadPoints(bad=0.0),
        DisplacedPoints(displacement_mm=0.0, points_per_slice=3),
    ],
)
@pytest.mark.parametrize("seed", range(10))
def test_points_without_noise_are_all_inside_and_in_every_target_slice(recipe: PromptRecipe, seed: int) -> None:
    masks = tube_masks()
    prompts = draw(recipe, seed)
    assert is_inside(prompts, masks).all()
    for k in range(2):
        assert covered(prompts, masks, k).tolist() == np.flatnonzero(masks[:, k].any(axis=(1, 2))).tolist()


# bad points


@pytest.mark.parametrize("bad", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_the_share_of_bad_points_is_as_asked(bad: float) -> None:
    masks = tube_masks()
    for seed in range(5):
        prompts = draw(BadPoints(bad=bad, points_per_slice=5), seed)
        assert len(prompts) == 5 * (24 + 10)
        outside = ~is_inside(prompts, masks)
        for k, n in enumerate((120, 50)):
            assert abs(outside[prompts.class_index == k].sum() - bad * n) < 1  # rounded up or down


def test_shares_that_are_no_whole_number_are_right_on_average() -> None:
    rng = np.random.default_rng(0)
    numbers = [number_of(0.3, 11, rng) for _ in range(4000)]
    assert set(numbers) == {3, 4} and np.mean(numbers) == pytest.approx(3.3, abs=4 * 0.46 / np.sqrt(4000))
    assert number_of(1.0, 7, rng) == 7 and number_of(0.0, 7, rng) == 0


def test_bad_points_lie_in_any_slice_or_in_target_slices_only() -> None:
    masks = tube_masks()
    anywhere = draw(BadPoints(bad=1.0, points_per_slice=40)).for_class(0)
    counts = np.bincount(anywhere.slice_index, minlength=40)
    assert counts.min() > 0.4 * counts.mean() and counts.max() < 2 * counts.mean()
    restrained = draw(BadPoints(bad=1.0, points_per_slice=40, empty_slices="none")).for_class(0)
    assert set(restrained.slice_index.tolist()) == set(range(8, 32))
    assert not is_inside(restrained, masks).any()


def test_bad_points_are_uniform_over_what_is_not_target() -> None:
    masks = tube_masks()[8:9, :1]
    points = draw(BadPoints(bad=1.0, points_per_slice=400_000), masks=masks).points_syx
    pixels, counts = np.unique(nearest_index(points)[:, 1:], axis=0, return_counts=True)
    (top, bottom), (left, right) = BOX
    assert len(pixels) == (bottom - top) * (right - left) - masks.sum()
    assert counts.mean() / 2 < counts.min() and counts.max() < 2 * counts.mean()


def test_where_the_target_fills_the_image_there_is_no_bad_point() -> None:
    masks = np.ones((2, 1, 64, 64), dtype=bool)
    assert len(draw(BadPoints(bad=1.0), masks=masks)) == 0
    masks[1, 0, :5] = False
    prompts = draw(BadPoints(bad=1.0), masks=masks)
    assert set(prompts.slice_index.tolist()) == {1} and not is_inside(prompts, masks).any()


# displaced points


@pytest.mark.parametrize("displacement_mm", [2.0, 9.0])
def test_the_mean_displacement_is_as_stated_in_mm(displacement_mm: float) -> None:
    masks = np.zeros((400, 1, 64, 64), dtype=bool)
    masks[:, 0, 30, 30] = True
    moved = draw(DisplacedPoints(displacement_mm, points_per_slice=10), masks=masks).points_syx
    offset_mm = (moved[:, 1:] - [30, 30]) * MM[:2]
    # within its pixel the true place is not known, which is little against the displacement
    distance = np.linalg.norm(offset_mm, axis=1)
    standard_error = displacement_mm * np.sqrt(4 / np.pi - 1) / np.sqrt(len(moved))
    pixel_mm = np.sqrt((0.5**2 + 2.0**2) / 12)
    assert abs(distance.mean() - displacement_mm) < 4 * standard_error + 0.5 * pixel_mm**2 / displacement_mm
    assert np.abs(offset_mm.mean(axis=0)).max() < 4 * displacement_mm / np.sqrt(len(moved))
    assert offset_mm[:, 0].std() == pytest.approx(offset_mm[:, 1].std(), rel=0.1 + 0.2 / displacement_mm)


def test_near_the_border_the_mean_displacement_holds_as_long_as_there_is_room() -> None:
    masks = np.zeros((300, 1, 64, 64), dtype=bool)
    masks[:, 0, 0, 4] = True  # the corner of the image
    moved = draw(DisplacedPoints(5.0, points_per_slice=10), masks=masks).points_syx
    distance = np.linalg.norm((moved[:, 1:] - [0, 4]) * MM[:2], axis=1)
    assert distance.mean() == pytest.approx(5.0, abs=0.3)
    far = draw(DisplacedPoints(1000.0), masks=masks).points_syx
    assert (far[:, 1:] >= np.array(BOX)[:, 0] - 0.5).all() and (far[:, 1:] < np.array(BOX)[:, 1] - 0.5).all()


# centrelines


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("uncovered", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("drift_mm", [0.0, 6.0])
def test_a_centreline_leaves_exactly_the_asked_share_uncovered(seed: int, uncovered: float, drift_mm: float) -> None:
    masks = tube_masks()
    prompts = draw(Centreline(uncovered=uncovered, drift_mm=drift_mm), seed)
    for k, n in enumerate((24, 10)):
        assert abs(n - len(covered(prompts, masks, k)) - uncovered * n) < 1


@pytest.mark.parametrize("seed", range(4))
def test_a_centreline_has_one_point_per_slice_and_runs_on_at_both_ends(seed: int) -> None:
    prompts = draw(Centreline(overrun_mm=15.0, drift_mm=0.0), seed)
    assert prompts.for_class(0).slice_index.tolist() == list(range(8 - 5, 32 + 5))
    assert prompts.for_class(1).slice_index.tolist() == list(range(10 - 5, 20 + 5))
    further = draw(Centreline(overrun_mm=1000.0, drift_mm=0.0), seed).for_class(1)
    assert further.slice_index.tolist() == list(range(40)), "to the ends of the volume"
    assert draw(Centreline(overrun_mm=0.0), seed).for_class(0).slice_index.tolist() == list(range(8, 32))


def test_a_centreline_runs_on_in_its_direction_until_it_leaves_the_image() -> None:
    masks = np.zeros((40, 1, 64, 64), dtype=bool)
    for s in range(10, 26):
        masks[s, 0, 2 * s : 2 * s + 5, 28:33] = True  # 1 mm of rows for 3 mm of slices
    points = draw(Centreline(uncovered=0, overrun_mm=60.0, drift_mm=0.0, smoothing_mm=3.0), masks=masks).points_syx
    assert points[0, 0] == 0 and points[-1, 0] < 39, "it leaves at the bottom"
    tail = points[points[:, 0] > 25]
    assert len(tail) >= 3 and np.diff(tail[:, 1]) == pytest.approx(np.full(len(tail) - 1, 2.0), abs=0.8)


def test_without_drift_the_centreline_is_the_tubes() -> None:
    points = draw(Centreline(uncovered=0, overrun_mm=0, drift_mm=0, smoothing_mm=2.0)).for_class(0).points_syx
    axis = 30 + 12 * np.sin(np.arange(8, 32) / 6)
    assert np.abs(points[:, 1] - axis).max() < 1 and np.abs(points[:, 2] - 25).max() < 1


def test_drift_has_the_stated_size_and_wanders_smoothly() -> None:
    masks = np.zeros((60, 1, 120, 31), dtype=bool)
    masks[:, 0, 5:115, 1:30] = True  # too large for the drift to reach its edge
    offsets = []
    for seed in range(60):
        recipe = Centreline(uncovered=0, overrun_mm=0, drift_mm=5.0, drift_length_mm=30.0)
        prompts = recipe.draw(masks, ((0, 120), (0, 31)), MM, np.random.default_rng(seed))
        offsets.append((prompts.points_syx[:, 1:] - [59.5, 15.0]) * MM[:2])
    drift = np.array(offsets)
    assert np.sqrt((drift**2).sum(axis=2).mean()) == pytest.approx(5.0, rel=0.15)
    correlation = [np.mean(drift[:, lag:] * drift[:, : 60 - lag]) / np.mean(drift**2) for lag in (1, 10, 40)]
    assert correlation[0] > 0.97, "adjacent slices"
    assert correlation[1] == pytest.approx(np.exp(-1), abs=0.2), "30 mm apart"
    assert abs(correlation[2]) < 0.25
    # the mean square step is 2 sigma^2 (1 - correlation), for both axes together
    steps = np.sqrt((np.diff(drift, axis=1) ** 2).sum(axis=2).mean())
    assert steps == pytest.approx(5.0 * np.sqrt(2 * (1 - np.exp(-((3 / 30) ** 2)))), rel=0.2)


def test_a_smooth_walk_has_variance_1_everywhere() -> None:
    for sigma in (0.0, 5.0):
        walks = np.array([smooth_walk(30, sigma, np.random.default_rng(s)) for s in range(800)])
        assert walks.shape == (800, 30, 2)
        assert walks.std(axis=0) == pytest.approx(np.ones((30, 2)), abs=0.12)


def test_detours_reach_out_of_the_target_by_little_more_than_asked() -> None:
    masks = tube_masks()[:, :1]
    for seed in range(6):
        points = draw(Centreline(uncovered=0.5, drift_mm=2.0, overrun_mm=0), seed, masks).points_syx
        for s, y, x in points:
            rim_mm = (np.argwhere(masks[int(s), 0]) - [y, x]) * MM[:2]
            assert np.linalg.norm(rim_mm, axis=1).min() < 2.0 + 2 * np.hypot(*MM[:2])


def test_the_curve_leans_towards_its_detours() -> None:
    masks = np.zeros((60, 1, 64, 64), dtype=bool)
    masks[:, 0, 20:40, 27:36] = True
    largest_steps = {}
    for drift_length_mm in (0.0, 60.0):
        steps = []
        for seed in range(12):
            recipe = Centreline(uncovered=0.4, drift_mm=0.0, drift_length_mm=drift_length_mm)
            points = draw(recipe, seed, masks).points_syx
            steps.append(np.linalg.norm(np.diff(points[:, 1:] * MM[:2], axis=0), axis=1).max())
        largest_steps[drift_length_mm] = np.mean(steps)
    assert largest_steps[60.0] < 0.5 * largest_steps[0.0]


def test_a_target_that_fills_its_slices_stays_covered() -> None:
    masks = np.ones((5, 1, 64, 64), dtype=bool)
    prompts = draw(Centreline(uncovered=1.0), masks=masks)
    assert prompts.slice_index.tolist() == list(range(5)) and is_inside(prompts, masks).all()


def test_a_target_in_one_slice_and_with_gaps_has_a_centreline() -> None:
    masks = np.zeros((9, 1, 64, 64), dtype=bool)
    masks[4, 0, 20:30, 20:30] = True
    single = draw(Centreline(uncovered=0, overrun_mm=6, drift_mm=0), masks=masks)
    assert single.slice_index.tolist() == [2, 3, 4, 5, 6] and covered(single, masks, 0).tolist() == [4]
    masks[7, 0, 30:40, 20:30] = True
    bridged = draw(Centreline(uncovered=0, overrun_mm=0, drift_mm=0), masks=masks)
    assert bridged.slice_index.tolist() == [4, 5, 6, 7] and covered(bridged, masks, 0).tolist() == [4, 7]


def test_the_axis_stays_in_one_piece_and_inside_hollow_shapes() -> None:
    masks = tube_masks()[:, 1]
    slices, middles = trace_axis(masks, np.array(MM[:2]))
    assert slices.tolist() == list(range(10, 20))
    y, x = middles.astype(int).T
    assert masks[slices, y, x].all() and (x > 30).all(), "in the C, not in the speck"


def test_the_axis_follows_the_piece_that_overlaps_not_the_larger_one() -> None:
    masks = np.zeros((3, 40, 40), dtype=bool)
    masks[0, 5:15, 5:15] = True
    masks[1, 6:10, 6:10] = masks[1, 20:28, 20:28] = True
    masks[2, 7:9, 7:9] = masks[2, 20:28, 20:28] = True
    _, middles = trace_axis(masks, np.ones(2))
    assert (middles < 15).all()
    masks[1:] = False
    masks[1, 14, 5:40] = masks[1, 16:18, 9:11] = True  # a strip that overlaps, and a speck that is nearer
    _, middles = trace_axis(masks, np.ones(2))
    assert middles[1, 0] == 14


@pytest.mark.parametrize(("count", "total"), [(0, 5), (1, 1), (3, 3), (4, 10), (9, 10)])
def test_runs_are_as_long_as_asked_and_apart(count: int, total: int) -> None:
    seen = set()
    for seed in range(50):
        runs = draw_runs(count, total, 3, np.random.default_rng(seed))
        assert sum(end - start for start, end in runs) == count
        assert all(0 <= start < end <= total for start, end in runs)
        assert all(b[0] > a[1] for a, b in itertools.pairwise(runs))
        seen.add(len(runs))
    assert max(seen) == min(3, count, total - count + 1)


# dropped slices


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("named", [True, False])
def test_dropped_slices_have_no_prompts_and_the_others_keep_theirs(mode: str, named: bool) -> None:
    masks = tube_masks()
    recipe = make_recipe(mode, {"named": named, **({"shift": 0.0} if mode == "boxes" else {})})
    whole, thinned = draw(recipe), draw(DroppedSlices(recipe, 0.5))
    problems = masks if named else masks.any(axis=1, keepdims=True)
    for k in range(problems.shape[1]):
        target = np.flatnonzero(problems[:, k].any(axis=(1, 2)))
        before, after = whole.for_class(k), thinned.for_class(k)
        with_prompts = [set(p.slice_index.tolist()) | set(p.boxes.slice_index.tolist()) for p in (before, after)]
        dropped = sorted(with_prompts[0] - with_prompts[1])
        assert set(dropped) <= set(target.tolist())
        if mode != "bad_points":  # which may have slices without any to begin with
            assert len(dropped) == len(target) / 2
        stays = ~np.isin(before.slice_index, dropped)
        np.testing.assert_array_equal(before.points_syx[stays], after.points_syx)
        np.testing.assert_array_equal(
            before.boxes.boxes_yxyx[~np.isin(before.boxes.slice_index, dropped)], after.boxes.boxes_yxyx
        )


def test_all_or_no_target_slices_can_be_dropped() -> None:
    recipe = make_recipe("true_points")
    assert len(draw(DroppedSlices(recipe, 1.0))) == 0
    assert draw(DroppedSlices(recipe, 0.0)).to_dict() == draw(recipe).to_dict()


# recipes as data


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dropped_share", [0.0, 0.25])
def test_recipes_survive_json(mode: str, dropped_share: float) -> None:
    recipe = make_recipe(mode, {"named": False}, dropped_share)
    data = json.loads(json.dumps(recipe_to_dict(recipe)))
    assert data["mode"] == mode and data["parameters"]["named"] is False and data["dropped_share"] == dropped_share
    assert recipe_from_dict(data) == recipe


@pytest.mark.parametrize(
    ("mode", "parameters", "message"),
    [
        ("web", {}, "'web'.*recipe, true_points, centreline"),
        ("bad_points", {"bad": 1.5}, "bad is 1.5"),
        ("bad_points", {"bad": float("nan")}, "bad is nan"),
        ("bad_points", {"bad": "half"}, "bad is 'half'"),
        ("bad_points", {"points_per_slice": 0}, "points_per_slice is 0"),
        ("bad_points", {"points_per_slice": True}, "points_per_slice is True"),
        ("bad_points", {"empty_slices": "all"}, "'all'"),
        ("bad_points", {"enlarge": 0.5}, "no parameter 'enlarge'; it has bad, points_per_slice"),
        ("displaced", {"displacement_mm": -1}, "displacement_mm is -1 mm"),
        ("displaced", {"displacement_mm": float("inf")}, "displacement_mm is inf mm"),
        ("centreline", {"uncovered": -0.1}, "uncovered is -0.1"),
        ("centreline", {"drift_mm": -3.0}, "drift_mm is -3 mm"),
        ("true_points", {"points_per_slice": 0}, "points_per_slice is 0"),
    ],
)
def test_wrong_recipes_are_refused(mode: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_recipe(mode, parameters)


def test_wrong_shares_and_records_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="dropped slices is 2"):
        make_recipe("boxes", dropped_share=2.0)
    with pytest.raises(ConfigurationError, match="lacks parameters, dropped_share"):
        recipe_from_dict({"mode": "boxes"})
    with pytest.raises(ConfigurationError, match="a word as mode"):
        recipe_from_dict({"mode": ["boxes"], "parameters": {}, "dropped_share": 0.0})
    with pytest.raises(ConfigurationError, match="positive spacing"):
        Centreline().draw(tube_masks(), BOX, (1.0, 0.0, 1.0), np.random.default_rng(0))
