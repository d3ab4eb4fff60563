"""Agreement of neighbouring slices: against a plain loop, on cases whose answer is known, and through a volume."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from spdnet.inference.class_rules import Rules
from spdnet.inference.prompt_report import judge_prompts
from spdnet.inference.prompting import asked_agreement, distill_volume, rows_of_slices
from spdnet.planning.plans import AgreementSettings, DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.agreement import agreement
from spdnet.prompts.background import WHOLE_MAPS, Background
from spdnet.prompts.fates import Fate
from spdnet.prompts.learned_trust import LearnedTrust
from spdnet.tests.tiny import measured_shares

SIDE = 28
RULE = DistillationSettings(agreement=AgreementSettings("neighbours"))


def two_structures(n_slices: int = 12) -> np.ndarray:
    """Saliency (S, 28, 28) that is high on two squares of 7 x 7 pixels in every slice."""
    saliency = np.zeros((n_slices, SIDE, SIDE), np.float32)
    saliency[:, 3:10, 3:10] = saliency[:, 17:24, 17:24] = 0.9
    return saliency


def in_square(rng: np.random.Generator, slices: np.ndarray, low: int) -> np.ndarray:
    """One point per slice in the square from `low` to `low` + 6, float (N, 3)."""
    return np.column_stack([slices, rng.uniform(low, low + 6, (len(slices), 2))])


def kept_by(points: np.ndarray, saliency: np.ndarray, rule: DistillationSettings) -> np.ndarray:
    """bool (N,): which points the rule leaves."""
    asked, least = asked_agreement(points, saliency, rule)
    assert asked is not None
    return ~(asked < least)


def prompts_of(points: np.ndarray) -> SlicePrompts:
    """Of one class."""
    return replace(SlicePrompts.empty(), points_syx=points, class_index=np.zeros(len(points), np.int64))


def by_surplus() -> LearnedTrust:
    """Trusts points round which there are more than twice as many salient ones as chance would put there."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in LearnedTrust.shapes().items()}
    arrays["scale"] += 1
    arrays["weight_1"][-1, 0] = arrays["weight_2"][0, 0] = arrays["weight_3"][0] = 1
    arrays["bias_3"] -= np.float32(np.log(2))
    return LearnedTrust(**arrays)


