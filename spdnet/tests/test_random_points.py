"""Volumes whose points look random, beside those of the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import betabinom, binom

from spdnet.inference import prompting
from spdnet.inference.class_rules import MeasuredShares, Rules
from spdnet.inference.mirroring import predict_mirrored
from spdnet.inference.prompt_report import judge_prompts
from spdnet.inference.prompting import distill_whole_volume
from spdnet.inference.volume import VolumePrediction, predict_volume
from spdnet.network import SPDNetwork, build_network
from spdnet.planning.plans import BoxSettings, DistillationSettings
from spdnet.prompts import ALL_CLASSES, SliceBoxes, SlicePrompts
from spdnet.prompts.fates import Fate
from spdnet.prompts.random_points import LIKENESS, MAX_SHARE, MIN_ODDS, Background, Hits, count_hits, look_random
from spdnet.tests.tiny import measured_shares

SIZE, N_SLICES, CPU = 56, 20, torch.device("cpu")
RULE = DistillationSettings(empty_consensus="decode", random_points="refuse")
TRAINED = measured_shares(salient=[0.5])


def by_loop(points: np.ndarray, saliency: np.ndarray, tau: float) -> tuple[int, int, float]:
    hits, shares = 0, []
    for s, y, x in np.floor(points + 0.5).astype(int).tolist():
        if 0 <= s < saliency.shape[0] and 0 <= y < saliency.shape[1] and 0 <= x < saliency.shape[2]:
            hits += saliency[s, y, x] > tau
            shares.append(np.mean(saliency[s] > tau))
    return hits, len(shares), float(np.mean(shares)) if shares else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_hits_are_counted_as_in_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    saliency = rng.random((6, 9, 8)).astype(np.float32) ** rng.uniform(0.5, 3, size=(6, 1, 1)).astype(np.float32)
    points = rng.uniform([-1, -1, -1], [7, 10, 9], size=(40 * (seed > 0), 3))
    found = count_hits(points, saliency, 0.5)
    assert (found.n_salient, found.n, pytest.approx(found.chance)) == by_loop(points, saliency, 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_points_on_another_class_do_not_count_where_they_speak_for_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    saliency, other = rng.random((2, 6, 9, 8)).astype(np.float32) ** 2
    points = rng.uniform([-1, -1, -1], [7, 10, 9], size=(60, 3))
    for_all = rng.random(60) < 0.6
    found = count_hits(points, saliency, 0.5, Background(0.9, for_all, np.maximum(saliency, other)))
    n_salient, chances = 0, []
    for (s, y, x), speaks_for_all in zip(np.floor(points + 0.5).astype(int).tolist(), for_all, strict=True):
        if not (0 <= s < 6 and 0 <= y < 9 and 0 <= x < 8):
            continue
        is_own, is_others = saliency[s] > 0.5, (other[s] > 0.5) & (saliency[s] <= 0.5) & speaks_for_all
        if not is_others[y, x]:
            n_salient += is_own[y, x]
            chances.append(is_own.sum() / (0.9 * 72 - is_others.sum()))
    assert (found.n_salient, found.n) == (n_salient, len(chances))
    assert found.chance == pytest.approx(np.mean(chances))


@pytest.mark.parametrize("n", [1, 10, 40, 200])
@pytest.mark.parametrize("chance", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("training_share", [0.0, 0.1, 0.5, 1.0])
def test_random_is_what_the_distributions_say(n: int, chance: float, training_share: float) -> None:
    share = min(training_share, MAX_SHARE)
    for n_salient in range(n + 1):
        random = binom.pmf(n_salient, n, chance)
        trained = betabinom.pmf(n_salient, n, LIKENESS, LIKENESS * (1 - share) / share) if share else 0.0
        expected = share > chance and n_salient <= chance * n and random >= MIN_ODDS * trained
        assert look_random(Hits(n_salient, n, chance), training_share) == expected
    assert not look_random(Hits(0, 0, 0.0), training_share), "no point, no verdict"


def test_few_points_are_never_called_random() -> None:
    assert not look_random(Hits(0, 7, 0.02), 0.5)
    assert look_random(Hits(0, 8, 0.02), 0.5)
    assert not look_random(Hits(1, 4, 0.3), 0.6)
    assert not look_random(Hits(1, 2, 0.5), 1.0), "however good the training was"
    assert not look_random(Hits(0, 1, 0.0), 1.0)


@pytest.mark.parametrize("times", [1, 4, 16])
def test_however_many_points_a_volume_that_stage_1_knows_worse_is_not_called_random(times: int) -> None:
    """As rarely as by chance, which is a third of the training's share: volumes differ as much."""
    assert not look_random(Hits(3 * times, 100 * times, 0.031), 0.09)
    assert look_random(Hits(2 * times, 100 * times, 0.021), 0.4), "a twentieth is another thing"


