"""What became of every point."""

from __future__ import annotations

import numpy as np
import pytest

from spdnet.prompts.distillation import distill_prompts, limit_points
from spdnet.prompts.fates import Fate, among_given, point_fates


@pytest.mark.parametrize("seed", range(8))
def test_kept_points_are_those_of_the_consensus(seed: int) -> None:
    rng = np.random.default_rng(seed)
    saliency = rng.random((7, 9, 8)).astype(np.float32) ** 0.7
    points = rng.uniform([-1, -1, -1], [7.4, 9.4, 8.4], size=(60, 3))
    tau, n_context, max_points = 0.5, int(rng.integers(0, 4)), int(rng.integers(1, 12))
    fates = point_fates(points, saliency, tau, n_context, max_points)
    consensus = limit_points(distill_prompts(points, saliency, tau, n_context), max_points)
    kept = [i for i, fate in enumerate(fates.fates) if fate.is_kept]
    found = {(int(fates.target_slice[i]), int(fates.point_index[i])) for i in kept}
    expected = set(zip(consensus.slice_index.tolist(), consensus.point_index.tolist(), strict=True))
    assert found == expected
    assert len(kept) == len(expected)
    local = {(int(fates.target_slice[i]), int(fates.point_index[i])) for i in fates.rows(Fate.KEPT_LOCAL)}
    where = zip(consensus.slice_index[consensus.is_local].tolist(), consensus.point_index[consensus.is_local].tolist())  # noqa: B905
    assert local == set(where)
    assert set(fates.point_index.tolist()) == set(range(60)), "every point has a fate"


def test_each_fate_is_told_with_the_saliency_that_decided() -> None:
    saliency = np.zeros((4, 3, 3), dtype=np.float32)
    saliency[1, 1, 1], saliency[2, 1, 1], saliency[3, 1, 1] = 0.9, 0.8, 0.2
    points = np.array([[1.0, 1, 1], [3, 1, 1], [9, 1, 1], [1, 1, 1]])
    fates = point_fates(points, saliency, 0.5, 2, 1)

    def number(value: float) -> float | None:
        return None if np.isnan(value) else round(float(value), 2)

    told = [
        (int(p), int(s), int(t), number(o), number(h), f)
        for p, s, t, o, h, f in zip(
            fates.point_index, fates.source_slice, fates.target_slice, fates.own_saliency, fates.saliency, fates.fates,
            strict=True,
        )
    ]  # fmt: skip
    assert told == [
        (0, 1, 0, 0.9, 0.0, Fate.REJECTED_HERE),
        (0, 1, 1, 0.9, 0.9, Fate.KEPT_LOCAL),
        (0, 1, 2, 0.9, 0.8, Fate.KEPT_CONTEXT),
        (0, 1, 3, 0.9, 0.2, Fate.REJECTED_HERE),
        (1, 3, 3, 0.2, 0.2, Fate.REJECTED_OWN),
        (2, 9, 9, None, None, Fate.OUTSIDE),
        (3, 1, 0, 0.9, 0.0, Fate.REJECTED_HERE),
        (3, 1, 1, 0.9, 0.9, Fate.OVER_LIMIT),
        (3, 1, 2, 0.9, 0.8, Fate.OVER_LIMIT),
        (3, 1, 3, 0.9, 0.2, Fate.REJECTED_HERE),
    ]
    assert len(point_fates(np.zeros((0, 3)), saliency, 0.5, 2, 1)) == 0


def test_points_outside_the_crop_are_told_among_all_that_were_given() -> None:
    saliency = np.full((4, 3, 3), 0.9, dtype=np.float32)
    judged = point_fates(np.array([[1.0, 1, 1], [3, 1, 1]]), saliency, 0.5, 1, 9)
    told = among_given(judged, np.array([1, 4]), np.array([1, 0, 1, 0, 0, 1], dtype=bool), np.array([0, 1, 2, 1, 3, 3]))
    assert told.point_index.tolist() == [0, 1, 1, 1, 2, 4, 4, 5]
    assert told.source_slice.tolist() == [0, 1, 1, 1, 2, 3, 3, 3]
    assert told.target_slice.tolist() == [0, 0, 1, 2, 2, 2, 3, 3]
    assert told.rows(Fate.OUTSIDE).tolist() == [0, 4, 7]
    assert np.isnan(told.saliency).tolist() == [f is Fate.OUTSIDE for f in told.fates]
    nothing = among_given(
        point_fates(np.zeros((0, 3)), saliency, 0.5, 1, 9), np.zeros(0, int), np.ones(1, bool), np.ones(1, int)
    )
    assert nothing.fates == (Fate.OUTSIDE,)
