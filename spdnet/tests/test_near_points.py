"""Points that are trusted for their place, near trusted ones of neighbouring slices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spdnet.inference.class_rules import MIN_PRECISION, Rules
from spdnet.inference.prompt_report import judge_prompts
from spdnet.inference.prompting import distill_volume
from spdnet.planning.plans import DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.distillation import Consensus, distill_prompts
from spdnet.prompts.fates import Fate
from spdnet.prompts.near_points import NEAR_RADIUS, NEAR_SLICES, add_near_points
from spdnet.tests.test_trust import ELSEWHERE, N_SLICES, ON_TARGET, a_variant, from_files, measure_precision
from spdnet.tests.tiny import measured_shares

SIDE = 56


def entries(consensus: Consensus) -> list[tuple[int, int]]:
    """Slice and point of each."""
    return list(zip(consensus.slice_index.tolist(), consensus.point_index.tolist(), strict=True))


def by_loop(consensus: Consensus, points: np.ndarray, shape: tuple[int, ...]) -> set[tuple[int, int]]:
    index = np.floor(points + 0.5).astype(int)
    has_point = set(consensus.slice_index.tolist())
    found = set()
    for i, (s, y, x) in enumerate(index.tolist()):
        if not (0 <= s < shape[0] and 0 <= y < shape[1] and 0 <= x < shape[2]) or s in has_point:
            continue
        for t, source, place in zip(consensus.slice_index, consensus.source_slice, consensus.points_yx, strict=True):
            close = np.hypot(*(place - points[i, 1:])) <= NEAR_RADIUS * shape[1]
            if t == source and 0 < abs(t - s) <= NEAR_SLICES and close:
                found.add((s, i))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_they_are_those_of_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    saliency = np.zeros((16, SIDE, SIDE), dtype=np.float32)
    saliency[rng.choice(16, 6, replace=False), 10:40, 10:40] = 0.9
    points = rng.uniform([-1, 5, 5], [17, 45, 45], size=(150, 3))
    trusted = distill_prompts(points, saliency, 0.5, int(seed % 3))
    found = add_near_points(trusted, points, saliency)
    assert (np.diff(found.slice_index) >= 0).all()
    added = set(entries(found)) - set(entries(trusted))
    assert added == by_loop(trusted, points, saliency.shape) and added
    assert len(entries(found)) == len(added) + len(entries(trusted))
    for s, i in added:
        place = (found.slice_index == s) & (found.point_index == i)
        assert found.source_slice[place] == s and np.array_equal(found.points_yx[place][0], points[i, 1:])
        y, x = np.floor(points[i, 1:] + 0.5).astype(int)
        assert found.saliency[place] == saliency[s, y, x]
    assert np.array_equal(found.own_saliency, trusted.own_saliency)


def fading(points: list[list[float]]) -> tuple[SlicePrompts, np.ndarray]:
    """A target that is salient in slices 0 to 3 of 8, and points of class 0."""
    saliency = np.zeros((8, 1, SIDE, SIDE), dtype=np.float32)
    saliency[:4, 0, 20:30, 20:30] = 0.9
    given = np.array(points, dtype=np.float64)
    return SlicePrompts(given, np.zeros(len(given), dtype=np.int64)), saliency


def test_what_is_taken_takes_along_no_other_point() -> None:
    prompts, saliency = fading([[3.0, 25, 25], [5.0, 26, 26], [7.0, 26, 27], [6.0, 45, 45]])
    rule = DistillationSettings(n_context=0, near_points="on")
    (found,) = distill_volume(prompts, saliency, Rules(rule, SIDE))
    assert entries(found) == [(3, 0), (5, 1)]
    (without,) = distill_volume(prompts, saliency, Rules(replace(rule, near_points="off"), SIDE))
    assert entries(without) == [(3, 0)]
    (nothing,) = distill_volume(
        SlicePrompts(prompts.points_syx[1:], np.zeros(3, np.int64)), saliency, Rules(rule, SIDE)
    )
    assert entries(nothing) == [], "nothing is trusted to begin with"


def test_the_report_tells_of_them() -> None:
    prompts, saliency = fading([[3.0, 25, 25], [5.0, 26, 26], [6.0, 45, 45]])
    rule = DistillationSettings(n_context=0, near_points="on")
    (fates,) = judge_prompts(prompts, saliency, Rules(rule, SIDE)).fates
    assert fates.fates == (Fate.KEPT_LOCAL, Fate.KEPT_NEAR, Fate.REJECTED_OWN)
    (refused,) = judge_prompts(prompts, saliency, Rules(rule, SIDE), np.array([True])).fates
    assert refused.fates == (Fate.REJECTED_RANDOM, Fate.REJECTED_OWN, Fate.REJECTED_OWN)


@pytest.mark.parametrize(("share", "rule"), [(None, "off"), (0.49, "off"), (MIN_PRECISION, "on")])
def test_auto_takes_them_where_most_were_right(share: float | None, rule: str) -> None:
    measured = None if share is None else measured_shares(2, near=(1, share))
    assert Rules(DistillationSettings(near_points="auto"), 56, measured).of_class(1).near_points == rule
    for fixed in ("on", "off"):
        assert Rules(DistillationSettings(near_points=fixed), 56, measured).of_class(1).near_points == fixed  # type: ignore[arg-type]


def test_the_training_cases_tell_how_many_are_right(tmp_path: Path) -> None:
    trusted = [[0.0, *ON_TARGET], [1.0, ON_TARGET[0] + 2.0, ON_TARGET[1]]]
    variant = a_variant(tmp_path, "a", [ON_TARGET] + [None] * (N_SLICES - 1), [*trusted, [2.0, *ELSEWHERE]])
    settings = from_files(near_points="auto")
    assert measure_precision([variant], settings, 0).near.tolist() == [1.0]
    off_target = (14.0, ON_TARGET[1])  # 2 pixels beyond the target's edge
    near_edge = [[0.0, 17.0, ON_TARGET[1]], [1.0, *off_target]]
    other = a_variant(tmp_path, "b", [(18, 24)] + [None] * (N_SLICES - 1), near_edge)
    assert measure_precision([other], settings, 0).near.tolist() == [0.0]
    assert measure_precision([variant, other], settings, 0).near.tolist() == [0.5]