def volume(n_points: int, seed: int = 0) -> tuple[SlicePrompts, np.ndarray]:
    """Points anywhere, of which some hit the salient square by chance, and the saliency (S, 1, M, M)."""
    saliency = np.zeros((N_SLICES, 1, SIZE, SIZE), dtype=np.float32)
    saliency[:, 0, 20:34, 22:36] = 0.9
    points = np.random.default_rng(seed).uniform(0, [N_SLICES - 1, SIZE - 1, SIZE - 1], size=(n_points, 3))
    points[:, 0] = np.rint(points[:, 0])
    return SlicePrompts(points, np.zeros(n_points, dtype=np.int64)), saliency


def random_volume() -> tuple[SlicePrompts, np.ndarray]:
    """Points whose share on the saliency is at most a random one's, by the first seed that has it."""
    for seed in range(20):
        prompts, saliency = volume(80, seed)
        hits = count_hits(prompts.points_syx, saliency[:, 0], RULE.tau)
        if 0 < hits.n_salient <= hits.chance * hits.n:
            return prompts, saliency
    raise AssertionError("no seed")


def refused(prompts: SlicePrompts, saliency: np.ndarray, rules: Rules, content_share: float = 1.0) -> np.ndarray:
    return distill_whole_volume(prompts, saliency, rules, content_share).refused


def test_points_are_refused_only_where_nothing_stands_in_for_them() -> None:
    prompts, saliency = random_volume()
    assert refused(prompts, saliency, Rules(RULE, SIZE, TRAINED)).tolist() == [True]
    never: list[tuple[DistillationSettings, MeasuredShares | None]] = [
        (replace(RULE, random_points="keep"), TRAINED),
        (replace(RULE, empty_consensus="empty"), TRAINED),
        (replace(RULE, mode="raw"), TRAINED),
        (RULE, None),
        (RULE, replace(TRAINED, salient=np.zeros(1))),
    ]
    for settings, measured in never:
        assert not refused(prompts, saliency, Rules(settings, SIZE, measured)).any()
    boxes = SliceBoxes(np.array([2]), np.array([[-0.5, -0.5, 55.5, 55.5]]), np.array([0]))
    boxed = replace(prompts, boxes=boxes)
    assert not refused(boxed, saliency, Rules(RULE, SIZE, TRAINED)).any()
    stray = replace(boxes, boxes_yxyx=np.array([[0.5, 0.5, 5.5, 5.5]]))
    assert refused(replace(prompts, boxes=stray), saliency, Rules(RULE, SIZE, TRAINED)).all(), (
        "a box that is not trusted"
    )
    without_boxes = replace(RULE, boxes=BoxSettings("off"))
    assert refused(boxed, saliency, Rules(without_boxes, SIZE, TRAINED)).all()


def test_points_on_the_target_are_not_refused() -> None:
    prompts, saliency = random_volume()
    points = prompts.points_syx.copy()
    points[::4, 1:] = [27.0, 29.0]
    mixed = SlicePrompts(points, prompts.class_index)
    assert not refused(mixed, saliency, Rules(RULE, SIZE, TRAINED)).any(), "a quarter is enough"


def test_points_lie_in_the_image_alone() -> None:
    """Random points in an image that fills a half of the square: a random one hits twice as often."""
    outcomes = []
    for seed in range(40):
        prompts, saliency = volume(80, seed)
        points = prompts.points_syx.copy()
        points[:, 2] = 14 + points[:, 2] / 2  # columns 14 to 42
        narrow = SlicePrompts(points, prompts.class_index)
        outcomes.append([refused(narrow, saliency, Rules(RULE, SIZE, TRAINED), content_share=s)[0] for s in (1.0, 0.5)])
    by_square, by_image = np.mean(outcomes, axis=0)
    assert by_square < 0.1 and 0.35 < by_image < 0.75, "about half pass by chance"


def test_right_points_of_another_class_do_not_make_a_class_look_random() -> None:
    saliency = np.zeros((N_SLICES, 2, SIZE, SIZE), dtype=np.float32)
    saliency[:, 0, 2:32, 2:32] = saliency[:, 1, 40:50, 40:50] = 0.9
    rng = np.random.default_rng(0)
    of_first = np.column_stack([np.arange(N_SLICES), rng.uniform(2, 31, (N_SLICES, 2))])
    of_second = np.column_stack([np.repeat(np.arange(N_SLICES), 3), rng.uniform(40, 49, (3 * N_SLICES, 2))])
    right = SlicePrompts(np.concatenate([of_first, of_second]), np.full(4 * N_SLICES, ALL_CLASSES))
    trained = measured_shares(2, salient=[0.8, 0.8])
    assert refused(right, saliency, Rules(RULE, SIZE, trained)).tolist() == [False, False]
    outcomes = []
    for seed in range(40):
        points = np.random.default_rng(seed).uniform(0, [N_SLICES - 1, SIZE - 1, SIZE - 1], size=(200, 3))
        anywhere = SlicePrompts(points, np.full(200, ALL_CLASSES))
        outcomes.append(refused(anywhere, saliency, Rules(RULE, SIZE, trained)))
    shares = np.mean(outcomes, axis=0)
    assert ((shares > 0.3) & (shares < 0.75)).all(), "about half pass by chance"