def by_loop(
    points: np.ndarray,
    saliency: np.ndarray,
    tau: float,
    n: int,
    radius: float,
    background: Background = WHOLE_MAPS,
) -> np.ndarray:
    """The definition, written out; areas are exact, so radii must be small enough for one sample per pixel."""
    height, width = saliency.shape[1:]
    yy, xx = np.mgrid[:height, :width]
    pixels = np.floor(points + 0.5).astype(int)
    in_maps = [bool(((p >= 0) & (p < saliency.shape)).all()) for p in pixels]
    hits = [ok and saliency[tuple(p)] > tau for ok, p in zip(in_maps, pixels, strict=True)]
    odds = []
    for point, (s, y, x), hit in zip(points, pixels, hits, strict=True):
        if not hit:
            odds.append(math.nan)
            continue
        window = [j for j in range(len(saliency)) if abs(j - s) <= n]
        salient = saliency[window] > tau
        n_hits = sum(h for h, p in zip(hits, pixels, strict=True) if p[0] in window)
        density = 0.0
        for speaks_for_all in (False, True):
            taken = saliency if not speaks_for_all or background.highest is None else background.highest
            own = [
                p
                for i, p in enumerate(pixels)
                if in_maps[i] and (background.for_all is not None and background.for_all[i]) == speaks_for_all
            ]
            n_misses = sum(p[0] in window and taken[tuple(p)] <= tau for p in own)
            free = [max(background.content_share * height * width - (taken[j] > tau).sum(), 0) for j in window]
            density += n_misses / max(sum(free), 1)
        chance = min(density * salient.sum(), n_hits)
        per_slice = (n_hits - chance) / salient.any(axis=(1, 2)).sum()
        share = near_area = found = 0.0
        for j in window:
            if j == s:
                continue
            near = (saliency[j] > tau) & ((yy - y) ** 2 + (xx - x) ** 2 <= radius**2)
            pieces, n_pieces = ndimage.label(saliency[j] > tau, np.ones((3, 3)))
            parts = [(near & (pieces == i)).sum() / (pieces == i).sum() for i in range(1, n_pieces + 1)]
            share += min(sum(parts), 1)
            near_area += near.sum()
            distance = (points[:, 1] - point[1]) ** 2 + (points[:, 2] - point[2]) ** 2
            found += sum(h and p[0] == j and d <= radius**2 for h, p, d in zip(hits, pixels, distance, strict=True))
        by_chance, by_target = density * near_area + 1e-9, per_slice * share
        prior = math.log((n_hits - chance + 1e-9) / (chance + 1e-9))
        odds.append(prior + found * math.log(1 + by_target / by_chance) - by_target)
    return np.array(odds)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_odds_of_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    saliency = (rng.random((6, 15, 17)) ** 2).astype(np.float32)
    points = rng.uniform((-1, -2, -2), (7, 17, 19), (40, 3)).round(2)
    points[:, 0] = points[:, 0].round()
    points[:16] = rng.permutation(np.argwhere(saliency > 0.3))[:16]  # the others leave some to the target
    arguments = (0.3, int(rng.integers(1, 4)), float(rng.uniform(1, 5)))
    other = saliency[:, ::-1] ** 2
    of_classes = Background(0.9, rng.random(40) < 0.5, np.maximum(saliency, other))
    odds = []
    for background in (WHOLE_MAPS, Background(0.8), of_classes):
        expected = by_loop(points, saliency, *arguments, background)
        odds.append(expected)
        assert np.isfinite(expected).any() and np.isnan(expected).any()
        found = agreement(points, saliency, *arguments, background)
        np.testing.assert_allclose(found, expected, atol=1e-9, equal_nan=True)
    assert not np.allclose(odds[0], odds[1], equal_nan=True) and not np.allclose(odds[0], odds[2], equal_nan=True)


def test_the_area_is_near_enough_where_it_is_sampled() -> None:
    saliency = np.kron(two_structures(), np.ones((1, 8, 8), np.float32))  # 224 px
    run = np.column_stack([np.arange(12), np.full((12, 2), 50.0)])
    points = np.concatenate([run, np.column_stack([np.arange(12), np.full((12, 2), 120.0)])])
    sampled, exact = agreement(points, saliency, 0.5, 2, 32.0), by_loop(points, saliency, 0.5, 2, 32.0)
    np.testing.assert_allclose(sampled, exact, rtol=0.05)


def test_a_run_of_points_is_kept_and_chance_hits_on_the_twin_are_not() -> None:
    rng, saliency = np.random.default_rng(0), two_structures()
    target = in_square(rng, np.arange(12), 3)
    chance = in_square(rng, np.array([2, 9]), 17)
    elsewhere = np.column_stack([np.repeat(np.arange(12), 2), np.tile([[1.0, 20], [26, 26]], (12, 1))])
    kept = kept_by(np.concatenate([target, chance, elsewhere]), saliency, RULE)
    assert kept[:12].mean() > 0.8 and not kept[12:14].any()


def test_a_click_without_noise_around_is_trusted_though_nobody_agrees() -> None:
    points = np.array([[2, 6, 6], [9, 20, 20]], float)
    assert kept_by(points, two_structures(), RULE).all()


def test_padding_is_no_room_for_chance() -> None:
    """The same slices, half as wide as high, alone and padded to squares."""
    rng, narrow = np.random.default_rng(7), two_structures()[:, :, :14]
    points = np.concatenate([in_square(rng, np.arange(12), 3), rng.uniform((0, 0, 0), (11, 27, 13), (36, 3)).round()])
    alone = agreement(points, narrow, 0.5, 8, 4.0)
    padded, moved = np.pad(narrow, ((0, 0), (0, 0), (7, 7))), points + np.array([0, 0, 7])
    np.testing.assert_allclose(agreement(moved, padded, 0.5, 8, 4.0, Background(0.5)), alone, equal_nan=True)
    assert np.nanmax(np.abs(agreement(moved, padded, 0.5, 8, 4.0) - alone)) > 0.5


