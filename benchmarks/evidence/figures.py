"""Figures of stored records. Each function returns a Figure, or None where the records for it are missing.

They mirror the SPD paper (arXiv 2604.23314): `frozen_prompts` its Figure 5, `consistency` Figure 6, `sweeps` Figure 7
and the threshold behind Figure 8 (whose histogram needs saliency maps, which records do not have), `volume_models`
Figure 9. The others show what it does not: noise, labels, single cases, costs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evidence.collection import (
    CONSENSUS,
    LADDERS,
    NNUNET,
    RAW,
    REFERENCES,
    SALIENCY,
    SAM_TUNING,
    SPD,
    Collection,
    Condition,
    Runs,
    is_rival,
    is_variant,
)
from evidence.goals import MARGIN, margin
from evidence.plotting import (
    DASHES,
    GRID,
    INK,
    MUTED,
    OTHER_COLOUR,
    SPD_COLOUR,
    STYLE,
    WIDTH,
    label_ends,
    log_ticks,
    new_figure,
    styles,
    title_above,
    wrapped,
)
from evidence.statistics import METRICS, best_of, case_table, difference, estimate, seed_means
from spdnet.evaluation.evaluate import Estimate

DSC = METRICS["dsc"]
MOST_CURVES = 8


@mpl.rc_context(STYLE)
def noise_curves(collection: Collection, condition: Condition) -> Figure | None:
    """Slice DSC against the strength of the noise, a panel per ladder; what ignores prompts is level and dashed."""
    ladders = collection.ladders(condition)
    curves = {  # by ladder and method
        ladder: {name: collection.curve(condition, name, ladder) for name in collection.names(condition)}
        for ladder in ladders
    }
    names = [n for n in collection.names(condition) if any(len(found[n]) > 1 for found in curves.values())]
    names = [n for n in names if n in REFERENCES or collection.method(n).uses_prompts]
    if not any(collection.method(n).uses_prompts for n in names):
        return None
    names, left_out = _most_important({n: [r for found in curves.values() for _, r in found[n]] for n in names})
    look = styles(names)
    figure = new_figure(3.0)
    widths = [1.7 if ladder == "bad" else 1.0 for ladder in ladders]
    axes = figure.subplots(1, len(ladders), sharey=True, squeeze=False, width_ratios=widths)[0]
    title_above(figure, collection.short_title(condition) + left_out)
    ends: dict[str, tuple[Axes, float]] = {}
    for axis, (ladder, levels) in zip(axes, ladders.items(), strict=True):
        for name in (n for n in names if curves[ladder][n]):
            x = [value for value, _ in curves[ladder][name]]
            runs = [r for _, r in curves[ladder][name]]
            ends[name] = axis, _draw_curve(axis, x, runs, look[name], level=not collection.method(name).uses_prompts)
        title, unit = LADDERS.get(ladder, (ladder, ""))
        axis.set_xlabel(wrapped(f"{title}, {unit}", 24 if ladder == "bad" else 17))
        axis.set_xticks([value for value, _ in levels], [f"{value:g}" for value, _ in levels])
        axis.grid(axis="y")
        axis.tick_params(axis="y", length=0)
    axes[0].set_ylabel("slice DSC, %")
    for axis in axes:
        label_ends(axis, [(y, collection.method(n).title, look[n][0]) for n, (a, y) in ends.items() if a is axis])
    return figure


@mpl.rc_context(STYLE)
def label_efficiency(collection: Collection, condition: Condition) -> Figure | None:
    """Slice DSC against the number of training volumes, other things as in the condition."""
    curves = collection.volume_curves(condition)
    if not curves:
        return None
    names, left_out = _most_important({n: [r for r in runs if r is not None] for n, runs in curves.items()})
    look = styles(names)
    figure = new_figure(3.2, 0.85 * WIDTH)
    axis = figure.subplots()
    ends = []
    for name in names:
        points = [(i, r) for i, r in enumerate(curves[name]) if r is not None]
        end = _draw_curve(axis, [float(i) for i, _ in points], [r for _, r in points], look[name])
        ends.append((end, collection.method(name).title, look[name][0]))
    conditions = collection.by_volumes(condition)
    axis.set_xticks(range(len(conditions)), ["all" if c.n_train is None else str(c.n_train) for c in conditions])
    axis.set_xlabel("training volumes (not to scale)")
    axis.set_ylabel("slice DSC, %")
    axis.grid(axis="y")
    axis.tick_params(axis="y", length=0)
    axis.set_title(collection.short_title(condition, volumes=False) + left_out)
    label_ends(axis, ends)
    return figure


@mpl.rc_context(STYLE)
def forest(collection: Collection, condition: Condition) -> Figure | None:
    """Paired differences to SPD with 95 % intervals, by group, without the sweeps; far ones are arrows at the edge."""
    rows = [r for r in collection.rows(condition) if r.results and r.method.group not in ("context", "threshold")]
    spd = next((r for r in rows if r.method.name == SPD), None)
    found = [
        (r, d.estimate)
        for r in rows
        if spd is not None and r is not spd and (d := difference(r.results, spd.results, DSC.name)) is not None
    ]
    if not found:
        return None
    near = [v for r, v in found if r.method.group != "frozen SAM"] or [v for _, v in found]
    bounds = [b for v in near for b in (v.low, v.mean, v.high, 0.0) if not math.isnan(b)]
    room = 0.06 * (max(bounds) - min(bounds)) + 0.2
    left, right = min(bounds) - room, max(bounds) + room
    n_gaps = len(list(dict.fromkeys(r.method.group for r, _ in found))) - 1
    figure = new_figure(0.8 + 0.2 * len(found) + 0.1 * n_gaps)
    axis = figure.subplots()
    y, places, group = 0.0, [], found[0][0].method.group
    for runs, value in found:
        y += 1.5 if runs.method.group != group else 1.0
        group = runs.method.group
        places.append(y)
        colour = SPD_COLOUR if value.high < 0 else OTHER_COLOUR if value.low > 0 else MUTED
        if value.mean < left:
            axis.plot(left + room / 2, y, "<", color=colour, label=runs.method.title)
        else:
            axis.plot([value.low, value.high], [y, y], color=colour, linewidth=1.4, solid_capstyle="butt")
            axis.plot(value.mean, y, "s", color=colour, label=runs.method.title)
        _write_right(axis, y, _signed(value))
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set_xlim(left, right)
    axis.set_yticks(places, [r.method.title for r, _ in found])
    axis.set_ylim(y + 0.8, 0.2)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    axis.set_xlabel("slice DSC minus SPD's, points (left of 0: worse than SPD)")
    axis.set_title(collection.short_title(condition))
    return figure


@mpl.rc_context(STYLE)
def sweeps(collection: Collection, condition: Condition) -> Figure | None:
    """The consensus with other numbers of context slices n and thresholds tau, and SPD as a line.

    Whiskers are of the paired difference to the consensus with the usual ones.
    """
    spd, usual_runs = (collection.runs(condition, name) for name in (SPD, CONSENSUS))
    rows = collection.rows(condition)
    panels = [
        ("context slices n on each side", 2.0, _numbered(rows, r"spd_context(\d+)", 1.0)),
        ("saliency threshold tau", 0.5, _numbered(rows, r"spd_tau(\d+)", 0.01)),
    ]
    panels = [panel for panel in panels if panel[2]]
    if spd is None or not spd.results or usual_runs is None or not usual_runs.results or not panels:
        return None
    default, of_spd = (estimate(runs.results, DSC.name).mean for runs in (usual_runs, spd))
    figure = new_figure(2.6, WIDTH if len(panels) == 2 else 0.6 * WIDTH)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    title_above(figure, collection.short_title(condition))
    for axis, (title, usual, variants) in zip(axes, panels, strict=True):
        axis.axhline(of_spd, color=SPD_COLOUR, linewidth=0.9, linestyle=DASHES, label="SPD")
        for value, runs in variants:
            axis.plot([value, value], _against(runs, usual_runs), color=OTHER_COLOUR, linewidth=1.4)
        x, means = zip(*((value, estimate(r.results, DSC.name).mean) for value, r in variants), strict=True)
        axis.plot(x, means, "o", color=OTHER_COLOUR, label="variants")
        axis.plot(usual, default, "o", color=INK, markersize=7, label="consensus")
        axis.annotate("as in the paper", (usual, default), (0, 7), textcoords="offset points", color=INK, ha="center")
        axis.set_xticks(sorted([*x, usual]))
        axis.set_xlabel(title)
        axis.margins(x=0.08, y=0.12)
        axis.grid(axis="y")
        axis.tick_params(axis="y", length=0)
    axes[0].set_ylabel("slice DSC, %")
    return figure


@mpl.rc_context(STYLE)
def consistency(collection: Collection, condition: Condition) -> Figure | None:
    """SPD, which draws adjacent slices to each other, beside none, and each slice drawn to one neighbour alone."""
    rows = [r for r in collection.rows(condition) if r.results and (r.method.name == SPD or "psc" in r.method.name)]
    spd = next((r for r in rows if r.method.name == SPD), None)
    if spd is None or len(rows) < 2:
        return None
    figure = new_figure(0.8 + 0.26 * len(rows), 0.8 * WIDTH)
    axis = figure.subplots()
    axis.axvline(estimate(spd.results, DSC.name).mean, color=SPD_COLOUR, linewidth=0.9, linestyle=DASHES)
    for y, runs in enumerate(rows):
        mean, colour = estimate(runs.results, DSC.name).mean, SPD_COLOUR if runs is spd else OTHER_COLOUR
        axis.plot(_against(runs, spd), [y, y], color=colour, linewidth=1.4)
        axis.plot(mean, y, "o", color=colour, markersize=6, label=runs.method.title)
        _write_right(axis, y, f"{mean:.1f}")
    axis.set_yticks(range(len(rows)), [r.method.title for r in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("slice DSC, %")
    axis.grid(axis="x")
    axis.set_title(collection.short_title(condition))
    return figure


@mpl.rc_context(STYLE)
def frozen_prompts(collection: Collection, condition: Condition) -> Figure | None:
    """Slice DSC and IoU of a SAM that was not tuned, with raw, all and consensus points."""
    rows = [r for r in collection.rows(condition) if r.method.group == "frozen SAM" and r.results]
    return _bars(rows, ("dsc", "iou"), collection.short_title(condition)) if len(rows) > 1 else None


@mpl.rc_context(STYLE)
def volume_models(collection: Collection, condition: Condition) -> Figure | None:
    """Slice DSC and volume Dice of SPD and of SAM 2 and its kin."""
    rows = [r for r in collection.rows(condition) if r.method.group in ("SPD", "SAM 2") and r.results]
    if all(r.method.name == SPD for r in rows):
        return None
    return _bars(rows, ("dsc", "volume_dice"), collection.short_title(condition))


@mpl.rc_context(STYLE)
def cases(collection: Collection, condition: Condition, rival: str | None = None) -> Figure | None:
    """Every case with SPD and another method, by default the best other one, in the order of the latter's score."""
    rows = {r.method.name: r for r in collection.rows(condition) if r.results}
    if SPD not in rows:
        return None
    rival = rival or best_of({n: r.results for n, r in rows.items() if is_rival(r)}, DSC.name, rows[SPD].results)
    if rival not in rows:
        return None
    seeds = sorted(rows[SPD].results.keys() & rows[rival].results.keys())
    if not seeds:
        return None
    ours, theirs = (case_table({s: rows[n].results[s] for s in seeds}, DSC.name) for n in (SPD, rival))
    ours, theirs = ours.only(theirs.cases), theirs.only(ours.cases)
    order = np.argsort(theirs.case_means)
    first, second = ours.case_means[order], theirs.case_means[order]
    names, x, title = [ours.cases[i] for i in order], np.arange(len(order)), rows[rival].method.title
    figure = new_figure(2.9)
    axis = figure.subplots()
    better = first >= second
    for wins, colour in ((better, SPD_COLOUR), (~better, OTHER_COLOUR)):
        axis.vlines(x[wins], first[wins], second[wins], color=colour, linewidth=1.2, alpha=0.45)
    axis.plot(x, second, "s", color=OTHER_COLOUR, markersize=4.5, label=title)
    axis.plot(x, first, "o", color=SPD_COLOUR, markersize=4.5, label="SPD")
    if len(names) <= 60:
        axis.set_xticks(x, names, rotation=90, fontsize=7 if len(names) <= 40 else 5)
    else:
        axis.set_xticks([])
    axis.set_xlabel(f"{len(names)} test cases, by the score of {title}; SPD is better in {int((first > second).sum())}")
    axis.set_xlim(-0.7, len(x) - 0.3)
    axis.set_ylabel("slice DSC, %")
    axis.grid(axis="y")
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper right", ncols=2, handletextpad=0.2)
    axis.set_title(collection.short_title(condition))
    return figure


