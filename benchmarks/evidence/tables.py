"""Tables in Markdown, computed from stored records; each has a line that says what it rests on, and warnings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evidence.collection import (
    CEILING,
    LADDERS,
    REFERENCES,
    SAM_TUNING,
    SPD,
    Collection,
    Condition,
    Runs,
    has_true_points,
    is_variant,
)
from evidence.goals import GOALS, Outcome, closed_distance, margin
from evidence.jobs import Budget, RunRecord
from evidence.statistics import (
    METRICS,
    MIN_CASES,
    Difference,
    Metric,
    case_table,
    difference,
    estimate,
    holm,
    seed_spread,
)
from spdnet.evaluation.evaluate import Estimate

MAIN_VARIANTS = ("SPD", "ablation", "ceiling")
SLICE_METRICS = ("dsc", "iou", "target_dsc", "hd95_mm", "asd_mm")
NONE = "–"
LARGEST_LOSSES = 5


@dataclass(frozen=True)
class CaseLoss:
    """How a case and class scored with SPD and with another method, per cent."""

    case: str
    class_name: str
    spd: float
    rival: float

    @property
    def difference(self) -> float:
        """SPD minus the other."""
        return self.spd - self.rival


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], n_left: int = 1) -> str:
    """A Markdown table; the first `n_left` columns are aligned left, all others right."""
    rule = [":--"] * n_left + ["--:"] * (len(headings) - n_left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def method_rows(rows: Sequence[Runs]) -> list[Runs]:
    """Of Table 1: SPD beside other methods, and the ceiling."""
    return [r for r in rows if not is_variant(r) or _is_anchor(r)]


def ablation_rows(rows: Sequence[Runs]) -> list[Runs]:
    """Of Table 2: SPD's own variants, and SAM tuned on raw points, the paper's baseline; empty without variants."""
    found = [r for r in rows if is_variant(r) or r.method.name == SAM_TUNING]
    return [] if all(_is_anchor(r) or r.method.name == SAM_TUNING for r in found) else found


def main_rows(rows: Sequence[Runs]) -> list[Runs]:
    """Of Table 3 and the costs: all but the sweeps of SPD's numbers."""
    return [r for r in rows if not is_variant(r) or r.method.group in MAIN_VARIANTS]


def score_table(rows: Sequence[Runs], metrics: Sequence[str]) -> str:
    """Methods with their scores, the best without true points bold, and paired differences to SPD in the first."""
    first = METRICS[metrics[0]]
    scored = [r for r in rows if r.results]
    spread = any(len(r.results) > 1 for r in scored)
    spd = next((r for r in scored if r.method.name == SPD), None)
    differences = {
        r.method.name: difference(r.results, spd.results, first.name) for r in scored if spd and r.method.name != SPD
    }
    known = {name: d for name, d in differences.items() if d is not None}
    p_values = dict(zip(known, holm([d.p for d in known.values()]), strict=True))
    headings = ["method", "group", f"{first.title}, {first.unit} [95 %]", *(["sd of seeds"] if spread else [])]
    headings += [f"{METRICS[m].title}, {METRICS[m].unit}" for m in metrics[1:]]
    headings += [f"{first.title} minus SPD's [95 %]", "p"]
    best = {m: _best_shown(scored, METRICS[m]) for m in metrics}
    lines = []
    for runs in rows:
        name = runs.method.name
        cells = [runs.method.title, runs.method.group]
        if not runs.results:
            cells.append(f"not run: {runs.not_run}")
            lines.append([*cells, *[NONE] * (len(headings) - len(cells))])
            continue
        for metric in metrics:
            value = estimate(runs.results, metric)
            text = number(value.mean, METRICS[metric])
            if not has_true_points(runs) and text == best[metric]:
                text = f"**{text}**"
            cells.append(f"{text} {interval(value, METRICS[metric])}".strip() if metric == first.name else text)
            if metric == first.name and spread:
                cells.append(number(seed_spread(runs.results, metric), METRICS[metric]))
        cells += _difference_cells(known.get(name), p_values.get(name), first) if name != SPD else ["", ""]
        lines.append(cells)
    return markdown(headings, lines, n_left=2)