def test_saliency_beyond_the_image_leaves_some_room() -> None:
    saliency = np.full((12, SIDE, SIDE), 0.9, np.float32)
    saliency[:, :4] = 0
    points = np.column_stack([np.repeat(np.arange(12), 2), np.tile([[6.0, 6], [1, 20]], (12, 1))])
    odds = agreement(points, saliency, 0.5, 8, 4.0, Background(0.5))
    assert np.isfinite(odds[::2]).all() and (odds[::2] < 0).all(), "as many misses as hits, and hardly room for them"


@pytest.mark.parametrize("learned", [False, True])
def test_volume_stream_and_report_allow_for_the_padding(learned: bool) -> None:
    rng, saliency = np.random.default_rng(6), np.zeros((20, 1, SIDE, SIDE), np.float32)
    saliency[:, 0, 3:10, 3:10] = saliency[:, 0, 17:24, 3:10] = 0.9
    points = np.concatenate([in_square(rng, np.arange(20), 3), rng.uniform((0, 0, 0), (19, 27, 13), (60, 3)).round()])
    prompts, rule, measured = prompts_of(points), replace(RULE, max_points=100), None
    if learned:
        rule, measured = replace(rule, trust="learned"), replace(measured_shares(), trust=(by_surplus(),))
    by_square, by_image = (
        distill_volume(prompts, saliency, Rules(rule, SIDE, measured), share)[0] for share in (1.0, 0.5)
    )
    assert set(by_image.point_index.tolist()) < set(by_square.point_index.tolist()), "chance is denser"
    part = rows_of_slices(prompts, saliency, 8, 12, Rules(rule, SIDE, measured), 0.5)
    for s, own, real in zip(part.slice_index, part.points_yx, part.point_is_real, strict=True):
        np.testing.assert_allclose(own[real], by_image.in_slice(s), atol=1e-4)
    (fates,) = judge_prompts(prompts, saliency, Rules(rule, SIDE, measured), content_share=0.5).fates
    kept = [f.is_kept for f in fates.fates]
    assert set(fates.point_index[kept].tolist()) == set(by_image.point_index.tolist())


def two_classes(large: int, n_slices: int = 20) -> np.ndarray:
    """Saliency (S, 2, 28, 28): a square of `large` pixels a side, and one of 5, in other places."""
    saliency = np.zeros((n_slices, 2, SIDE, SIDE), np.float32)
    saliency[:, 0, 1 : 1 + large, 1 : 1 + large] = 0.9
    saliency[:, 1, 22:27, 22:27] = 0.9
    return saliency


@pytest.mark.parametrize("learned", [False, True])
def test_right_points_without_a_class_are_not_chance_for_the_others(learned: bool) -> None:
    rng, saliency = np.random.default_rng(8), two_classes(20)
    of_large = np.column_stack([np.arange(20), rng.uniform(7, 14, (20, 2))])
    of_small = np.column_stack([np.repeat(np.arange(20), 3), rng.uniform(22, 26, (60, 2))])
    points = np.concatenate([of_large, of_small])
    named = SlicePrompts(points, np.repeat([0, 1], [20, 60]))
    rule, measured = replace(RULE, n_context=0, max_points=100), None
    if learned:
        trust = by_surplus()
        rule, measured = replace(rule, trust="learned"), replace(measured_shares(2), trust=(trust, trust))
    for prompts in (named, named.for_all_classes()):
        large, small = (c.points_yx for c in distill_volume(prompts, saliency, Rules(rule, SIDE, measured)))
        np.testing.assert_allclose(large, of_large[:, 1:])
        np.testing.assert_allclose(small, of_small[:, 1:])
        rows = rows_of_slices(prompts, saliency, 8, 12, Rules(rule, SIDE, measured))
        assert rows.point_is_real.sum(axis=1).tolist() == [1] * 4 + [3] * 4
        fates = judge_prompts(prompts, saliency, Rules(rule, SIDE, measured)).fates
        assert [sum(f.is_kept for f in own.fates) for own in fates] == [20, 60]


