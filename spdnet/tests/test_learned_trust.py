"""Trust that is learned from the training cases: what it sees of a point, the fit, and where it decides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import logit

from spdnet.inference.class_rules import MeasuredShares, Rules
from spdnet.inference.prompt_report import judge_prompts
from spdnet.inference.prompting import distill_volume, reach_of_context, rows_of_slices
from spdnet.planning.plans import AgreementSettings, DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.background import Background
from spdnet.prompts.distillation import distill_prompts, point_uses
from spdnet.prompts.fates import Fate
from spdnet.prompts.learned_trust import LearnedTrust, distill_by_trust, judge_uses
from spdnet.prompts.point_features import N_FEATURES, REACH, describe_uses
from spdnet.tests.tiny import measured_shares
from spdnet.training.trust_learning import Examples, _perturbed, fit_trust

LEARNED = DistillationSettings(trust="learned")
SIDE = 32


def a_volume(rng: np.random.Generator, n_slices: int = 24, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Saliency of a tube and of a look-alike beside it, float32 (S, M, M), and the tube itself, bool."""
    y, x = np.mgrid[:side, :side]
    tube = np.zeros((n_slices, side, side), dtype=bool)
    other = np.zeros_like(tube)
    for s in range(4, n_slices - 4):
        tube[s] = (y - side * 0.3) ** 2 + (x - side * 0.3) ** 2 < (side / 7) ** 2
        other[s] = (y - side * 0.7) ** 2 + (x - side * 0.7) ** 2 < (side / 7) ** 2
    saliency = np.where(tube | other, 0.9, 0.05) + rng.uniform(-0.04, 0.04, tube.shape)
    return saliency.astype(np.float32), tube


def its_points(tube: np.ndarray, rng: np.random.Generator, n_random: int = 10) -> np.ndarray:
    """One point on the tube in each of its slices, and random ones in all: float64 (N, 3)."""
    points = [(s, *rng.permutation(np.argwhere(tube[s]))[0]) for s in np.flatnonzero(tube.any(axis=(1, 2)))]
    n_slices, side, _ = tube.shape
    points += [(s, *rng.uniform(0, side - 1, 2)) for s in range(n_slices) for _ in range(n_random)]
    return np.array(points, dtype=np.float64)


def examples_of(n_volumes: int, seed: int, n_context: int = 2) -> Examples:
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(n_volumes):
        saliency, tube = a_volume(rng)
        uses = point_uses(its_points(tube, rng), saliency.shape, n_context)
        parts.append((describe_uses(uses, saliency), tube[uses.slice_index, uses.pixel[:, 0], uses.pixel[:, 1]]))
    return Examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@pytest.fixture(scope="module")
def trust() -> LearnedTrust:
    return fit_trust(examples_of(8, 0), np.random.default_rng(0))


def shares(*trust: LearnedTrust | None) -> MeasuredShares:
    return dataclasses.replace(measured_shares(len(trust), peaks=[0] * len(trust)), trust=trust)


def test_uses_are_those_that_distillation_considers() -> None:
    rng = np.random.default_rng(1)
    points = np.column_stack([rng.uniform(-2, 26, 60), rng.uniform(-3, SIDE + 2, (60, 2))])
    everywhere = distill_prompts(points, np.ones((24, SIDE, SIDE), dtype=np.float32), 0.5, 2)
    uses = point_uses(points, (24, SIDE, SIDE), 2)
    uses = uses.select(uses.order())
    for name in ("slice_index", "point_index", "source_slice"):
        np.testing.assert_array_equal(getattr(uses, name), getattr(everywhere, name))
    assert len(np.unique(uses.point_index)) < 60, "some lie outside"


def logit_of(probability: float) -> float:
    return float(logit(np.clip(probability, 1e-3, 1 - 1e-3)))