def cost_table(rows: Sequence[Runs]) -> str:
    """Seconds and memory, means over seeds."""
    lines = []
    for runs in rows:
        ran = [r for r in runs.records if r.seconds]
        if ran:
            train = np.mean([r.seconds["train"] for r in ran])
            speed = sum(r.seconds["predict_slices"] for r in ran) / sum(r.seconds["predict"] for r in ran)
            peaks = [r.peak_mib for r in ran if r.peak_mib]
            lines.append([runs.method.title, f"{train:.0f}", f"{speed:.1f}", f"{max(peaks):.0f}" if peaks else NONE])
    return markdown(["method", "training, s", "prediction, slices/s", "peak memory, MiB"], lines)


def ladder_table(collection: Collection, condition: Condition, ladder: str) -> str:
    """Slice DSC of one training tested with ever worse prompts, beside `REFERENCES`, which ignore prompts.

    All of the seeds that SPD has there.
    """
    levels, unit = collection.ladders(condition)[ladder], LADDERS.get(ladder, ("", ""))[1]
    lines = []
    for name, curve in ladder_curves(collection, condition, ladder).items():
        scores = dict(curve)
        lines.append([collection.method(name).title, *(_mean_cell(scores.get(value)) for value, _ in levels)])
    return markdown(["slice DSC, %", *(f"{value:g} {unit}" for value, _ in levels)], lines)


def ladder_curves(collection: Collection, condition: Condition, ladder: str) -> dict[str, list[tuple[float, Runs]]]:
    """The curves that `ladder_table` shows."""
    curves = {name: collection.curve(condition, name, ladder) for name in collection.names(condition)}
    return {n: c for n, c in curves.items() if c and (n in REFERENCES or collection.method(n).uses_prompts)}


def volumes_table(collection: Collection, condition: Condition) -> str:
    """Slice DSC against the number of training volumes."""
    lines = [
        [collection.method(name).title, *(_mean_cell(runs, with_seeds=True) for runs in curve)]
        for name, curve in collection.volume_curves(condition).items()
    ]
    volumes = ["all" if c.n_train is None else str(c.n_train) for c in collection.by_volumes(condition)]
    return markdown(["slice DSC, % (± sd of seeds)", *(f"{v} volumes" for v in volumes)], lines)


def goal_summary(collection: Collection, profile: str) -> str:
    """The goals in one line each, judged on the test part with all training volumes."""
    judged = [c for c in collection.conditions if (c.profile, c.part, c.n_train) == (profile, "final", None)]
    lines = []
    for goal in GOALS:
        outcomes = goal.outcomes(collection, judged)
        measured = [o for o in outcomes if o.value is not None]
        if not measured:
            reasons = "; ".join(dict.fromkeys(o.reason for o in outcomes))
            lines.append([goal.title, "not run", NONE, NONE, reasons])
            continue
        lowest = min(measured, key=lambda o: o.value.mean - o.threshold if o.value else math.inf)
        n_met = sum(o.verdict.startswith("met") for o in measured)
        verdict = "met" if n_met == len(measured) else "missed"
        if len(measured) < len(outcomes):
            verdict += f" ({len(outcomes) - len(measured)} not run)"
        where = collection.short_title(lowest.condition) if lowest.condition else ""
        shown = f"{_measured(lowest)}; {where}, against {lowest.against}"
        lines.append([goal.title, verdict, f"{n_met} of {len(measured)}", _threshold(lowest), shown])
    return markdown(["goal", "verdict", "met in", "at least", "lowest measured [95 %]"], lines, n_left=5)


def goal_details(collection: Collection, profile: str) -> list[tuple[str, str]]:
    """For each goal its title and a table of all conditions."""
    conditions = [c for c in collection.conditions if c.profile == profile]
    found = []
    for goal in GOALS:
        lines = [
            [collection.short_title(o.condition), o.against or NONE, _measured(o), o.verdict]
            for o in goal.outcomes(collection, conditions)
            if o.condition is not None
        ]
        if lines:
            found.append((goal.title, markdown(["setting", "SPD against", "measured [95 %]", "verdict"], lines, 4)))
    return found


def largest_losses(spd: Runs, rival: Runs, n: int = LARGEST_LOSSES) -> list[CaseLoss]:
    """The cases and classes in which SPD's slice DSC is furthest below another method's, of the seeds of both."""
    seeds = spd.results.keys() & rival.results.keys()
    if not seeds:
        return []
    ours, theirs = (case_table({s: r.results[s] for s in sorted(seeds)}, "dsc") for r in (spd, rival))
    ours, theirs = ours.only(theirs.cases), theirs.only(ours.cases)
    classes = next(iter(spd.results.values())).class_names
    losses = [
        CaseLoss(case, name, float(ours.values[i, k]), float(theirs.values[i, k]))
        for i, case in enumerate(ours.cases)
        for k, name in enumerate(classes)
    ]
    return sorted((x for x in losses if x.difference < 0), key=lambda x: x.difference)[:n]