def test_the_area_of_other_classes_is_no_room_for_chance_either() -> None:
    """Points without a class tell what they would if the other class and what lies on it were cut out."""
    rng, saliency = np.random.default_rng(9), two_classes(20)
    points = np.concatenate(
        [
            np.column_stack([np.arange(20), rng.uniform(22, 26, (20, 2))]),
            np.column_stack([np.repeat(np.arange(20), 8), rng.uniform(-0.5, 27.5, (160, 2))]),
        ]
    )
    pixels = tuple(np.floor(points + 0.5).astype(int).T)
    elsewhere = saliency[:, 0][pixels] > 0.5
    background = Background(1.0, np.ones(180, bool), saliency.max(axis=1))
    found = agreement(points, saliency[:, 1], 0.5, 4, 4.0, background)
    cut_out = agreement(points[~elsewhere], saliency[:, 1], 0.5, 4, 4.0, Background(1 - 20**2 / SIDE**2))
    assert 60 < elsewhere.sum() < 120
    np.testing.assert_allclose(found[~elsewhere], cut_out, equal_nan=True)


def test_points_of_chance_alone_are_dropped() -> None:
    rng, saliency = np.random.default_rng(2), two_structures(60)
    points = np.column_stack([np.repeat(np.arange(60), 5), rng.uniform(0, 27, (300, 2))])
    odds = agreement(points, saliency, 0.5, 4, 4.0)
    hits = ~np.isnan(odds)
    assert hits.sum() > 20 and kept_by(points, saliency, RULE)[hits].mean() < 0.2


def test_a_drifting_run_agrees_with_itself() -> None:
    saliency = np.full((12, SIDE, SIDE), 0.9, np.float32)
    line = np.column_stack([np.arange(12.0), np.linspace(4, 22, 12), np.linspace(20, 6, 12)])
    noise = np.column_stack([np.repeat(np.arange(12), 2), np.random.default_rng(3).uniform(0, 27, (24, 2))])
    kept = kept_by(np.concatenate([line, noise]), saliency, RULE)
    assert kept[:12].all()


def test_off_it_says_nothing_and_distillation_is_the_papers() -> None:
    saliency, rng = two_structures(), np.random.default_rng(1)
    points = in_square(rng, np.array([1, 6]), 17)
    assert asked_agreement(points, saliency, DistillationSettings())[0] is None
    noise = np.column_stack([np.repeat(np.arange(12), 2), np.full((24, 2), 26.0)])
    crowd = np.concatenate([points, in_square(rng, np.arange(12), 3), noise])
    off, on = (
        distill_volume(prompts_of(crowd), saliency[:, None], Rules(s, SIDE))[0] for s in (DistillationSettings(), RULE)
    )
    assert {0, 1} <= set(off.point_index.tolist())
    assert not {0, 1} & set(on.point_index.tolist())


def test_a_stream_decides_as_the_whole_volume_does() -> None:
    rng, saliency = np.random.default_rng(4), two_structures(20)[:, None]
    points = np.concatenate([in_square(rng, np.arange(20), 3), rng.uniform((0, 0, 0), (19, 27, 27), (60, 3)).round()])
    prompts = prompts_of(points)
    whole = rows_of_slices(prompts, saliency, 0, 20, Rules(RULE, SIDE))
    for first in range(0, 20, 3):
        seen = saliency.copy()
        seen[min(first + 3 + 6, 20) :] = np.nan  # not computed yet
        part = rows_of_slices(prompts, seen, first, min(first + 3, 20), Rules(RULE, SIDE))
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
        judge_prompts(prompts, saliency, Rules(RULE, SIDE)).fates,
        distill_volume(prompts, saliency, Rules(RULE, SIDE)),
    )
    alone = set(fates.point_index[fates.rows(Fate.REJECTED_ALONE)].tolist())
    assert alone and not alone & set(consensus.point_index.tolist())
    kept = [f.is_kept for f in fates.fates]
    told = set(zip(fates.point_index[kept].tolist(), fates.target_slice[kept].tolist(), strict=True))
    assert told == set(zip(consensus.point_index.tolist(), consensus.slice_index.tolist(), strict=True))
