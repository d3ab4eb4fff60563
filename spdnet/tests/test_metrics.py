"""Metrics on masks and bootstrap intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import surface_distance

from spdnet.evaluation import metrics

SPACINGS = [(1.0, 1.0), (0.5, 2.0), (3.1, 0.7)]


def _slow_boundary(mask: np.ndarray) -> list[tuple[int, int]]:
    rows, columns = mask.shape
    boundary = []
    for r, c in itertools.product(range(rows), range(columns)):
        neighbours = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
        inside = [0 <= y < rows and 0 <= x < columns and mask[y, x] for y, x in neighbours]
        if mask[r, c] and not all(inside):
            boundary.append((r, c))
    return boundary


def _slow_directed(
    start: list[tuple[int, int]], end: list[tuple[int, int]], spacing: tuple[float, float]
) -> list[float]:
    return [
        min(math.hypot((a - c) * spacing[0], (b - d) * spacing[1]) for c, d in end)
        for a, b in start
    ]  # fmt: skip


def _slow_percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _slow_hd95_asd(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float]) -> tuple[float, float]:
    if not reference.any() or not prediction.any():
        return math.nan, math.nan
    first, second = _slow_boundary(reference), _slow_boundary(prediction)
    forth, back = _slow_directed(first, second, spacing), _slow_directed(second, first, spacing)
    hd95 = max(_slow_percentile(forth, 0.95), _slow_percentile(back, 0.95))
    return hd95, sum(forth + back) / len(forth + back)


def _slow_overlap(reference: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    first = {tuple(p) for p in np.argwhere(reference)}
    second = {tuple(p) for p in np.argwhere(prediction)}
    if not first and not second:
        return 1.0, 1.0
    common = len(first & second)
    return 2 * common / (len(first) + len(second)), common / len(first | second)


def _degenerate_masks(shape: tuple[int, int] = (9, 7)) -> dict[str, np.ndarray]:
    masks = {
        name: np.zeros(shape, dtype=bool)
        for name in ("empty", "full", "pixel", "corner pixel", "row", "border row", "border block", "ring", "two parts")
    }
    masks["full"][:] = True
    masks["pixel"][4, 3] = True
    masks["corner pixel"][-1, 0] = True
    masks["row"][4, 1:6] = True
    masks["border row"][0] = True
    masks["border block"][5:, 4:] = True
    masks["ring"][2:7, 1:6] = True
    masks["ring"][3:6, 2:5] = False
    masks["two parts"][0, 0] = masks["two parts"][7:, 5:] = True
    return masks


def _ellipse(rng: np.random.Generator, spacing: tuple[float, float], shape: tuple[int, int]) -> np.ndarray:
    centre = [rng.uniform(0.4, 0.6) * n * s for n, s in zip(shape, spacing, strict=True)]
    radius = rng.uniform(0.15, 0.3, size=2) * [n * s for n, s in zip(shape, spacing, strict=True)]
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (
        ((rows * spacing[0] - centre[0]) / radius[0]) ** 2 + ((columns * spacing[1] - centre[1]) / radius[1]) ** 2
    ) < 1


def _assert_like_brute_force(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float]) -> None:
    scores = metrics.slice_scores(reference[None], prediction[None], spacing)
    expected = (*_slow_overlap(reference, prediction), *_slow_hd95_asd(reference, prediction, spacing))
    found = (scores.dsc[0], scores.iou[0], scores.hd95_mm[0], scores.asd_mm[0])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("density", [0.03, 0.3, 0.9])
def test_random_masks_agree_with_brute_force(spacing: tuple[float, float], density: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        _assert_like_brute_force(rng.random((11, 14)) < density, rng.random((11, 14)) < density, spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_pair_of_degenerate_masks_agrees_with_brute_force(spacing: tuple[float, float]) -> None:
    for reference, prediction in itertools.product(_degenerate_masks().values(), repeat=2):
        _assert_like_brute_force(reference, prediction, spacing)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:surface_distance")
@pytest.mark.parametrize("spacing", SPACINGS)
def test_smooth_shapes_agree_with_surface_distance_within_a_pixel(spacing: tuple[float, float]) -> None:
    """That package places its boundary between pixels and weights it by length; hence the tolerance."""
    rng = np.random.default_rng(1)
    pixel_diagonal = math.hypot(*spacing)
    for _ in range(10):
        reference, prediction = _ellipse(rng, spacing, (60, 50)), _ellipse(rng, spacing, (60, 50))
        theirs = surface_distance.compute_surface_distances(reference, prediction, spacing)
        ours = metrics.slice_scores(reference[None], prediction[None], spacing)
        assert abs(ours.hd95_mm[0] - surface_distance.compute_robust_hausdorff(theirs, 95)) < pixel_diagonal
        assert abs(ours.asd_mm[0] - np.mean(surface_distance.compute_average_surface_distance(theirs))) < pixel_diagonal
        assert ours.dsc[0] == pytest.approx(surface_distance.compute_dice_coefficient(reference, prediction))


def test_distances_are_in_mm_along_the_right_axis() -> None:
    masks = np.zeros((2, 12, 12), dtype=bool)
    masks[0, 2, 2] = masks[1, 6, 2] = True
    assert metrics.slice_scores(masks[:1], masks[1:], (0.5, 10.0)).hd95_mm[0] == pytest.approx(4 * 0.5)
    assert metrics.slice_scores(masks[:1], masks[1:], (10.0, 0.5)).asd_mm[0] == pytest.approx(4 * 10.0)


def test_hd95_takes_the_larger_direction() -> None:
    reference = np.zeros((1, 1, 40), dtype=bool)
    prediction = reference.copy()
    reference[..., :20] = True
    prediction[..., :2] = True
    distances = np.arange(1, 19)  # of the reference pixels beyond the prediction; two more are at distance 0
    expected = np.percentile(np.concatenate([[0, 0], distances]), 95)
    for first, second in ((reference, prediction), (prediction, reference)):
        assert metrics.slice_scores(first, second, (1.0, 1.0)).hd95_mm[0] == pytest.approx(expected)


def test_empty_slices_follow_the_convention() -> None:
    empty, full = np.zeros((1, 4, 4), dtype=bool), np.ones((1, 4, 4), dtype=bool)
    both = metrics.slice_scores(empty, empty, (1.0, 1.0))
    assert (both.dsc[0], both.iou[0]) == (1.0, 1.0)
    for scores in (metrics.slice_scores(empty, full, (1.0, 1.0)), metrics.slice_scores(full, empty, (1.0, 1.0))):
        assert (scores.dsc[0], scores.iou[0]) == (0.0, 0.0)
        assert np.isnan(scores.hd95_mm[0]) and np.isnan(scores.asd_mm[0])


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) and \(1, 4, 5\)"):
        metrics.overlap_per_slice(np.zeros((1, 4, 4), dtype=bool), np.zeros((1, 4, 5), dtype=bool))
    with pytest.raises(ValueError, match="foreground in both"):
        metrics.boundary_distances(np.zeros((4, 4), dtype=bool), np.ones((4, 4), dtype=bool), (1.0, 1.0))


def test_counts_agree_with_a_voxel_by_voxel_count() -> None:
    rng = np.random.default_rng(2)
    reference, prediction, valid = rng.random((3, 4, 5, 6)) < 0.5
    rows = list(zip(reference[valid].tolist(), prediction[valid].tolist(), strict=True))
    tp, fp = rows.count((True, True)), rows.count((False, True))
    fn, tn = rows.count((True, False)), rows.count((False, False))
    assert metrics.count_metrics(reference, prediction, valid) == {
        "Dice": pytest.approx(2 * tp / (2 * tp + fp + fn)),
        "IoU": pytest.approx(tp / (tp + fp + fn)),
        "TP": tp,
        "FP": fp,
        "FN": fn,
        "TN": tn,
        "n_pred": tp + fp,
        "n_ref": tp + fn,
    }


def test_a_class_absent_in_both_has_no_volume_score() -> None:
    empty = np.zeros((2, 3, 4), dtype=bool)
    assert math.isnan(metrics.volume_dice(empty, empty))
    counts = metrics.count_metrics(empty, empty)
    assert math.isnan(counts["Dice"]) and math.isnan(counts["IoU"]) and counts["TN"] == 24
    assert metrics.volume_dice(empty, ~empty) == 0.0


def test_interval_is_near_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(3).normal(size=200)
    mean, low, high = metrics.bootstrap_mean_interval(values, np.random.default_rng(0))
    half_width = 1.96 * values.std() / math.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(mean - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(mean + half_width, abs=0.1 * half_width)


def test_a_higher_level_widens_the_interval() -> None:
    values = np.random.default_rng(4).random(30)
    _, low, high = metrics.bootstrap_mean_interval(values, np.random.default_rng(0), level=0.99)
    _, inner_low, inner_high = metrics.bootstrap_mean_interval(values, np.random.default_rng(0), level=0.5)
    assert low < inner_low < inner_high < high


def test_nan_is_ignored() -> None:
    values = np.array([0.1, np.nan, 0.5, 0.9, np.nan])
    expected = metrics.bootstrap_mean_interval(np.array([0.1, 0.5, 0.9]), np.random.default_rng(0))
    assert metrics.bootstrap_mean_interval(values, np.random.default_rng(0)) == expected


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(5).random(20)
    first, second = (metrics.bootstrap_mean_interval(values, np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_too_few_cases_have_no_interval() -> None:
    rng = np.random.default_rng(0)
    assert np.isnan(metrics.bootstrap_mean_interval(np.array([]), rng)).all()
    assert np.isnan(metrics.bootstrap_mean_interval(np.array([np.nan]), rng)).all()
    mean, low, high = metrics.bootstrap_mean_interval(np.array([0.4, np.nan]), rng)
    assert mean == 0.4 and math.isnan(low) and math.isnan(high)


def test_weights_give_the_mean_over_slices() -> None:
    rng = np.random.default_rng(6)
    slices = [rng.random(n) for n in (3, 50, 12, 7)]
    case_means = np.array([s.mean() for s in slices])
    counts = np.array([len(s) for s in slices])
    mean, low, high = metrics.bootstrap_mean_interval(case_means, np.random.default_rng(0), weights=counts)
    assert mean == pytest.approx(np.concatenate(slices).mean())
    assert case_means.min() <= low <= mean <= high <= case_means.max()


def test_classes_are_averaged_after_cases() -> None:
    values = np.array([[1.0, 0.0], [0.0, np.nan], [0.5, np.nan]])
    assert metrics.bootstrap_mean_interval(values, np.random.default_rng(0))[0] == pytest.approx((0.5 + 0.0) / 2)
    one_class = metrics.bootstrap_mean_interval(values[:, :1], np.random.default_rng(0))
    assert one_class == metrics.bootstrap_mean_interval(values[:, 0], np.random.default_rng(0))


def test_a_paired_difference_is_sharper_than_its_terms() -> None:
    first = np.random.default_rng(8).random(40)
    second = first - 0.05 + 0.01 * np.random.default_rng(9).random(40)
    second[3] = np.nan
    mean, low, high = metrics.bootstrap_difference_interval(first, second, np.random.default_rng(0))
    _, single_low, single_high = metrics.bootstrap_mean_interval(first, np.random.default_rng(0))
    assert mean == pytest.approx(np.nanmean(first - second))
    assert 0.03 < low < mean < high < 0.06 and high - low < 0.1 * (single_high - single_low)
    with pytest.raises(ValueError, match="one shape"):
        metrics.bootstrap_difference_interval(first, second[1:], np.random.default_rng(0))
