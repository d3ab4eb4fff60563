"""Prompts: the value objects, drawing points, statistics, and loading a file into the network frame."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.dataset import Labels
from spdnet.errors import ConfigurationError, PromptFileError
from spdnet.geometry import CaseMapping, ImageGeometry, SliceTransform, nearest_index, plan_case_mapping
from spdnet.prompts import (
    Markup,
    NoiseRecipe,
    PromptStatistics,
    SlicePrompts,
    count_prompts,
    load_given_prompts,
    prompt_statistics,
    resample_curve,
    simulate_prompts,
    true_points,
    write_markups,
)

LABELS = Labels(("ileum", "colon"), ((1,), (2,)))
BOX = ((4, 28), (2, 30))


def prompts_of(points: Any, classes: list[int]) -> SlicePrompts:
    """Slice prompts from lists."""
    return SlicePrompts(np.array(points, dtype=np.float64).reshape(-1, 3), np.array(classes, dtype=np.int64))


def some_masks() -> np.ndarray:
    """bool (8, 2, 32, 32): class 0 in slices 2 to 5, an L shape; class 1 one pixel in slice 5."""
    masks = np.zeros((8, 2, 32, 32), dtype=bool)
    masks[2:6, 0, 10:20, 8:11] = True
    masks[2:6, 0, 17:20, 8:25] = True
    masks[5, 1, 25, 27] = True
    return masks


# value objects


def test_a_point_belongs_to_the_nearest_slice() -> None:
    prompts = prompts_of([[0.49, 0, 0], [0.5, 0, 0], [-0.5, 0, 0], [2, 0, 0]], [0] * 4)
    assert prompts.slice_index.tolist() == [0, 1, 0, 2]
    assert prompts.slice_index.dtype == np.int64


def test_a_class_gets_its_own_points_and_those_for_all() -> None:
    prompts = prompts_of([[0, 1, 1], [0, 2, 2], [0, 3, 3]], [0, 1, -1])
    assert prompts.for_class(0).points_syx[:, 1].tolist() == [1, 3]
    assert prompts.for_class(1).points_syx[:, 1].tolist() == [2, 3]
    assert prompts.for_class(2).points_syx[:, 1].tolist() == [3]
    assert prompts.for_all_classes().class_index.tolist() == [-1, -1, -1]


def test_prompts_survive_json() -> None:
    for prompts in (prompts_of([[0.1, 1 / 3, 1e-9], [0, 2, 2]], [0, -1]), SlicePrompts.empty()):
        returned = SlicePrompts.from_dict(json.loads(json.dumps(prompts.to_dict())))
        np.testing.assert_array_equal(returned.points_syx, prompts.points_syx)
        np.testing.assert_array_equal(returned.class_index, prompts.class_index)
        assert returned.points_syx.dtype == np.float64 and returned.class_index.dtype == np.int64


def test_concatenating_nothing_is_empty() -> None:
    assert len(SlicePrompts.concatenate([])) == 0
    both = SlicePrompts.concatenate([SlicePrompts.empty(), prompts_of([[0, 1, 2]], [1])])
    assert both.points_syx.tolist() == [[0, 1, 2]] and both.class_index.tolist() == [1]


def test_points_move_with_the_slices_and_drop_out_with_them() -> None:
    prompts = prompts_of([[3, 1, 2], [4, 15.5, 15.5]], [0, 1])
    moved = prompts.transformed(SliceTransform(flip_columns=True), 32)
    np.testing.assert_allclose(moved.points_syx, [[3.0, 1.0, 29.0], [4.0, 15.5, 15.5]])
    larger = prompts.transformed(SliceTransform(scale=2.0), 32)
    assert larger.class_index.tolist() == [1]
    assert prompts.points_syx[0].tolist() == [3, 1, 2]  # unchanged


# drawing


def inside(prompts: SlicePrompts, masks: np.ndarray, k: int) -> np.ndarray:
    """Which points lie in a pixel of class k."""
    s, y, x = nearest_index(prompts.points_syx).T
    return np.asarray(masks[s, k, y, x])


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_inside_points_are_inside_the_mask_of_their_slice_and_class(dtype: type) -> None:
    masks: np.ndarray = some_masks().astype(dtype)
    for seed in range(50):
        prompts = true_points(masks, np.random.default_rng(seed), per_slice=3)
        for k in range(2):
            own = prompts.select(prompts.class_index == k)
            assert inside(own, masks, k).all()
            assert np.unique(own.slice_index, return_counts=True)[1].tolist() == [3] * (4 if k == 0 else 1)


def test_inside_points_reach_every_pixel_and_fill_it() -> None:
    masks = some_masks()[2:3, :1]
    points = true_points(masks, np.random.default_rng(0), per_slice=20_000).points_syx[:, 1:]
    pixels, counts = np.unique(nearest_index(points), axis=0, return_counts=True)
    assert len(pixels) == masks.sum()
    assert counts.max() < 1.5 * counts.mean() and counts.min() > 0.5 * counts.mean()
    offsets = points - nearest_index(points)
    assert np.abs(offsets.mean()) < 0.01 and 0.45 < np.abs(offsets).max() < 0.5


def test_counts_follow_the_recipe() -> None:
    masks = some_masks()
    recipe = NoiseRecipe(inside_points=2, min_random_points=1, max_random_points=3)
    seen = set()
    for seed in range(30):
        prompts = simulate_prompts(masks, BOX, np.random.default_rng(seed), recipe)
        for k in range(2):
            has_target = masks[:, k].any(axis=(1, 2))
            counts = np.bincount(prompts.select(prompts.class_index == k).slice_index, minlength=8)
            noise = counts - 2 * has_target
            seen |= set(noise.tolist())
    assert seen == {1, 2, 3}


def test_default_recipe_is_the_papers() -> None:
    recipe = NoiseRecipe()
    assert (recipe.inside_points, recipe.min_random_points, recipe.max_random_points) == (1, 2, 5)
    assert recipe.empty_slices == "random" and recipe.named


def test_empty_slices_can_stay_without_points() -> None:
    masks = some_masks()
    prompts = simulate_prompts(masks, BOX, np.random.default_rng(0), NoiseRecipe(empty_slices="none"))
    assert set(prompts.for_class(0).slice_index.tolist()) == {2, 3, 4, 5}
    assert set(prompts.for_class(1).slice_index.tolist()) == {5}
    everywhere = simulate_prompts(masks, BOX, np.random.default_rng(0), NoiseRecipe())
    for k in range(2):
        assert set(everywhere.for_class(k).slice_index.tolist()) == set(range(8))


def test_anonymous_points_are_one_set_of_noise_and_one_point_per_class_present() -> None:
    masks = some_masks()
    recipe = NoiseRecipe(min_random_points=4, max_random_points=4, named=False)
    prompts = simulate_prompts(masks, BOX, np.random.default_rng(0), recipe)
    assert set(prompts.class_index.tolist()) == {-1}
    assert np.bincount(prompts.slice_index).tolist() == [4, 4, 5, 5, 5, 6, 4, 4]
    quiet = NoiseRecipe(min_random_points=4, max_random_points=4, named=False, empty_slices="none")
    prompts = simulate_prompts(masks, BOX, np.random.default_rng(0), quiet)
    assert np.bincount(prompts.slice_index, minlength=8).tolist() == [0, 0, 5, 5, 5, 6, 0, 0]


def test_noise_is_uniform_over_the_content_box() -> None:
    recipe = NoiseRecipe(inside_points=0, min_random_points=5000, max_random_points=5000)
    points = simulate_prompts(some_masks()[:1, :1], BOX, np.random.default_rng(0), recipe).points_syx
    for axis, (low, high) in enumerate(BOX, start=1):
        counts = np.bincount(nearest_index(points[:, axis]), minlength=high)
        assert counts[:low].sum() == 0 and len(counts) == high
        assert counts[low:].min() > 0.6 * 5000 / (high - low)
    assert not np.array_equal(points[:, 1] % 1, np.zeros(5000))


def test_the_same_seed_draws_the_same_points() -> None:
    first, second, other = (
        simulate_prompts(some_masks(), BOX, np.random.default_rng(seed), NoiseRecipe()) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.points_syx, second.points_syx)
    np.testing.assert_array_equal(first.class_index, second.class_index)
    assert not np.array_equal(first.points_syx[:5], other.points_syx[:5])


def test_points_come_sorted_by_slice_and_lie_on_its_centre_plane() -> None:
    prompts = simulate_prompts(some_masks(), BOX, np.random.default_rng(0), NoiseRecipe())
    slices = prompts.points_syx[:, 0]
    assert (np.diff(slices) >= 0).all() and np.array_equal(slices, np.rint(slices))


def test_no_target_and_no_noise_is_no_point() -> None:
    empty = np.zeros((3, 2, 8, 8), dtype=bool)
    recipe = NoiseRecipe(min_random_points=0, max_random_points=0)
    prompts = simulate_prompts(empty, ((0, 8), (0, 8)), np.random.default_rng(0), recipe)
    assert prompts.points_syx.shape == (0, 3)
    assert len(true_points(empty, np.random.default_rng(0))) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inside_points": -1}, "inside_points is -1"),
        ({"min_random_points": 6}, "from 6 to 5"),
        ({"min_random_points": -1}, "from -1 to 5"),
        ({"empty_slices": "some"}, "'some'"),
    ],
)
def test_contradictory_recipes_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        NoiseRecipe(**fields)


# statistics


def test_statistics_are_counted_by_hand() -> None:
    masks = some_masks()
    prompts = prompts_of([[2, 12, 9], [2, 0, 0], [3, 0, 0], [7, 1, 1], [9, 1, 1], [4.4, 18, 24.4]], [0] * 6)
    statistics = count_prompts(prompts, masks[:, :1])
    assert statistics == PromptStatistics(5, 2, 8, 4, 4, 2, single_point_slices=3)
    rates = prompt_statistics(prompts, masks[:, :1])
    assert rates["points_per_slice"] == 5 / 8
    assert rates["share_of_slices_with_points"] == 4 / 8
    assert rates["share_of_points_inside"] == 2 / 5
    assert rates["share_of_target_slices_hit"] == 2 / 4
    assert rates["points"] == 5.0


def test_points_for_all_classes_count_for_each() -> None:
    prompts = prompts_of([[5, 25, 27], [5, 12, 9]], [-1, -1])
    together = PromptStatistics(2, 2, 8, 1, 4, 1)
    statistics = count_prompts(prompts, some_masks())
    assert statistics == PromptStatistics(4, 2, 16, 2, 5, 2, unnamed_points=2, together=together)


def test_counts_add_up_and_nothing_has_rates_of_0() -> None:
    masks = some_masks()
    one = count_prompts(true_points(masks, np.random.default_rng(0)), masks)
    assert (one + one).points == 2 * one.points
    assert (one + PromptStatistics()) == one
    assert (one + one).as_floats()["share_of_points_inside"] == 1.0
    assert set(PromptStatistics().as_floats().values()) == {0.0}


def test_points_in_the_padding_or_beyond_are_outside_the_target() -> None:
    masks = np.ones((2, 1, 4, 4), dtype=np.uint8)
    statistics = count_prompts(prompts_of([[0, -3, 1], [0, 1, 4], [1, 3.4, 3.4]], [0, 0, 0]), masks)
    assert (statistics.points, statistics.points_inside) == (3, 1)


# curves


def dense_slices(points: np.ndarray, closed: bool = False) -> list[int]:
    """Slices a polyline passes through, in order of its visits, by brute force."""
    if closed:
        points = np.concatenate([points, points[:1]])
    steps = np.linspace(0, 1, 5001)[:, None]
    line = np.concatenate([a + steps * (b - a) for a, b in itertools.pairwise(points)])
    return [int(k) for k, _ in itertools.groupby(nearest_index(line[:, 0]))]


@pytest.mark.parametrize("seed", range(12))
def test_a_curve_has_one_point_per_visit_to_a_slice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    control = rng.uniform(0, 12, size=(rng.integers(2, 9), 3))
    points = resample_curve(control, control * [3.0, 0.5, 0.5])
    assert nearest_index(points[:, 0]).tolist() == dense_slices(control)


@pytest.mark.parametrize("seed", range(12))
def test_a_closed_curve_counts_the_visit_at_its_opening_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    control = rng.uniform(0, 9, size=(rng.integers(3, 7), 3))
    expected = dense_slices(control, closed=True)
    if len(expected) > 1 and expected[0] == expected[-1]:
        expected = expected[1:]
    assert nearest_index(resample_curve(control, control, closed=True)[:, 0]).tolist() == expected


def test_points_lie_where_the_curve_crosses_the_centre_plane_of_each_slice() -> None:
    control = np.array([[0.2, 2.0, 0.0], [3.2, 32.0, 0.0], [3.2, 40.0, 0.0]])
    points = resample_curve(control, control)
    np.testing.assert_allclose(points[:3], [[0.2, 2, 0], [1, 10, 0], [2, 20, 0]], atol=1e-9)
    np.testing.assert_allclose(points[3], [3, 30, 0], atol=1e-9)


def test_a_visit_that_misses_the_centre_plane_has_its_point_where_it_is_nearest() -> None:
    control = np.array([[0.0, 0.0, 0.0], [0.7, 7.0, 0.0], [0.7, 9.0, 0.0], [0.0, 16.0, 0.0]])
    points = resample_curve(control, control)
    np.testing.assert_allclose(points, [[0, 0, 0], [0.7, 8, 0], [0, 16, 0]], atol=1e-9)


def test_control_points_at_centre_planes_are_kept_however_jagged_the_curve() -> None:
    rng = np.random.default_rng(0)
    control = np.concatenate([np.arange(20.0)[:, None], rng.uniform(0, 50, (20, 2))], axis=1)
    np.testing.assert_allclose(resample_curve(control, control * [5.0, 0.7, 0.7]), control, atol=1e-9)
    there_and_back = np.concatenate([control, control[-2:0:-1] + np.array([0, 1, 1])])
    closed = resample_curve(there_and_back, there_and_back, closed=True)
    distance = np.linalg.norm(there_and_back[:, None] - closed[None], axis=2).min(axis=1)
    assert len(closed) == len(there_and_back) and distance.max() < 1e-9


def test_lengths_are_in_mm() -> None:
    control = np.array([[1.0, 0.0, 0.0], [1.0, 10.0, 0.0], [1.0, 10.0, 10.0]])
    np.testing.assert_allclose(resample_curve(control, control * [1, 1, 3]), [[1, 10, 10 / 3]])


def test_a_step_puts_more_points_on_long_visits() -> None:
    control = np.array([[1.0, 0.0, 0.0], [1.0, 10.0, 0.0]])
    np.testing.assert_allclose(resample_curve(control, control, step_mm=4.0)[:, 1], [10 / 6, 5, 50 / 6])


@pytest.mark.parametrize("n_points", [1, 3])
@pytest.mark.parametrize("closed", [False, True])
def test_a_curve_without_length_is_one_point(n_points: int, closed: bool) -> None:
    control = np.full((n_points, 3), 2.0)
    assert resample_curve(control, control, closed).tolist() == [[2, 2, 2]]


def test_repeated_control_points_do_no_harm() -> None:
    control = np.array([[0.0, 1, 1], [0, 1, 1], [2, 1, 1], [2, 1, 1]])
    assert nearest_index(resample_curve(control, control)[:, 0]).tolist() == [0, 1, 2]


# loading


@pytest.fixture
def geometry() -> ImageGeometry:
    """10 axial slices of 40 x 50, 3 x 1 x 1 mm, off the origin; mirrored, x and y lie outside."""
    return ImageGeometry((10, 40, 50), (3.0, 1.0, 1.0), (100.0, 60.0, -20.0))


@pytest.fixture
def mapping(geometry: ImageGeometry) -> CaseMapping:
    """Axial slices at half size in a square of 32."""
    return plan_case_mapping(geometry, 0, 32, 2.0)


def write_points(folder: Path, *markups: tuple[str, str, Any]) -> Path:
    """A file of markups given as name, kind and LPS points."""
    made = []
    for name, kind, points in markups:
        array = np.array(points, dtype=np.float64).reshape(-1, 3)
        made.append(Markup(name, kind, array, tuple(f"{name}-{i + 1}" for i in range(len(array)))))
    write_markups(folder / "TI_012.mrk.json", made)
    return folder / "TI_012.mrk.json"


def test_points_arrive_where_the_image_has_their_voxel(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((6, 8, 10), dtype=np.float32))
    image.SetSpacing((0.9, 0.7, 2.5))
    image.SetOrigin((5.0, -40.0, 30.0))
    image.SetDirection((0, 0, -1, 1, 0, 0, 0, -1, 0))
    image[3, 5, 2] = 1.0
    geometry = ImageGeometry.from_sitk(image)
    for slicing_axis in range(3):
        mapping = plan_case_mapping(geometry, slicing_axis, 64, 0.3)
        file = write_points(tmp_path, ("F", "points", [list(image.TransformIndexToPhysicalPoint((3, 5, 2)))]))
        (point,) = load_given_prompts(file, "c", geometry, mapping, LABELS).for_network().points_syx
        network = mapping.image_to_network(sitk.GetArrayFromImage(image)[None])[:, 0]
        brightest = np.unravel_index(network.argmax(), network.shape)
        np.testing.assert_allclose(point, brightest, atol=1.01)


def test_markups_named_like_a_class_speak_for_it(geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path) -> None:
    spot = [110.0, 70.0, -10.0]
    file = write_points(tmp_path, ("colon", "points", [spot, [111, 70, -10]]), ("F", "points", [spot]))
    file_prompts = load_given_prompts(file, "TI_012", geometry, mapping, LABELS).for_network()
    assert file_prompts.class_index.tolist() == [1, 1, -1]
    expected = mapping.points_to_network(np.array([[10 / 3, 10, 10]]))[0]
    np.testing.assert_allclose(file_prompts.points_syx[0], expected)


def test_a_curve_in_a_file_visits_every_slice_it_crosses(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path
) -> None:
    file = write_points(tmp_path, ("centreline", "curve", [[110, 70, -20], [120, 80, 7]]))
    assert load_given_prompts(file, "c", geometry, mapping, LABELS).for_network().slice_index.tolist() == list(
        range(10)
    )
    sagittal = plan_case_mapping(geometry, 2, 64, 1.0)
    assert load_given_prompts(file, "c", geometry, sagittal, LABELS).for_network().slice_index.tolist() == list(
        range(10, 21)
    )
    file = write_points(tmp_path, ("ileum", "closed_curve", [[110, 70, -20], [120, 80, 7], [120, 70, -20]]))
    closed = load_given_prompts(file, "c", geometry, mapping, LABELS).for_network()
    assert sorted(closed.slice_index.tolist()) == sorted([0, *range(1, 9), 9, *range(1, 9)])
    assert set(closed.class_index.tolist()) == {0}


def test_a_step_along_curves_is_passed_on(geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path) -> None:
    file = write_points(tmp_path, ("F", "curve", [[105, 70, -20], [135, 70, -20]]))
    assert len(load_given_prompts(file, "c", geometry, mapping, LABELS).for_network()) == 1
    assert len(load_given_prompts(file, "c", geometry, mapping, LABELS, curve_step_mm=5.0).for_network()) == 6


def test_points_outside_the_crop_are_dropped_and_counted(
    geometry: ImageGeometry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mapping = plan_case_mapping(geometry, 0, 32, 1.0, [(2, 8), (10, 40), (0, 20)])
    inside_crop, above, beside = [110.0, 75, -10], [110.0, 75, 5], [125.0, 75, -10]
    file = write_points(tmp_path, ("F", "points", [inside_crop, above, beside]))
    with caplog.at_level(logging.INFO):
        prompts = load_given_prompts(file, "TI_012", geometry, mapping, LABELS).for_network()
    assert len(prompts) == 1
    assert "case TI_012: 2 of 3 points lie outside the cropped region" in caplog.text


def error_text(file: Path, geometry: ImageGeometry, mapping: CaseMapping) -> str:
    """Message of a failed load."""
    with pytest.raises(PromptFileError) as caught:
        load_given_prompts(file, "TI_012", geometry, mapping, LABELS).for_network()
    return str(caught.value)


def test_a_mirrored_file_is_named_as_such(geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path) -> None:
    mirrored = [[-110.0, -70, -8], [-120, -80, -5], [-130, -75, 1], [-105, -65, -20]]
    text = error_text(write_points(tmp_path, ("F", "points", mirrored)), geometry, mapping)
    assert "case TI_012: point 'F-1' of markup \"F\" lies at voxel (z 4.0, y -130.0, x -210.0)" in text
    assert "outside the image (10, 40, 50)" in text
    assert "4 of 4 points" in text and "'F-3'" in text and "'F-4'" not in text and "..." in text
    assert "Flipping x and y would put all inside" in text and "coordinateSystem" in text and "RAS" in text


def test_nearly_all_inside_after_flipping_is_said_too(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path
) -> None:
    mirrored = [[-110.0 - i, -70.0, -8.0] for i in range(10)] + [[-500.0, -70.0, -8.0]]
    text = error_text(write_points(tmp_path, ("F", "points", mirrored)), geometry, mapping)
    assert "Flipping x and y would put 10 of 11 points inside" in text


def test_one_stray_point_is_no_mirrored_file(geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path) -> None:
    points = [[110.0, 70, -8], [120, 80, -5], [120, 80, 300]]
    text = error_text(write_points(tmp_path, ("F", "points", points)), geometry, mapping)
    assert "1 of 3 points" in text and "'F-3'" in text and "Flipping" not in text
    assert "Do the points belong to this image?" in text


def test_centred_images_are_not_accused_of_mirroring(tmp_path: Path) -> None:
    geometry = ImageGeometry((10, 40, 40), (1.0, 1.0, 1.0), (-20.0, -20.0, 0.0))
    mapping = plan_case_mapping(geometry, 0, 40, 1.0)
    points = [[float(i), 0.0, 1.0] for i in range(15)] + [[0.0, 0.0, 40.0]]
    text = error_text(write_points(tmp_path, ("F", "points", points)), geometry, mapping)
    assert "Flipping" not in text


def test_points_on_the_outer_half_voxel_are_inside(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path
) -> None:
    corners = geometry.voxel_to_world(np.array([[-0.49, -0.49, -0.49], [9.49, 39.49, 49.49]])).tolist()
    file = write_points(tmp_path, ("F", "points", corners))
    assert load_given_prompts(file, "c", geometry, mapping, LABELS).for_network().slice_index.tolist() == [0, 9]
    outside = geometry.voxel_to_world(np.array([[-0.51, 0, 0], [0, 0, 0]])).tolist()
    assert "1 of 2 points" in error_text(write_points(tmp_path, ("F", "points", outside)), geometry, mapping)


def test_points_piled_up_are_refused(mapping: CaseMapping, geometry: ImageGeometry, tmp_path: Path) -> None:
    pile = write_points(tmp_path, ("F", "points", [[110.0, 70, -8]] * 5))
    text = error_text(pile, geometry, mapping)
    assert "case TI_012: all 5 points" in text and "(110, 70, -8) LPS mm" in text
    at_origin = write_points(tmp_path, ("F", "points", [[110.0, 70, -8]]), ("G", "points", [[0.0, 0, 0]] * 3))
    text = error_text(at_origin, geometry, mapping)
    assert 'all 3 points of markup "G"' in text and "origin" in text


def test_a_single_point_is_no_pile(geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path) -> None:
    file = write_points(tmp_path, ("F", "points", [[110.0, 70, -8]]))
    assert len(load_given_prompts(file, "c", geometry, mapping, LABELS).for_network()) == 1


def test_points_on_the_background_are_refused(geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path) -> None:
    file = write_points(tmp_path, ("Background", "points", [[110.0, 70, -8]]))
    text = error_text(file, geometry, mapping)
    assert "case TI_012" in text and '"background"' in text


def test_a_file_without_placed_points_is_empty_and_said_so(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases: list[list[tuple[str, str, Any]]] = [[], [("F", "points", []), ("G", "curve", [])]]
    for markups in cases:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            prompts = load_given_prompts(
                write_points(tmp_path, *markups), "TI_012", geometry, mapping, LABELS
            ).for_network()
        assert prompts.points_syx.shape == (0, 3)
        assert "case TI_012" in caplog.text and "no placed points" in caplog.text


def test_an_empty_markup_beside_others_does_no_harm(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path
) -> None:
    file = write_points(tmp_path, ("F", "curve", []), ("ileum", "points", [[110.0, 70, -8]]))
    assert load_given_prompts(file, "c", geometry, mapping, LABELS).for_network().class_index.tolist() == [0]