def loss_table(spd: Runs, rival: Runs, n: int = LARGEST_LOSSES) -> str:
    """`largest_losses` as a table."""
    rows = [
        [x.case, x.class_name, f"{x.spd:.1f}", f"{x.rival:.1f}", f"{x.difference:+.1f}"]
        for x in largest_losses(spd, rival, n)
    ]
    return markdown(["case", "class", "SPD's slice DSC, %", f"{rival.method.title}'s", "difference"], rows, n_left=2)


def margin_line(collection: Collection, condition: Condition) -> str:
    """Under Table 1: SPD's margin over the best other method, and the share of the way to the ceiling it closes."""
    dsc, sentences = METRICS["dsc"], []
    best, closed = margin(collection, condition), closed_distance(collection, condition)
    if best.value is not None:
        sentences.append(f"SPD minus the best other method ({best.against}): {signed(best.value, dsc)} points.")
    if closed.value is not None:
        share = f"{number(closed.value.mean, dsc)} % {interval(closed.value, dsc)}".strip()
        sentences.append(f"Of the distance from raw points ({closed.against}) to the ceiling it closes {share}.")
    return " ".join(sentences)


def basis(records: Sequence[RunRecord], distances: bool = False, tests: bool = False) -> str:
    """What a table rests on: cases, slices, classes, seeds, budget, commits, hardware; notes of its methods.

    Args:
        records: of its rows, those without scores too.
        distances: whether it has HD95 and ASD; tests: whether it has p values.
    """
    scored = [r for r in records if r.cases]
    if not scored:
        return "Nothing was run."
    n_cases = max(len(r.cases) for r in scored)
    classes = [str(c.get("class", i)) for i, c in enumerate(scored[0].cases[0]["classes"])]
    seeds = sorted({r.job.setting.seed for r in scored})
    words = [
        f"{n_cases} cases, {max(_n_slices(r, 'n_slices') for r in scored)} slices",
        f"class{'es' * (len(classes) > 1)} {', '.join(classes)}",
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        budget_in_words(scored),
        f"commit {', '.join(sorted({_commit(r) for r in scored}))}",
        hardware_in_words(scored),
    ]
    sentences = [f"{'; '.join(words)}."]
    if distances:
        counts = {_n_slices(r, "n_distance_slices") for r in scored}
        least, most = min(counts), max(counts)
        how_many = str(least) if least == most else f"{least} to {most}"
        sentences.append(f"HD95 and ASD: over the {how_many} slices of the first class that both masks have.")
    if tests:
        why = f"; n.a., as with fewer than {MIN_CASES} cases it cannot fall below 0.05" if n_cases < MIN_CASES else ""
        sentences.append(
            "p: Wilcoxon signed-rank test of case means against SPD, two-sided, by Holm within the table" + why + "."
        )
    noted: dict[str, dict[str, None]] = {}  # methods by what is said of them, in order
    for record in scored:
        for note in record.notes:
            noted.setdefault(note, {})[record.job.method] = None
    return " ".join([*sentences, *(f"{', '.join(methods)}: {note}." for note, methods in noted.items())])


def warnings(records: Sequence[RunRecord], costs: bool = False) -> list[str]:
    """What makes the rows of a table less comparable than they look (costs: other hardware too); empty if nothing."""
    scored, found = [r for r in records if r.cases], []
    for what, values in (
        ("commits", {_commit(r) for r in scored}),
        ("budgets", {str(r.budget) for r in scored}),
        ("hardware", {_hardware(r) for r in scored} if costs else set()),
    ):
        if len(values) > 1:
            found.append(f"rows come from different {what}: {'; '.join(sorted(values))}")
    changed = sorted({_commit(r) for r in scored if _commit(r).endswith("+")})
    if changed:
        found.append(f"files had changed since the commit: {', '.join(changed)}")
    seeds: dict[str, set[int]] = {}
    for record in scored:
        seeds.setdefault(record.job.method, set()).add(record.job.setting.seed)
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for method, own in seeds.items():
        by_seeds.setdefault(tuple(sorted(own)), []).append(method)
    if len(by_seeds) > 1:
        listed = (f"{', '.join(map(str, own))}: {', '.join(methods)}" for own, methods in sorted(by_seeds.items()))
        found.append(f"rows have different seeds, differences are of those in common ({'; '.join(listed)})")
    failed = sorted({f"{r.job.method} (seed {r.job.setting.seed}: {r.not_run})" for r in records if _failed(r, seeds)})
    if failed:
        found.append(f"some seeds were not run: {', '.join(failed)}")
    if len({(r.job.setting.seed, tuple(sorted(str(c["case"]) for c in r.cases))) for r in scored}) > len(
        {r.job.setting.seed for r in scored}
    ):
        found.append("rows are of different cases; differences are of those in common")
    return found


