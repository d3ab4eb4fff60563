"""CPD against its equations written out as loops over sets, and at its borders."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest

from spdnet.prompts.distillation import Consensus, distill_prompts, limit_points, raw_prompts


def literal_consensus(points_syx: np.ndarray, saliency: np.ndarray, tau: float, n: int) -> list[set[int]]:
    """local_i, context_i and their union for every slice, as method and paper write them; sets of point numbers."""
    n_slices, height, width = saliency.shape
    own_points: list[set[int]] = [set() for _ in range(n_slices)]
    pixel = {}
    for number, (s, y, x) in enumerate(points_syx):
        s, y, x = int(np.floor(s + 0.5)), int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
        if 0 <= s < n_slices and 0 <= y < height and 0 <= x < width:
            own_points[s].add(number)
            pixel[number] = (y, x)
    consensus = []
    for i in range(n_slices):
        local = {p for p in own_points[i] if saliency[i][pixel[p]] > tau}
        neighbours = [j for j in range(n_slices) if 0 < abs(j - i) <= n]
        candidate = {p for j in neighbours for p in own_points[j] if saliency[j][pixel[p]] > tau}
        context = {p for p in candidate if saliency[i][pixel[p]] > tau}
        consensus.append(local | context)
    return consensus


def random_volume(seed: int, n_slices: int = 9, n_points: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Points, some outside the map on every side, and saliency."""
    rng = np.random.default_rng(seed)
    saliency = rng.random((n_slices, 12, 15), dtype=np.float32)
    points = rng.uniform([-2, -2, -2], [n_slices + 1, 14, 17], (n_points, 3))
    return points, saliency


def in_slices(consensus: Consensus, n_slices: int) -> list[set[int]]:
    sets: list[set[int]] = [set() for _ in range(n_slices)]
    for s, p in zip(consensus.slice_index, consensus.point_index, strict=True):
        assert p not in sets[s], "a point prompts a slice once"
        sets[s].add(int(p))
    return sets


