"""Agreement of neighbouring slices: against a plain loop, on cases whose answer is known, and through a volume."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from spdnet.inference.prompt_report import judge_prompts
from spdnet.inference.prompting import agreeing_points, distill_volume, rows_of_slices
from spdnet.planning.plans import AgreementSettings, DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.agreement import agreement
from spdnet.prompts.fates import Fate

SIDE = 28
RULE = DistillationSettings(agreement=AgreementSettings("neighbours", radius=0.25))


def two_structures(n_slices: int = 12) -> np.ndarray:
    """Saliency (S, 28, 28) that is high on two squares of 7 x 7 pixels in every slice."""
    saliency = np.zeros((n_slices, SIDE, SIDE), np.float32)
    saliency[:, 3:10, 3:10] = saliency[:, 17:24, 17:24] = 0.9
    return saliency


def in_square(rng: np.random.Generator, slices: np.ndarray, low: int) -> np.ndarray:
    """One point per slice in the square from `low` to `low` + 6, float (N, 3)."""
    return np.column_stack([slices, rng.uniform(low, low + 6, (len(slices), 2))])


def prompts_of(points: np.ndarray) -> SlicePrompts:
    """Of one class."""
    return replace(SlicePrompts.empty(), points_syx=points, class_index=np.zeros(len(points), np.int64))


def by_loop(points: np.ndarray, saliency: np.ndarray, tau: float, n: int, radius: float, density: float) -> np.ndarray:
    """The definition, written out; areas are exact, so radii must be small enough for one sample per pixel."""
    ratio = []
    height, width = saliency.shape[1:]
    yy, xx = np.mgrid[:height, :width]
    pixels = np.floor(points + 0.5).astype(int)

    def is_salient(s: int, y: int, x: int) -> bool:
        return 0 <= s < len(saliency) and 0 <= y < height and 0 <= x < width and saliency[s, y, x] > tau

    for point, (s, y, x) in zip(points, pixels, strict=True):
        if not is_salient(s, y, x):
            ratio.append(math.nan)
            continue
        found, chance, target = 0, 0.0, 0.0
        for other in range(max(0, s - n), min(len(saliency), s + n + 1)):
            if other == s:
                continue
            area = ((saliency[other] > tau) & ((yy - y) ** 2 + (xx - x) ** 2 <= radius**2)).sum()
            if area:
                target += min(density, 1.0) * area / (saliency[other] > tau).sum()
                chance += density * area / (height * width)
            for q, p in zip(points, pixels, strict=True):
                near = (q[1] - point[1]) ** 2 + (q[2] - point[2]) ** 2 <= radius**2
                found += bool(p[0] == other and near and is_salient(*p))
        ratio.append(found * math.log((chance + target) / chance) - target if chance else -target)
    return np.array(ratio)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_likelihood_ratio_of_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    saliency = (rng.random((6, 15, 17)) ** 2).astype(np.float32)
    points = rng.uniform((-1, -2, -2), (7, 17, 19), (40, 3)).round(2)
    points[:, 0] = points[:, 0].round()
    arguments = (0.3, int(rng.integers(1, 4)), float(rng.uniform(1, 5)), float(rng.uniform(0.2, 8)))
    np.testing.assert_allclose(
        agreement(points, saliency, *arguments), by_loop(points, saliency, *arguments), atol=1e-9, equal_nan=True
    )


def test_the_area_is_near_enough_where_it_is_sampled() -> None:
    saliency = np.kron(two_structures(), np.ones((1, 8, 8), np.float32))  # 224 px
    points = np.column_stack([np.arange(12), np.full((12, 2), 50.0)])
    sampled, exact = agreement(points, saliency, 0.5, 2, 32.0, 4.0), by_loop(points, saliency, 0.5, 2, 32.0, 4.0)
    np.testing.assert_allclose(sampled, exact, rtol=0.05)


def test_a_run_of_points_is_kept_and_chance_hits_on_the_twin_are_not() -> None:
    rng, saliency = np.random.default_rng(0), two_structures()
    target = in_square(rng, np.arange(12), 3)
    chance = in_square(rng, np.array([2, 6, 9]), 17)
    elsewhere = np.column_stack([np.repeat(np.arange(12), 3), np.tile([[1.0, 20], [20, 2], [26, 26]], (12, 1))])
    points = np.concatenate([target, chance, elsewhere])
    kept = agreeing_points(points, saliency, RULE, len(points) / 12)
    assert kept is not None
    assert kept[:12].all() and not kept[12:15].any()


@pytest.mark.parametrize("points", [[[5, 6, 6]], [[2, 6, 6], [9, 20, 20]]], ids=["one click", "two clicks"])
def test_few_clicks_are_trusted_though_nobody_agrees(points: list[list[float]]) -> None:
    kept = agreeing_points(np.array(points, float), two_structures(), RULE, len(points) / 12)
    assert kept is not None and kept.all()


def test_a_drifting_run_agrees_with_itself() -> None:
    saliency = np.full((12, SIDE, SIDE), 0.9, np.float32)
    line = np.column_stack([np.arange(12.0), np.linspace(4, 22, 12), np.linspace(20, 6, 12)])
    noise = np.column_stack([np.repeat(np.arange(12), 2), np.random.default_rng(3).uniform(0, 27, (24, 2))])
    kept = agreeing_points(np.concatenate([line, noise]), saliency, RULE, 3.0)
    assert kept is not None and kept[:12].all()


def test_off_it_says_nothing_and_distillation_is_the_papers() -> None:
    saliency, rng = two_structures(), np.random.default_rng(1)
    points = in_square(rng, np.array([1, 6]), 17)
    assert agreeing_points(points, saliency, DistillationSettings(), 2.0) is None
    crowd = np.concatenate([points, in_square(rng, np.arange(12), 3)])
    off, on = (distill_volume(prompts_of(crowd), saliency[:, None], SIDE, s)[0] for s in (DistillationSettings(), RULE))
    assert {0, 1} <= set(off.point_index.tolist())
    assert not {0, 1} & set(on.point_index.tolist())


def test_a_stream_decides_as_the_whole_volume_does() -> None:
    rng, saliency = np.random.default_rng(4), two_structures(20)[:, None]
    points = np.concatenate([in_square(rng, np.arange(20), 3), rng.uniform((0, 0, 0), (19, 27, 27), (60, 3)).round()])
    prompts = prompts_of(points)
    whole = rows_of_slices(prompts, saliency, 0, 20, SIDE, RULE)
    for first in range(0, 20, 3):
        seen = saliency.copy()
        seen[min(first + 3 + 4, 20) :] = np.nan  # not computed yet
        part = rows_of_slices(prompts, seen, first, min(first + 3, 20), SIDE, RULE)
        expected = whole.select((whole.slice_index >= first) & (whole.slice_index < first + 3))
        np.testing.assert_array_equal(part.slice_index, expected.slice_index)
        for a, b in zip(part.points_yx, expected.points_yx, strict=True):
            np.testing.assert_array_equal(a[a.any(axis=1)], b[b.any(axis=1)])


def test_the_fates_tell_what_distillation_did() -> None:
    rng, saliency = np.random.default_rng(5), two_structures()[:, None]
    points = np.concatenate([in_square(rng, np.arange(12), 3), in_square(rng, np.array([2, 8]), 17)])
    points = np.concatenate([points, rng.uniform((0, 0, 0), (11, 27, 27), (36, 3)).round()])
    prompts = prompts_of(points)
    (fates,), (consensus,) = (
        judge_prompts(prompts, saliency, SIDE, RULE).fates,
        distill_volume(prompts, saliency, SIDE, RULE),
    )
    alone = set(fates.point_index[fates.rows(Fate.REJECTED_ALONE)].tolist())
    assert alone and not alone & set(consensus.point_index.tolist())
    kept = [f.is_kept for f in fates.fates]
    told = set(zip(fates.point_index[kept].tolist(), fates.target_slice[kept].tolist(), strict=True))
    assert told == set(zip(consensus.point_index.tolist(), consensus.slice_index.tolist(), strict=True))