def budget_in_words(records: Sequence[RunRecord]) -> str:
    """Profile and budget of the first record, "run small: lite at 56 px, 8 + 6 epochs, ..."."""
    first = records[0]
    budget: Budget = first.budget
    size = "the planner's size" if budget.image_size is None else f"{budget.image_size} px"
    epochs = " + ".join(map(str, budget.epochs))
    return (
        f"run {first.job.setting.profile}: {budget.backbone} at {size}, {epochs} epochs, networks from nothing "
        f"{budget.unet_iterations} steps, nnU-Net {budget.nnunet_epochs} epochs of 250 steps"
    )


def hardware_in_words(records: Sequence[RunRecord]) -> str:
    """Every machine once."""
    return "; ".join(sorted({_hardware(r) for r in records}))


def number(value: float, metric: Metric) -> str:
    """As shown, without unit."""
    return "n.a." if math.isnan(value) else f"{value:.{metric.decimals}f}"


def interval(value: Estimate, metric: Metric) -> str:
    """In brackets; empty if there is none."""
    if math.isnan(value.low):
        return ""
    return f"[{value.low:.{metric.decimals}f}, {value.high:.{metric.decimals}f}]"


def signed(value: Estimate, metric: Metric) -> str:
    """A difference with its interval."""
    text = f"{value.mean:+.{metric.decimals}f}"
    if math.isnan(value.low):
        return text
    return f"{text} [{value.low:+.{metric.decimals}f}, {value.high:+.{metric.decimals}f}]"


def p_value(p: float) -> str:
    """As shown."""
    if math.isnan(p):
        return "n.a."
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _is_anchor(runs: Runs) -> bool:
    return runs.method.name in (SPD, CEILING)


def _best_shown(rows: Sequence[Runs], metric: Metric) -> str | None:
    """The best score as it is printed, so that ties in print are all bold; without those of true points."""
    means = [estimate(r.results, metric.name).mean for r in rows if not has_true_points(r)]
    means = [m for m in means if not math.isnan(m)]
    if not means:
        return None
    return number(max(means) if metric.higher_is_better else min(means), metric)


def _difference_cells(found: Difference | None, p: float | None, metric: Metric) -> list[str]:
    if found is None or p is None:
        return [NONE, NONE]
    return [signed(found.estimate, metric), p_value(p)]


def _mean_cell(runs: Runs | None, with_seeds: bool = False) -> str:
    if runs is None or not runs.results:
        return NONE
    metric = METRICS["dsc"]
    text = number(estimate(runs.results, metric.name).mean, metric)
    if with_seeds and len(runs.results) > 1:
        text += f" ± {number(seed_spread(runs.results, metric.name), metric)}"
    return text


def _measured(outcome: Outcome) -> str:
    if outcome.value is None:
        return outcome.reason
    return f"{signed(outcome.value, METRICS['dsc'])} {outcome.unit}"


def _threshold(outcome: Outcome) -> str:
    return f"{outcome.threshold:+.1f} {outcome.unit}"


def _n_slices(record: RunRecord, count: str) -> int:
    """Of the first class, all cases together."""
    return sum(int(case["classes"][0][count]) for case in record.cases)


def _commit(record: RunRecord) -> str:
    return record.versions.get("commit", "unknown")


def _failed(record: RunRecord, scored: Mapping[str, object]) -> bool:
    """Whether a record has no scores though others of its method have."""
    return not record.cases and record.job.method in scored


def _hardware(record: RunRecord) -> str:
    found = record.hardware
    words = [str(found.get("gpu") or found.get("processor") or found.get("machine") or "hardware unknown")]
    if found.get("cores"):
        words.append(f"{found['cores']} cores")
    return ", ".join(words)
