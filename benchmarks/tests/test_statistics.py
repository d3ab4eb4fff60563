"""Means, intervals and tests: against numbers worked by hand, scipy, and spdnet's own evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_up_records import record
from scipy.stats import wilcoxon

from evidence.collection import evaluation_of
from evidence.statistics import (
    averaged,
    best_of,
    case_table,
    closed_share,
    difference,
    estimate,
    holm,
    seed_means,
    seed_spread,
    signed_rank_p,
)
from spdnet.evaluation import EvaluationResult
from spdnet.evaluation.evaluate import BOOTSTRAP_SEED

RNG = np.random.default_rng(1)
A = RNG.uniform(0.5, 0.9, 8).tolist()
B = RNG.uniform(0.4, 0.9, 8).tolist()


def results(*by_seed: list[float], **options: object) -> dict[int, EvaluationResult]:
    return {seed: evaluation_of(record("m", dsc, seed, **options)) for seed, dsc in enumerate(by_seed)}  # type: ignore[arg-type]


def test_record_becomes_scores_sorted_by_case_with_null_as_nan() -> None:
    stored = record("m", {"left": [0.5, 0.7], "right": [0.6, 0.8]}, scores={"hd95_mm": [None, 3.0]})
    stored.cases.reverse()
    result = evaluation_of(stored)
    assert result.class_names == ("left", "right")
    assert [case.case for case in result.cases] == ["c0", "c1"]
    assert result.cases[1].classes[1].dsc == 0.8
    assert math.isnan(result.cases[0].classes[0].hd95_mm)


@pytest.mark.parametrize("metric", ["dsc", "iou", "target_dsc", "hd95_mm", "asd_mm", "volume_dice"])
def test_one_seed_has_the_estimate_of_spdnets_evaluation(metric: str) -> None:
    stored = record("m", {"left": A, "right": B}, n_slices=[4, 9, 30, 12, 8, 7, 21, 16])
    stored.cases[2]["classes"][1]["hd95_mm"] = None
    stored.cases[2]["classes"][1]["n_distance_slices"] = 0
    own, factor = evaluation_of(stored).estimate(metric), 1 if metric.endswith("mm") else 100
    found = estimate({0: evaluation_of(stored)}, metric)
    assert (found.mean, found.low, found.high) == pytest.approx(
        (factor * own.mean, factor * own.low, factor * own.high)
    )


def test_slices_are_weighted_alike_whatever_case_they_are_of() -> None:
    assert estimate(results([0.5, 0.9], n_slices=[30, 10]), "dsc").mean == pytest.approx(60)
    assert estimate(results([0.5, 0.9], n_slices=[30, 10]), "volume_dice").mean == pytest.approx(65)


def test_seeds_are_averaged_per_case_and_add_no_cases() -> None:
    table = case_table(results(A, B), "dsc")
    np.testing.assert_allclose(table.values[:, 0], 50 * (np.array(A) + B))
    together = estimate(results(A, B), "dsc")
    average = estimate(results(((np.array(A) + B) / 2).tolist()), "dsc")
    assert (together.low, together.high) == pytest.approx((average.low, average.high))


def test_distances_of_seeds_are_weighted_by_their_slices() -> None:
    few = record("m", [0.5, 0.5], scores={"hd95_mm": [4.0, 6.0], "n_distance_slices": [1, 10]})
    many = record("m", [0.5, 0.5], scores={"hd95_mm": [8.0, None], "n_distance_slices": [3, 0]})
    table = averaged([evaluation_of(few), evaluation_of(many)], "hd95_mm")
    np.testing.assert_allclose(table.values[:, 0], [(1 * 4 + 3 * 8) / 4, 6])
    np.testing.assert_allclose(table.weights[:, 0], [2, 5])


def test_case_mean_skips_a_class_without_value() -> None:
    stored = record("m", {"left": [0.5, 0.6], "right": [0.7, 0.8]})
    stored.cases[0]["classes"][1]["volume_dice"] = None
    np.testing.assert_allclose(case_table({0: evaluation_of(stored)}, "volume_dice").case_means, [45, 65])


def test_spread_is_the_standard_deviation_of_seed_means() -> None:
    three = results([0.5, 0.7], [0.6, 0.8], [0.8, 0.9])
    assert seed_means(three, "dsc") == pytest.approx({0: 60, 1: 70, 2: 85})
    assert seed_spread(three, "dsc") == pytest.approx(np.std([60, 70, 85], ddof=1))
    assert math.isnan(seed_spread(results(A), "dsc"))


def test_constant_difference_has_no_width() -> None:
    found = difference(results(A), results([a - 0.05 for a in A]), "dsc")
    assert found is not None
    assert (found.estimate.mean, found.estimate.low, found.estimate.high) == pytest.approx((5, 5, 5))
    assert found.p == pytest.approx(2 / 2**8)  # all eight of one sign
    assert found.n_cases == 8


def test_difference_pairs_cases_rather_than_means() -> None:
    shuffled = [A[i] - 0.05 for i in (3, 1, 7, 0, 2, 6, 4, 5)]
    paired, unpaired = (difference(results(A), results(other), "dsc") for other in ([a - 0.05 for a in A], shuffled))
    assert paired is not None and unpaired is not None
    assert unpaired.estimate.mean == pytest.approx(paired.estimate.mean)
    assert unpaired.estimate.high - unpaired.estimate.low > 5


def test_difference_takes_common_seeds_and_cases_only() -> None:
    first, second = results(A, [0.1] * 8), results([a - 0.02 for a in A])
    fewer = {0: EvaluationResult(second[0].class_names, second[0].cases[2:])}
    found = difference(first, fewer, "dsc")
    assert found is not None
    assert (found.estimate.mean, found.n_cases, found.seeds) == (pytest.approx(2), 6, (0,))
    assert difference({1: first[1]}, second, "dsc") is None


def test_signed_rank_p_is_scipys() -> None:
    first, second = np.array(A), np.array(B)
    assert signed_rank_p(first, second) == wilcoxon(first, second).pvalue
    with_gap = np.array([*A, math.nan])
    assert signed_rank_p(with_gap, np.array([*B, 0.5])) == wilcoxon(first, second).pvalue


@pytest.mark.filterwarnings("error")
def test_signed_rank_p_leaves_out_zero_differences() -> None:
    first = np.array([1.0, 2, 3, 4, 5, 6, 7.5, 8, 9])
    second = np.array([1.0, 2, 2, 2, 2, 2, 2.0, 2, 2])
    assert signed_rank_p(first, second) == wilcoxon(first[2:], second[2:]).pvalue
    assert signed_rank_p(first, first) == 1.0


def test_signed_rank_p_needs_six_cases() -> None:
    assert math.isnan(signed_rank_p(np.arange(5.0), np.zeros(5)))
    assert signed_rank_p(np.arange(1.0, 7), np.zeros(6)) == pytest.approx(2 / 2**6)


def test_holm_by_hand() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last may not be below the third
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_does_not_count_what_was_not_tested() -> None:
    first, missing, second = holm([0.01, math.nan, 0.02])
    assert (first, second) == pytest.approx((0.02, 0.02))
    assert math.isnan(missing)


def test_best_knows_which_way_is_better() -> None:
    methods, spd = {"low": results([0.5, 0.6]), "high": results([0.7, 0.8])}, results([0.8, 0.9])
    assert best_of(methods, "dsc", spd) == "high"
    assert best_of(methods, "hd95_mm", spd) == "high"  # made up to fall with the DSC
    assert best_of({}, "dsc", spd) is None


def test_best_compares_over_the_seeds_that_both_have() -> None:
    spd = results([0.80, 0.80], [0.90, 0.90])
    two_seeds = results([0.75, 0.75], [0.85, 0.85])  # mean 0.80, 5 points behind with either seed
    one_seed = results([0.78, 0.78])  # mean 0.78, 2 points behind with its seed
    assert best_of({"two": two_seeds, "one": one_seed}, "dsc", spd) == "one"
    other_seed = {7: results([0.99, 0.99])[0]}
    assert best_of({"two": two_seeds, "other": other_seed}, "dsc", spd) == "two"
    assert best_of({"other": other_seed}, "dsc", spd) is None


def test_closed_share_of_constant_distances() -> None:
    raw, spd, ceiling = results(A), results([a + 0.06 for a in A]), results([a + 0.08 for a in A])
    share = closed_share(raw, spd, ceiling)
    assert share is not None
    assert (share.mean, share.low, share.high) == pytest.approx((75, 75, 75))
    assert closed_share(ceiling, spd, raw) is None


def test_closed_share_resamples_cases_of_all_three_together() -> None:
    values = np.array([A, B, [0.95, 0.9, 0.97, 0.93, 0.99, 0.9, 0.94, 0.96]])
    low, middle, high = values[[1, 0, 2]]
    found = closed_share(*(results(v.tolist()) for v in (low, middle, high)))
    drawn = np.random.default_rng(BOOTSTRAP_SEED).multinomial(8, [1 / 8] * 8, size=2000)
    shares = [100 * np.sum(d * (middle - low)) / np.sum(d * (high - low)) for d in drawn]
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(shares, [0.025, 0.975])))


def test_closed_share_has_no_interval_where_the_ceiling_may_be_below() -> None:
    found = closed_share(results([0.5, 0.9, 0.6]), results([0.6, 0.7, 0.7]), results([0.9, 0.7, 0.7]))
    assert found is not None
    assert math.isnan(found.low)