@mpl.rc_context(STYLE)
def costs(collection: Collection, condition: Condition) -> Figure | None:
    """Slice DSC against seconds of training and slices predicted a second, of all that was trained."""
    main = (SPD, SALIENCY, *RAW)
    rows = [
        r
        for r in collection.rows(condition)
        if r.results and (not is_variant(r) or r.method.name in main) and _seconds(r)[0] > 0
    ]
    if len(rows) < 2:
        return None
    look = styles([r.method.name for r in rows])
    figure = new_figure(2.6 + 0.16 * math.ceil(len(rows) / 2))
    axes = figure.subplots(1, 2, sharey=True)
    title_above(figure, collection.short_title(condition))
    for runs in rows:
        colour, marker = look[runs.method.name]
        mean, size = estimate(runs.results, DSC.name).mean, 9 if runs.method.name == SPD else 6
        for axis, value in zip(axes, _seconds(runs), strict=True):
            axis.plot(value, mean, marker, color=colour, markersize=size, label=runs.method.title, linestyle="")
    for axis, title in zip(axes, ("training, s", "prediction, slices per second"), strict=True):
        log_ticks(axis)
        axis.set_xlabel(f"{title} (logarithmic)")
        axis.grid()
        axis.margins(0.08)
        axis.tick_params(axis="y", length=0)
    axes[0].set_ylabel("slice DSC, %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7, handletextpad=0.2)
    return figure


@mpl.rc_context(STYLE)
def overview(collection: Collection, profile: str) -> Figure | None:
    """SPD minus the best other method, nnU-Net and the saliency map: the test parts of a profile, all volumes."""
    kinds = (("best other method", SPD_COLOUR, "o"), ("nnU-Net", "#009E73", "^"), ("saliency alone", "#E69F00", "P"))
    found: list[tuple[str, str, list[Estimate | None]]] = []
    for condition in collection.conditions:
        if (condition.profile, condition.part, condition.n_train) != (profile, "final", None):
            continue
        best = margin(collection, condition)
        values = [best.value, *(_lead(collection, condition, name) for name in (NNUNET, SALIENCY))]
        if any(values):
            found.append((collection.short_title(condition), best.against, values))
    if not found:
        return None
    figure = new_figure(1.0 + 0.55 * len(found))
    axis = figure.subplots()
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.axvline(MARGIN, color=SPD_COLOUR, linewidth=0.9, linestyle=DASHES, label=f"goal where points decide: {MARGIN}")
    for i, (kind, colour, marker) in enumerate(kinds):
        drawn = [(y + 0.24 * (i - 1), v) for y, (_, _, values) in enumerate(found) if (v := values[i]) is not None]
        for y, value in drawn:
            axis.plot([value.low, value.high], [y, y], color=colour, linewidth=1.4)
        if drawn:
            means, rows = [v.mean for _, v in drawn], [y for y, _ in drawn]
            axis.plot(means, rows, marker, color=colour, label=kind, linestyle="")
    for y, (_, against, values) in enumerate(found):
        if (best_value := values[0]) is not None:
            _write_right(axis, y, f"{best_value.mean:+.1f} over\n{wrapped(against, 26)}", fontsize=7)
        if y:
            axis.axhline(y - 0.5, color=GRID, linewidth=0.6)
    axis.set_yticks(range(len(found)), [wrapped(title, 30) for title, _, _ in found])
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    axis.set_xlabel("SPD's slice DSC minus the other's, points (right of 0: SPD is better)")
    figure.legend(loc="outside upper left", ncols=4, handletextpad=0.2)
    return figure


def _most_important(curves: Mapping[str, Sequence[Runs]]) -> tuple[list[str], str]:
    """As many methods as curves can be told apart, in the order given, and words on what is left out.

    SPD, SAM-Tuning and the references come first, then those with the highest score anywhere; last those of two places.
    """

    def unimportance(name: str) -> tuple[bool, bool, float]:
        highest = max(np.mean(list(seed_means(runs.results, DSC.name).values())) for runs in curves[name])
        return name not in (SPD, SAM_TUNING, *REFERENCES), len(curves[name]) < 3, -highest

    chosen = sorted(curves, key=unimportance)[:MOST_CURVES]
    n_left = len(curves) - len(chosen)
    return [n for n in curves if n in chosen], f" ({n_left} more in the table only)" if n_left else ""


def _draw_curve(
    axis: Axes, x: Sequence[float], runs: Sequence[Runs], look: tuple[str, str], level: bool = False
) -> float:
    """Mean, 95 % band and single seeds of a method, dashed and bare if level; returns where the line ends."""
    colour, marker = look
    values = [estimate(r.results, DSC.name) for r in runs]
    means, title, is_spd = [v.mean for v in values], runs[0].method.title, runs[0].method.name == SPD
    if level:
        axis.plot(x, means, color=colour, linewidth=1.1, linestyle=DASHES, label=title)
        return means[-1]
    lows, highs = [v.low for v in values], [v.high for v in values]
    axis.fill_between(x, lows, highs, color=colour, alpha=0.16 if is_spd else 0.07, linewidth=0)
    width, order = (2.2, 3) if is_spd else (1.4, 2)
    axis.plot(x, means, color=colour, marker=marker, linewidth=width, label=title, zorder=order)
    for value, r in zip(x, runs, strict=True):
        if len(r.results) > 1:
            single = list(seed_means(r.results, DSC.name).values())
            axis.plot([value] * len(single), single, ".", color=colour, markersize=3, alpha=0.6, label="_seeds")
    return means[-1]


def _bars(rows: Sequence[Runs], metrics: Sequence[str], title: str) -> Figure:
    """Horizontal bars from zero with values and 95 % intervals, a panel per metric."""
    figure = new_figure(0.8 + 0.28 * len(rows))
    axes = figure.subplots(1, len(metrics), sharey=True)
    title_above(figure, title)
    for axis, name in zip(axes, metrics, strict=True):
        metric, ends = METRICS[name], []
        for y, runs in enumerate(rows):
            value = estimate(runs.results, name)
            axis.barh(y, value.mean, 0.62, color=SPD_COLOUR if runs.method.name == SPD else OTHER_COLOUR)
            axis.plot([value.low, value.high], [y, y], color=INK, linewidth=1)
            ends.append(value.mean if math.isnan(value.high) else value.high)
            axis.annotate(f"{value.mean:.1f}", (ends[-1], y), (4, 0), textcoords="offset points", va="center")
        axis.set_xlim(0, 1.2 * max(ends))
        axis.set_xlabel(f"{metric.title}, {metric.unit}")
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(rows)), [r.method.title for r in rows])
    axes[0].invert_yaxis()
    return figure


