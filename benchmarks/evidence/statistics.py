"""Means, intervals and tests of stored scores, in per cent (overlaps) or mm (distances).

A case counts once, however many seeds it was scored with: its scores are averaged over seeds first. Intervals come from
drawing cases, by `spdnet.evaluation`'s bootstrap, and so do not hold the noise between trainings: the standard
deviation between seeds stands beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from spdnet.evaluation import EvaluationResult
from spdnet.evaluation.evaluate import BOOTSTRAP_SEED, Estimate
from spdnet.evaluation.metrics import (
    BOOTSTRAP_RESAMPLES,
    INTERVAL_LEVEL,
    bootstrap_difference_interval,
    bootstrap_mean_interval,
)

MIN_CASES = 6  # with five pairs no outcome of the two-sided signed-rank test has p below 2 / 2**5 = 0.06

Results = Mapping[int, EvaluationResult]  # of one method, by seed


@dataclass(frozen=True)
class Metric:
    """A score of `spdnet.evaluation` as it is shown.

    Attributes:
        name: field of `ClassScores`.
        title, unit: as in tables.
        factor: from the stored number to the unit.
        decimals: shown.
        higher_is_better: or lower.
    """

    name: str
    title: str
    unit: str
    factor: float
    decimals: int
    higher_is_better: bool


METRICS = {
    m.name: m
    for m in (
        Metric("dsc", "slice DSC", "%", 100, 1, True),
        Metric("iou", "slice IoU", "%", 100, 1, True),
        Metric("target_dsc", "target-slice DSC", "%", 100, 1, True),
        Metric("hd95_mm", "HD95", "mm", 1, 2, False),
        Metric("asd_mm", "ASD", "mm", 1, 2, False),
        Metric("volume_dice", "volume Dice", "%", 100, 1, True),
    )
}


@dataclass(frozen=True)
class CaseTable:
    """One metric of one method, averaged over seeds.

    Attributes:
        cases: names, sorted.
        values: float64 (n_cases, n_classes), in the metric's unit, NaN where undefined.
        weights: float64, same shape; slices that a value was taken over (mean over seeds), or 1 for volume Dice.
    """

    cases: tuple[str, ...]
    values: np.ndarray
    weights: np.ndarray

    def only(self, cases: Iterable[str]) -> CaseTable:
        """The rows of some of the cases, in this table's order."""
        wanted = set(cases)
        kept = [i for i, case in enumerate(self.cases) if case in wanted]
        return CaseTable(tuple(self.cases[i] for i in kept), self.values[kept], self.weights[kept])

    @property
    def case_means(self) -> np.ndarray:
        """Mean over the classes, float64 (n_cases,); NaN where no class has a value."""
        count = np.count_nonzero(~np.isnan(self.values), axis=1)
        return np.divide(np.nansum(self.values, axis=1), count, out=np.full(len(count), np.nan), where=count > 0)


@dataclass(frozen=True)
class Difference:
    """A paired difference, first minus second.

    Attributes:
        estimate: mean difference with its interval, in the metric's unit.
        p: two-sided Wilcoxon signed-rank test on the case means; NaN with fewer than `MIN_CASES` pairs.
        n_cases: pairs.
        seeds: that both have; others are left out.
    """

    estimate: Estimate
    p: float
    n_cases: int
    seeds: tuple[int, ...]


def averaged(results: Sequence[EvaluationResult], metric: str) -> CaseTable:
    """Scores of each case and class averaged over seeds, each weighted by the slices it was taken over."""
    cases = sorted({case.case for result in results for case in result.cases})
    shape = len(cases), len(results[0].class_names)
    sums, weights = np.zeros(shape), np.zeros(shape)
    for result in results:
        values, counts = result.case_values(metric)
        counts = np.where(np.isnan(values), 0.0, counts)
        rows = [cases.index(case.case) for case in result.cases]
        sums[rows] += counts * np.nan_to_num(values)
        weights[rows] += counts
    means = np.divide(sums, weights, out=np.full(shape, np.nan), where=weights > 0)
    return CaseTable(tuple(cases), METRICS[metric].factor * means, weights / len(results))


def case_table(results: Results, metric: str) -> CaseTable:
    """`averaged` over all seeds."""
    return averaged(list(results.values()), metric)


def estimate(results: Results, metric: str) -> Estimate:
    """Mean over cases (slices, where the metric is one of slices), then over classes, with its interval."""
    table = case_table(results, metric)
    return Estimate(*bootstrap_mean_interval(table.values, _rng(), weights=table.weights))


def seed_means(results: Results, metric: str) -> dict[int, float]:
    """The mean of each seed, as in `estimate`."""
    tables = {seed: averaged([result], metric) for seed, result in results.items()}
    return {seed: bootstrap_mean_interval(t.values, _rng(), 1, weights=t.weights)[0] for seed, t in tables.items()}