@pytest.mark.parametrize(("n_context", "content_share", "for_all"), [(0, 1.0, 0.0), (2, 0.9, 0.0), (6, 1.0, 0.5)])
def test_features_are_what_a_loop_over_points_counts(n_context: int, content_share: float, for_all: float) -> None:
    rng = np.random.default_rng(2)
    saliency = rng.uniform(0, 1, (20, SIDE, SIDE)).astype(np.float32)
    points = np.column_stack([rng.uniform(0, 19, 50), rng.uniform(0, SIDE - 1, (50, 2))])
    uses = point_uses(points, saliency.shape, n_context)
    highest = np.maximum(saliency, rng.uniform(0, 1, saliency.shape)).astype(np.float32)
    speaks_for_all = rng.random(50) < for_all
    found = describe_uses(uses, saliency, Background(content_share, speaks_for_all, highest))
    pixels = np.floor(points + 0.5).astype(int)
    weights = saliency[tuple(pixels.T)].astype(float)
    y, x = np.mgrid[:SIDE, :SIDE]

    def counted(p: int, place: tuple[int, int], width: float, slices: list[int]) -> float:
        """Other points that lie near in some slices."""
        return float(
            sum(
                w * np.exp(-((pixels[q, 1] - place[0]) ** 2 + (pixels[q, 2] - place[1]) ** 2) / (2 * width**2))
                for q, w in enumerate(weights)
                if q != p and pixels[q, 0] in slices
            )
        )

    def near(place: tuple[int, int], width: float) -> np.ndarray:
        return np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / (2 * width**2))

    def surplus(p: int, s: int, place: tuple[int, int], width: float, window: int) -> tuple[float, float]:
        reached = [t for t in range(20) if abs(t - s) <= REACH]
        density = 0.0
        for kind, maps in ((False, saliency), (True, highest)):
            own = [q for q in range(50) if speaks_for_all[q] == kind and pixels[q, 0] in reached]
            missed = sum(1 - float(maps[tuple(pixels[q])]) for q in own)
            density += missed / sum(content_share * SIDE**2 - maps[t].sum() for t in reached)
        others = [t for t in range(20) if 0 < abs(t - s) <= window]
        n = counted(p, place, width, others)
        chance = density * sum((saliency[t] * near(place, width)).sum() for t in others)
        return float(np.log((n + 0.2) / (chance + 0.2))), n / len(others)

    def at_home(q: int) -> float:
        return surplus(q, pixels[q, 0], (pixels[q, 1], pixels[q, 2]), SIDE / 8, 8)[0]

    for row in rng.choice(len(found), 25, replace=False).tolist():
        s, p = int(uses.slice_index[row]), int(uses.point_index[row])
        place = int(uses.pixel[row, 0]), int(uses.pixel[row, 1])
        around = (saliency[s] * near(place, SIDE / 32)).sum() / near((SIDE // 2, SIDE // 2), SIDE / 32).sum()
        expected = [logit_of(saliency[s][place]), logit_of(around), logit_of(saliency[s].max())]
        for width in (SIDE / 16, SIDE / 8):
            for window in (2, 4, 8):
                expected += surplus(p, s, place, width, window)
            expected.append(counted(p, place, width, [s]))
        sides = [counted(p, place, SIDE / 8, list(part)) for part in (range(s - 4, s), range(s + 1, s + 5))]
        there = [q for q in range(50) if pixels[q, 0] == s and q != p]
        expected += [min(sides), max(sides), np.log1p(sum(pixels[:, 0] == s)), sum(weights[q] for q in there)]
        expected += [max((weights[q] for q in there), default=0.0)]
        expected += [max((at_home(q) for q in there), default=np.log(0.2))]
        expected += [abs(s - pixels[p, 0]), logit_of(weights[p]), at_home(p)]
        np.testing.assert_allclose(found[row], expected, rtol=2e-3, atol=2e-3)
    assert found.shape == (len(uses.slice_index), N_FEATURES) and found.dtype == np.float32


def test_maps_are_looked_at_in_the_same_coarse_cells_at_any_size() -> None:
    rng = np.random.default_rng(3)
    saliency, tube = a_volume(rng, side=64)
    points = its_points(tube, rng)
    large = np.repeat(np.repeat(saliency, 4, axis=1), 4, axis=2)
    small = describe_uses(point_uses(points, saliency.shape, 2), saliency)
    scaled = points * [1, 4, 4] + [0, 1.5, 1.5]
    again = describe_uses(point_uses(scaled, large.shape, 2), large)
    np.testing.assert_allclose(again, small, rtol=1e-3, atol=1e-3)


def test_only_slices_within_reach_count() -> None:
    rng = np.random.default_rng(4)
    saliency, tube = a_volume(rng, 40)
    points = its_points(tube, rng)
    whole = point_uses(points, saliency.shape, 2)
    of_whole = describe_uses(whole, saliency)
    low, high = 10, 32
    inside = (points[:, 0] >= low) & (points[:, 0] < high)
    part = point_uses(points[inside] - [low, 0, 0], saliency[low:high].shape, 2)
    of_part = describe_uses(part, saliency[low:high])
    reach = REACH + 2
    middle = (part.slice_index + low >= low + reach) & (part.slice_index + low < high - reach)
    same = (whole.slice_index >= low + reach) & (whole.slice_index < high - reach)
    assert middle.any()
    np.testing.assert_allclose(of_part[middle], of_whole[same], rtol=1e-5, atol=1e-5)


def test_neither_points_nor_a_single_slice_is_an_error(trust: LearnedTrust) -> None:
    saliency = np.full((1, SIDE, SIDE), 0.9, dtype=np.float32)
    for points in (np.zeros((0, 3)), np.array([[0, 5, 5.0]]), np.array([[0, -50, 5.0]])):
        consensus = distill_by_trust(points, saliency, 0, trust, 0.5)
        assert len(consensus.own_saliency) == len(points)
        assert np.isfinite(judge_uses(points, saliency, 0, trust).probability).all()


def test_points_that_are_added_speak_for_all_classes_where_the_others_do() -> None:
    rng = np.random.default_rng(12)
    points, n_added = np.column_stack([np.repeat(np.arange(20), 5), rng.uniform(0, 31, (100, 2))]), []
    for share in (0, 0.5, 1):
        for_all = np.arange(100) < 100 * share
        for _ in range(10):
            found, speaks_for_all = _perturbed(points, for_all, 20, rng)
            kept = (found[:, None] == points).all(axis=2).any(axis=1)
            np.testing.assert_array_equal(
                speaks_for_all[kept], for_all[(points[:, None] == found).all(axis=2).any(axis=1)]
            )
            n_added.append((~kept).sum())
            if share in (0, 1):
                assert (speaks_for_all == share).all()
    assert max(n_added) > 100
    assert _perturbed(np.zeros((0, 3)), np.zeros(0, bool), 20, rng)[1].shape == (0,)


def test_it_tells_the_target_from_its_look_alike_which_saliency_cannot(trust: LearnedTrust) -> None:
    unseen = examples_of(4, 99)
    trusted = trust.probability(unseen.features) > 0.5
    salient = unseen.features[:, 0] > 0
    precision, recall = unseen.on_target[trusted].mean(), trusted[unseen.on_target].mean()
    assert unseen.on_target[salient].mean() < 0.85
    assert precision > 0.93 and recall > 0.93


def test_the_fit_depends_on_examples_and_seed_alone() -> None:
    examples = examples_of(2, 5)
    torch.manual_seed(7)
    first = fit_trust(examples, np.random.default_rng(3))
    torch.manual_seed(8)
    second = fit_trust(examples, np.random.default_rng(3))
    for name in LearnedTrust.shapes():
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_its_network_is_torch_s(trust: LearnedTrust) -> None:
    features = examples_of(1, 6).features
    hidden = torch.from_numpy(trust.standardized(features))
    for weight, bias in ((trust.weight_1, trust.bias_1), (trust.weight_2, trust.bias_2)):
        hidden = torch.nn.functional.relu(hidden @ torch.from_numpy(weight) + torch.from_numpy(bias))
    expected = torch.sigmoid(hidden @ torch.from_numpy(trust.weight_3) + torch.tensor(trust.bias_3))
    np.testing.assert_allclose(trust.probability(features), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_class_that_has_learned_asks_no_rule_and_one_that_has_not_does(trust: LearnedTrust) -> None:
    plans = dataclasses.replace(LEARNED, near_points="on", agreement=AgreementSettings("neighbours"))
    known, unknown = (Rules(plans, 56, shares(trust, None)).of_class(k) for k in (0, 1))
    assert (known.trust, known.agreement.mode, known.near_points) == ("learned", "off", "off")
    assert (unknown.trust, unknown.agreement.mode, unknown.near_points) == ("saliency", "neighbours", "on")
    assert Rules(plans, 56).of_class(0).trust == "saliency", "as before stage 2"


def test_distillation_takes_it_and_slices_alone_get_what_the_volume_gives_them(trust: LearnedTrust) -> None:
    rng = np.random.default_rng(8)
    saliency, tube = a_volume(rng, 60)
    points = its_points(tube, rng)
    prompts = SlicePrompts(points, np.zeros(len(points), dtype=np.int64))
    maps, measured = saliency[:, None], shares(trust)
    settings = dataclasses.replace(LEARNED, max_points=1000)
    (consensus,) = distill_volume(prompts, maps, Rules(settings, SIDE, measured))
    expected = distill_by_trust(points, saliency, 2, trust, 0.5)
    np.testing.assert_array_equal(consensus.point_index, expected.point_index)
    by_saliency = distill_prompts(points, saliency, 0.5, 2)
    assert 0 < len(expected.point_index) < len(by_saliency.point_index)
    assert reach_of_context(Rules(LEARNED, SIDE)) == LEARNED.n_context + REACH + 4, (
        "what continues is followed over four"
    )
    rows = rows_of_slices(prompts, maps, 20, 30, Rules(settings, SIDE, measured))
    of_slice = {int(s): p[r] for s, p, r in zip(rows.slice_index, rows.points_yx, rows.point_is_real, strict=True)}
    for s in range(20, 30):
        np.testing.assert_allclose(of_slice[s], expected.in_slice(s), atol=1e-4)


def test_a_higher_least_probability_trusts_fewer(trust: LearnedTrust) -> None:
    rng = np.random.default_rng(9)
    saliency, tube = a_volume(rng)
    points = its_points(tube, rng)
    points[:, 1:] += rng.normal(0, 2, (len(points), 2))  # some on the rim
    counts = [len(distill_by_trust(points, saliency, 2, trust, least).point_index) for least in (0.1, 0.5, 0.9)]
    assert counts[0] > counts[1] > counts[2] > 0


def test_fates_tell_what_was_trusted_and_how_likely_it_was(trust: LearnedTrust) -> None:
    rng = np.random.default_rng(10)
    saliency, tube = a_volume(rng)
    points = np.concatenate([its_points(tube, rng), [[3, -40, 2.0]]])
    prompts = SlicePrompts(points, np.zeros(len(points), dtype=np.int64))
    settings = dataclasses.replace(LEARNED, max_points=2)
    (consensus,) = distill_volume(prompts, saliency[:, None], Rules(settings, SIDE, shares(trust)))
    (fates,) = judge_prompts(prompts, saliency[:, None], Rules(settings, SIDE, shares(trust))).fates
    kept = np.array([f.is_kept for f in fates.fates])
    told = set(zip(fates.target_slice[kept].tolist(), fates.point_index[kept].tolist(), strict=True))
    assert told == set(zip(consensus.slice_index.tolist(), consensus.point_index.tolist(), strict=True))
    assert set(fates.point_index.tolist()) == set(range(len(points)))
    assert fates.fates[-1] is Fate.OUTSIDE and np.isnan(fates.probability[-1])
    unlikely, surplus = fates.rows(Fate.REJECTED_UNLIKELY), fates.rows(Fate.OVER_LIMIT)
    assert len(surplus) and (fates.probability[surplus] > 0.5).all() and (fates.probability[kept] > 0.5).all()
    assert len(unlikely) and (fates.probability[unlikely] <= 0.5).all()
    refused = judge_prompts(prompts, saliency[:, None], Rules(settings, SIDE, shares(trust)), np.array([True])).fates[0]
    assert not any(f.is_kept for f in refused.fates) and len(refused.rows(Fate.REJECTED_RANDOM))
    assert (refused.target_slice == refused.source_slice).all()
