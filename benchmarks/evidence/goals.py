"""The goals that SPD is measured against, each as "a measured number is at least a threshold", in every condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from evidence.collection import CEILING, NNUNET, RAW, SALIENCY, SPD, Collection, Condition, Runs, is_rival
from evidence.statistics import best_of, closed_share, difference
from spdnet.evaluation.evaluate import Estimate

POINTS_DECIDE = ("phantom", "ambiguous")  # data sets, by the beginning of their name, whose image alone cannot decide
MARGIN = 6.4  # points; mean of the paper's margins on its four data sets (arXiv 2604.23314, Table 1)
SHARE = 100 * 2 / 3
LARGEST_COST = 1.0


@dataclass(frozen=True)
class Outcome:
    """One goal in one condition.

    Attributes:
        goal: in words.
        condition: where; None if there is no record to measure it on.
        against: what SPD is compared with.
        value: measured, in `unit`; None if it could not be.
        threshold: the goal is met if the value is at least this.
        unit: of both.
        reason: why there is no value.
    """

    goal: str
    condition: Condition | None
    against: str = ""
    value: Estimate | None = None
    threshold: float = 0.0
    unit: str = "points"
    reason: str = ""

    @property
    def verdict(self) -> str:
        """ "met", "missed" or "not run"; in brackets whether the interval holds the threshold."""
        if self.value is None:
            return "not run"
        word = "met" if self.value.mean >= self.threshold else "missed"
        return f"{word} (within the interval)" if self.value.low < self.threshold < self.value.high else word


@dataclass(frozen=True)
class Goal:
    """A goal and how it is measured."""

    title: str
    measure: Callable[[Collection, Condition, str], Iterator[Outcome]]

    def outcomes(self, collection: Collection, conditions: list[Condition]) -> list[Outcome]:
        """In all conditions that it speaks of; one without a condition if there are none."""
        found = [outcome for c in conditions for outcome in self.measure(collection, c, self.title)]
        return found or [Outcome(self.title, None, reason="no records of such a setting")]


def margin(collection: Collection, condition: Condition, goal: str = "") -> Outcome:
    """SPD minus the best method that is neither a variant of it nor the ceiling: the one it leads by least."""
    rows = {r.method.name: r for r in collection.rows(condition) if r.results}
    rivals = {name: r.results for name, r in rows.items() if is_rival(r)}
    if not rivals:
        return Outcome(goal, condition, reason="no other method was run")
    if SPD not in rows:
        return Outcome(goal, condition, reason="SPD has no scores")
    best = best_of(rivals, "dsc", rows[SPD].results)
    if best is None:
        return Outcome(goal, condition, reason="no seed in common")
    return _compared(collection, goal, condition, rows[SPD], rows[best], MARGIN)


def closed_distance(collection: Collection, condition: Condition, goal: str = "") -> Outcome:
    """Share that SPD closes of the way from raw points (the best SAM tuned on them) to the ceiling."""
    rows = {r.method.name: r for r in collection.rows(condition) if r.results}
    decoders = {name: rows[name].results for name in RAW if name in rows}
    if not decoders:
        return Outcome(goal, condition, reason="no decoder tuned on raw points was run")
    for name in (SPD, CEILING):
        if name not in rows:
            return Outcome(goal, condition, reason=f"{collection.method(name).title} was not run")
    raw = best_of(decoders, "dsc", rows[SPD].results)
    if raw is None:
        return Outcome(goal, condition, reason="no seed in common")
    against = rows[raw].method.title
    value = closed_share(rows[raw].results, rows[SPD].results, rows[CEILING].results)
    reason = "" if value else "no seed in common, or the ceiling is not above raw points"
    return Outcome(goal, condition, against, value, SHARE, "%", reason)


def _where_points_decide(
    measure: Callable[[Collection, Condition, str], Outcome],
) -> Callable[[Collection, Condition, str], Iterator[Outcome]]:
    def measured(collection: Collection, condition: Condition, goal: str) -> Iterator[Outcome]:
        if condition.data.startswith(POINTS_DECIDE):
            yield measure(collection, condition, goal)

    return measured


def _never_below(collection: Collection, condition: Condition, goal: str) -> Iterator[Outcome]:
    for name in (NNUNET, SALIENCY):
        spd, other = collection.runs(condition, SPD), collection.runs(condition, name)
        if other is None:
            yield Outcome(goal, condition, collection.method(name).title, reason="no record")
        else:
            yield _compared(collection, goal, condition, spd, other, 0.0)


def _robust(collection: Collection, condition: Condition, goal: str) -> Iterator[Outcome]:
    levels = {value: collection.runs(condition, SPD, key) for value, key in collection.ladder("bad")}
    clean, bad = levels.get(0), levels.get(90)
    if clean and bad:
        yield _compared(collection, goal, condition, bad, clean, -LARGEST_COST)


def _useless_points(collection: Collection, condition: Condition, goal: str) -> Iterator[Outcome]:
    levels = {value: collection.runs(condition, SPD, key) for value, key in collection.ladder("bad")}
    bad, without = levels.get(100), collection.runs(condition, SALIENCY)
    if bad and without:
        yield _compared(collection, goal, condition, bad, without, 0.0)


GOALS = (
    Goal(
        f"where points decide, {MARGIN} points of slice DSC above the best other method", _where_points_decide(margin)
    ),
    Goal(
        "two thirds of the distance from raw points to the ceiling closed there", _where_points_decide(closed_distance)
    ),
    Goal("nowhere below nnU-Net without points or the saliency map alone", _never_below),
    Goal(f"90 % bad points cost at most {LARGEST_COST:g} point against clean ones", _robust),
    Goal("only bad points: no worse than without prompts", _useless_points),
)


def _compared(
    collection: Collection, goal: str, condition: Condition, first: Runs | None, second: Runs, threshold: float
) -> Outcome:
    """SPD's runs minus others."""
    against = second.method.title
    if second.method.name == SPD:
        against = f"itself with {collection.noise_title(second.records[0].job.test_noise)}"
    if first is None or not first.results:
        return Outcome(goal, condition, against, reason="SPD has no scores")
    found = difference(first.results, second.results, "dsc")
    if found is None:
        return Outcome(goal, condition, against, reason=second.not_run or "no seed in common")
    return Outcome(goal, condition, against, found.estimate, threshold)