def seed_spread(results: Results, metric: str) -> float:
    """Standard deviation between the means of seeds (n - 1); NaN with one seed."""
    means = list(seed_means(results, metric).values())
    return float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")


def difference(first: Results, second: Results, metric: str) -> Difference | None:
    """First minus second over the seeds and cases that both have; None if there are none.

    Where the two have different weights (distances: slices in which both masks have foreground), the weight of a pair
    is their mean, so that the difference need not be that of the two `estimate`s.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    one, other = (averaged([results[seed] for seed in seeds], metric) for results in (first, second))
    one, other = one.only(other.cases), other.only(one.cases)
    if not one.cases:
        return None
    undefined = np.isnan(one.values) | np.isnan(other.values)
    one, other = (CaseTable(t.cases, np.where(undefined, np.nan, t.values), t.weights) for t in (one, other))
    weights = (one.weights + other.weights) / 2
    interval = bootstrap_difference_interval(one.values, other.values, _rng(), weights=weights)
    p = signed_rank_p(one.case_means, other.case_means)
    return Difference(Estimate(*interval), p, len(one.cases), tuple(seeds))


def signed_rank_p(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided Wilcoxon signed-rank test of pairs, float (n,) each; NaN with fewer than `MIN_CASES`.

    Pairs with a NaN do not count; zero differences are left out of the ranking (Wilcoxon), and if all are zero p is 1.
    """
    differences = first - second
    differences = differences[~np.isnan(differences)]
    if len(differences) < MIN_CASES:
        return float("nan")
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Scand. J. Statist. 6, 1979); NaN stays and does not count as a test."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN last
    factors = np.arange(len(order), 0, -1)
    p[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return [float(value) for value in p]


def best_of(candidates: Mapping[str, Results], metric: str, beside: Results) -> str | None:
    """Name of the one whose paired difference to another method is best; None if none has a seed and case in common.

    Candidates may have different seeds. Means over whatever seeds each has would compare trainings of different luck;
    the difference takes both sides of the same seeds and cases.

    Args:
        candidates: by name.
        metric: one of `METRICS`.
        beside: the other method, SPD.
    """
    sign = 1 if METRICS[metric].higher_is_better else -1
    found = {name: difference(results, beside, metric) for name, results in candidates.items()}
    means = {name: sign * d.estimate.mean for name, d in found.items() if d is not None}
    means = {name: mean for name, mean in means.items() if not np.isnan(mean)}
    return max(means, key=lambda name: means[name]) if means else None


def closed_share(low: Results, reached: Results, high: Results, metric: str = "dsc") -> Estimate | None:
    """Share of the distance from `low` to `high` that `reached` closes, per cent, of the seeds and cases of all three.

    None if they have none in common, or if `high` is not above `low`. The bounds are NaN with fewer than two cases, or
    if the distance is not above zero in all of the middle 95 % of resamples.
    """
    seeds = sorted(low.keys() & reached.keys() & high.keys())
    if not seeds:
        return None
    tables = [averaged([results[seed] for seed in seeds], metric) for results in (low, reached, high)]
    common = set.intersection(*(set(t.cases) for t in tables))
    bottom, middle, top = (t.only(common) for t in tables)
    n = len(common)
    if n == 0:
        return None
    once = np.ones((1, n))
    whole = _means(top, once) - _means(bottom, once)
    if not whole[0] > 0:
        return None
    share = float(100 * (_means(middle, once) - _means(bottom, once))[0] / whole[0])
    times_drawn = _rng().multinomial(n, np.full(n, 1 / n), size=BOOTSTRAP_RESAMPLES)
    distances = _means(top, times_drawn) - _means(bottom, times_drawn)
    outside = (1 - INTERVAL_LEVEL) / 2
    if n < 2 or np.quantile(distances, outside) <= 0:
        return Estimate(share, float("nan"), float("nan"))
    shares = 100 * (_means(middle, times_drawn) - _means(bottom, times_drawn))[distances > 0] / distances[distances > 0]
    low_bound, high_bound = np.quantile(shares, [outside, 1 - outside])
    return Estimate(share, float(low_bound), float(high_bound))


def _means(table: CaseTable, times_drawn: np.ndarray) -> np.ndarray:
    """Mean over cases, then classes, of resamples: times_drawn (n_resamples, n_cases) to float64 (n_resamples,)."""
    weights = np.where(np.isnan(table.values), 0.0, table.weights)
    with np.errstate(invalid="ignore"):  # a class that a resample lacks
        return np.nanmean((times_drawn @ (weights * np.nan_to_num(table.values))) / (times_drawn @ weights), axis=1)


def _rng() -> np.random.Generator:
    return np.random.default_rng(BOOTSTRAP_SEED)