@pytest.mark.parametrize("n_context", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("tau", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_consensus_is_that_of_the_equations(seed: int, tau: float, n_context: int) -> None:
    points, saliency = random_volume(seed)
    expected = literal_consensus(points, saliency, tau, n_context)
    found = distill_prompts(points, saliency, tau, n_context)
    assert in_slices(found, len(saliency)) == expected
    assert found.slices_with_points(len(saliency)).tolist() == [bool(s) for s in expected]


def test_reasons_and_positions_are_those_of_the_points() -> None:
    points, saliency = random_volume(3)
    found = distill_prompts(points, saliency, 0.4, 2)
    own = np.floor(points + 0.5).astype(int)
    np.testing.assert_array_equal(found.source_slice, own[found.point_index, 0])
    np.testing.assert_array_equal(found.points_yx, points[found.point_index, 1:])
    y, x = own[found.point_index, 1:].T
    np.testing.assert_array_equal(found.saliency, saliency[found.slice_index, y, x])
    assert found.is_local.any()
    assert not found.is_local.all()
    np.testing.assert_array_equal(found.is_local, found.slice_index == own[found.point_index, 0])
    inside = np.all((own >= 0) & (own < saliency.shape), axis=1)
    assert 0 < inside.sum() < len(points)
    assert (found.own_saliency[~inside] == 0).all()
    np.testing.assert_array_equal(found.own_saliency[inside], saliency[tuple(own[inside].T)])
    rejected_everywhere = set(range(len(points))) - set(found.point_index.tolist())
    assert rejected_everywhere == set(np.flatnonzero(found.own_saliency <= np.float32(0.4)).tolist())


def test_order_is_slice_then_local_then_nearest_source() -> None:
    saliency = np.ones((7, 4, 4), dtype=np.float32)
    points = np.array([[1.0, 1, 1], [3, 1, 2], [5, 2, 1], [3, 3, 3], [2, 0, 0], [4, 0, 1]])
    found = distill_prompts(points, saliency, 0.5, 2)
    assert found.point_index[found.slice_index == 3].tolist() == [1, 3, 4, 5, 0, 2]
    assert (np.diff(found.slice_index) >= 0).all()
    np.testing.assert_array_equal(found.in_slice(3), points[[1, 3, 4, 5, 0, 2], 1:])
    limited = limit_points(found, 3)
    assert limited.point_index[limited.slice_index == 3].tolist() == [1, 3, 4]
    assert np.bincount(limited.slice_index).max() == 3
    np.testing.assert_array_equal(limited.in_slice(3), points[[1, 3, 4], 1:])
    assert len(limited.own_saliency) == len(points)
    assert len(limit_points(found, 0).slice_index) == 0


def test_first_and_last_slice_lend_and_borrow_within_the_volume() -> None:
    saliency = np.ones((5, 3, 3), dtype=np.float32)
    found = distill_prompts(np.array([[0.0, 1, 1], [4, 1, 1]]), saliency, 0.5, 2)
    assert in_slices(found, 5) == [{0}, {0}, {0, 1}, {1}, {1}]
    everywhere = distill_prompts(np.array([[4.0, 1, 1]]), saliency, 0.5, 50)
    assert everywhere.slice_index.tolist() == [0, 1, 2, 3, 4]


def test_a_point_rejected_in_its_own_slice_prompts_no_neighbour() -> None:
    saliency = np.ones((3, 2, 2), dtype=np.float32)
    saliency[1] = 0.5  # not above tau
    found = distill_prompts(np.array([[1.0, 0, 0]]), saliency, 0.5, 2)
    assert len(found.slice_index) == 0
    assert found.own_saliency.tolist() == [0.5]


def test_half_positions_belong_to_the_upper_pixel_and_slice() -> None:
    saliency = np.zeros((3, 3, 3), dtype=np.float32)
    saliency[2, 1, 2] = 1
    assert distill_prompts(np.array([[1.5, 0.5, 1.5]]), saliency, 0.5, 0).slice_index.tolist() == [2]
    assert len(distill_prompts(np.array([[1.49, 0.5, 1.5]]), saliency, 0.5, 0).slice_index) == 0


@pytest.mark.parametrize("point", [[-0.51, 1, 1], [2.5, 1, 1], [1, -0.51, 1], [1, 3.5, 1], [1, 1, -0.51], [1, 1, 4.5]])
def test_points_outside_the_map_prompt_nothing(point: list[float]) -> None:
    found = distill_prompts(np.array([point, [1, 1, 1]]), np.ones((3, 4, 5), dtype=np.float32), 0.5, 2)
    assert set(found.point_index.tolist()) == {1}
    assert found.own_saliency[0] == 0


def test_no_points_give_an_empty_consensus() -> None:
    saliency = np.ones((3, 4, 5), dtype=np.float32)
    for found in (distill_prompts(np.zeros((0, 3)), saliency, 0.5, 2), raw_prompts(np.zeros((0, 3)), 3)):
        assert found.points_yx.shape == (0, 2)
        assert not found.slices_with_points(3).any()
        assert found.in_slice(1).shape == (0, 2)


def test_inputs_are_not_changed() -> None:
    points, saliency = random_volume(5)
    copies = points.copy(), saliency.copy()
    distill_prompts(points, saliency, 0.5, 2)
    raw_prompts(points, 9)
    np.testing.assert_array_equal(points, copies[0])
    np.testing.assert_array_equal(saliency, copies[1])


def test_raw_prompts_keep_every_point_in_its_own_slice() -> None:
    points = np.array([[2.0, 1, 1], [0, 2, 2], [1.6, 3, 3], [-1, 0, 0], [3, 0, 0], [0.2, 5, 5]])
    raw = raw_prompts(points, 3)
    assert raw.point_index.tolist() == [1, 5, 0, 2]
    assert raw.slice_index.tolist() == raw.source_slice.tolist() == [0, 0, 2, 2]
    np.testing.assert_array_equal(raw.in_slice(2), [[1, 1], [3, 3]])
    assert raw.is_local.all()
    assert np.isnan(raw.saliency).all()
    assert len(raw.own_saliency) == len(points)


def test_a_large_volume_takes_less_than_50_ms() -> None:
    rng = np.random.default_rng(0)
    saliency = rng.random((500, 56, 56), dtype=np.float32)
    points = np.concatenate([np.repeat(np.arange(500.0), 20)[:, None], rng.uniform(0, 55, (10_000, 2))], axis=1)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        distill_prompts(points, saliency, 0.5, 2)
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 0.05