def test_mirrored_copies_decide_nothing_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    network = build_network("tiny", 1, 1, SIZE, 4, 4, 0.0).eval()
    network.salient_share.fill_(0.6)
    slices = np.random.default_rng(0).random((4, 1, SIZE, SIZE), dtype=np.float32)
    prompts = SlicePrompts(np.array([[1.0, 20.0, 30.0]]), np.array([0]))
    verdicts = iter([True, False, False, False])
    monkeypatch.setattr(prompting, "look_random", lambda *_: next(verdicts))
    rule = replace(RULE, tau=0.0)  # the point is trusted in every copy
    found, alone = (predict_mirrored(network, slices, p, rule, 4, CPU, (0, 1)) for p in (prompts, None))
    assert next(verdicts) is False, "asked once"
    np.testing.assert_array_equal(found.probabilities, alone.probabilities)


def test_mirrored_copies_follow_the_volume_as_it_is() -> None:
    prompts, saliency = random_volume()
    decided = distill_whole_volume(prompts, saliency, Rules(RULE, SIZE, TRAINED), 1.0, np.array([False]))
    assert not decided.refused.any() and not decided.untrusted.any() and len(decided.consensus[0].slice_index) > 0
    on_target = SlicePrompts(np.array([[3.0, 27.0, 29.0]]), np.array([0]))
    decided = distill_whole_volume(on_target, saliency, Rules(RULE, SIZE, TRAINED), 1.0, np.array([True]))
    assert decided.untrusted.all() and len(decided.consensus[0].slice_index) == 0


def test_the_report_tells_that_salient_points_were_refused() -> None:
    prompts, saliency = random_volume()
    (fates,) = judge_prompts(prompts, saliency, Rules(RULE, SIZE, TRAINED), np.array([True])).fates
    n_salient = count_hits(prompts.points_syx, saliency[:, 0], RULE.tau).n_salient
    assert n_salient > 0
    assert len(fates.rows(Fate.REJECTED_RANDOM)) == n_salient
    assert len(fates.rows(Fate.REJECTED_OWN)) == len(prompts) - n_salient == len(fates) - n_salient
    (kept,) = judge_prompts(prompts, saliency, Rules(RULE, SIZE, TRAINED), np.array([False])).fates
    assert len(kept.rows(Fate.KEPT_LOCAL)) > 0 and not len(kept.rows(Fate.REJECTED_RANDOM))


def test_every_fate_has_a_sign_in_the_report() -> None:
    page = (Path(__file__).parents[1] / "report" / "assets" / "points.js").read_text(encoding="utf-8")
    for fate in Fate:
        assert f"\n  {fate.name}: " in page


def test_a_class_whose_points_are_refused_is_predicted_as_without_prompts() -> None:
    torch.manual_seed(3)
    network: SPDNetwork = build_network("tiny", 1, 1, SIZE, 4, 4, 0.0).eval()
    slices = np.random.default_rng(0).random((N_SLICES, 1, SIZE, SIZE), dtype=np.float32)

    def predict(prompts: SlicePrompts | None, **settings: object) -> VolumePrediction:
        return predict_volume(network, slices, prompts, DistillationSettings(**settings), 8, CPU)  # type: ignore[arg-type]

    saliency = predict(None).saliency[:, 0]
    tau = float(np.quantile(saliency, 0.8))  # a fifth of the pixels is salient
    rng = np.random.default_rng(1)
    place = np.stack([np.repeat(np.arange(N_SLICES), 5), *rng.integers(0, saliency.shape[1], size=(2, 100))], axis=1)
    salient = saliency[tuple(place.T)] > tau
    place = np.concatenate([place[salient][:14], place[~salient]])
    points = place.astype(np.float64)
    points[:, 1:] = (points[:, 1:] + 0.5) * SIZE / saliency.shape[1] - 0.5
    prompts = SlicePrompts(points, np.zeros(len(points), dtype=np.int64))
    found = {}
    for share in (0.0, 0.9):
        network.salient_share.fill_(share)
        found[share] = predict(prompts, tau=tau, empty_consensus="decode", random_points="refuse")
    assert [found[share].untrusted.tolist() for share in (0.0, 0.9)] == [[False], [True]]  # type: ignore[union-attr]
    assert np.array_equal(found[0.9].probabilities, predict(None).probabilities)
    assert not np.array_equal(found[0.0].probabilities, found[0.9].probabilities)
    refused, kept = (found[share].consensus[0] for share in (0.9, 0.0))  # type: ignore[index]
    assert len(refused.slice_index) == 0 and len(kept.slice_index) > 0
    assert np.array_equal(refused.own_saliency, kept.own_saliency)
    network.salient_share.fill_(0.9)
    assert np.array_equal(
        predict(prompts, tau=tau, empty_consensus="decode", random_points="keep").probabilities,
        found[0.0].probabilities,
    )