def _against(runs: Runs, other: Runs) -> tuple[float, float]:
    """The interval of the paired difference to another method, round the method's own mean; NaN for that one itself."""
    found = difference(runs.results, other.results, DSC.name)
    if runs is other or found is None:
        return math.nan, math.nan
    shift = estimate(runs.results, DSC.name).mean - found.estimate.mean
    return found.estimate.low + shift, found.estimate.high + shift


def _lead(collection: Collection, condition: Condition, name: str) -> Estimate | None:
    spd, other = collection.runs(condition, SPD), collection.runs(condition, name)
    found = difference(spd.results, other.results, DSC.name) if spd and other else None
    return found.estimate if found else None


def _numbered(rows: Sequence[Runs], pattern: str, unit: float) -> list[tuple[float, Runs]]:
    """Methods with scores whose name holds a number, by that number times a unit."""
    matches = ((re.fullmatch(pattern, r.method.name), r) for r in rows if r.results)
    return sorted(((unit * int(m.group(1)), r) for m, r in matches if m), key=lambda pair: pair[0])


def _seconds(runs: Runs) -> tuple[float, float]:
    """Training, mean over seeds, s; slices predicted a second; 0 where not measured."""
    ran = [r.seconds for r in runs.records if r.seconds]
    predicted = sum(s["predict"] for s in ran)
    if not ran or not predicted:
        return 0.0, 0.0
    return float(np.mean([s["train"] for s in ran])), sum(s["predict_slices"] for s in ran) / predicted


def _signed(value: Estimate) -> str:
    bounds = "" if math.isnan(value.low) else f" [{value.low:+.1f}, {value.high:+.1f}]"
    return f"{value.mean:+.1f}{bounds}"


def _write_right(axis: Axes, y: float, text: str, fontsize: float | None = None) -> None:
    """Beside the axis, at a height in data."""
    place = ("axes fraction", "data")
    axis.annotate(text, (1.02, y), xycoords=place, va="center", annotation_clip=False, fontsize=fontsize)
