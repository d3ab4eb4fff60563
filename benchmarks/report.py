"""Make the tables and figures of stored runs.

    python benchmarks/report.py RESULTS -o OUT                    # OUT/report.md and OUT/*.png
    python benchmarks/report.py RESULTS -o OUT --cases sam_tuning # and where SPD loses most against a method
    python benchmarks/report.py RESULTS -o OUT --main_table FILE  # and the main table in place of the one in FILE
    python benchmarks/report.py RESULTS -o OUT --short_table FILE # or its most important rows

Everything is computed from the records that `run.py` stored; the same records give the same report.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from evidence import figures, summary, tables
from evidence.collection import LADDERS, SPD, Collection, Condition, Runs
from evidence.datasets import DATASETS
from evidence.jobs import PROFILES, RunRecord, stored_records
from evidence.methods import METHODS
from evidence.noise import NOISES
from evidence.plotting import save_png
from evidence.shared_runs import with_borrowed
from spdnet.files import make_folder, write_text

INTRODUCTION = """# Evidence

Made by `benchmarks/report.py` from stored runs. Slice DSC and IoU are means over all slices of the test cases (two
empty masks count 1, one empty mask 0), target-slice DSC over slices with target, HD95 and ASD over slices in which
both masks have foreground, volume Dice over cases; then over classes. Several seeds are averaged per case first.
Brackets are 95 % bootstrap intervals over cases; they do not hold the noise between trainings, which the standard
deviation between seeds shows. Differences are paired by case.
"""
GOAL_NOTE = (
    "Judged on the test part with all training volumes, by the measured value; below is every setting. "
    '"Other methods" are neither SPD\'s variants (its saliency map and its encoder with raw points among them) nor '
    "the ceiling; the best of them is the one that SPD leads by least, each compared over the seeds that both have. "
    "Raw points: by the same rule, the best SAM that was tuned on them. Clean points (`bad0`) are 4 on each slice with "
    "target and none elsewhere, which tells every method which slices are empty."
)
TRIAL_NOTE = "**Trial runs only show that everything runs; their numbers mean nothing.**"
PER_CONDITION: tuple[tuple[str, str, str, Callable[[Collection, Condition], Figure | None]], ...] = (
    ("forest", "differences to SPD", "Paired differences to SPD in slice DSC with 95 % intervals, grey where they hold "
     "0; an arrow stands for what lies far to the left.", figures.forest),
    ("cases", "single cases", "Every test case with SPD and with the best other method, of the seeds that "
     "both have.", figures.cases),
    ("noise", "noise curves", "One training, tested with ever worse prompts. Bands are 95 % intervals over cases, dots "
     "single seeds; dashed lines ignore prompts. All of the seeds that SPD has there.", figures.noise_curves),
    ("sweeps", "n and tau (the paper's Figure 7, and the threshold behind its Figure 8)", "The paper's "
     "consensus with other numbers of context slices and thresholds, and SPD as a line. Whiskers are 95 % intervals of "
     "the paired difference to the consensus of the paper's numbers.", figures.sweeps),
    ("consistency", "consistency between slices (Figure 6)", "Consistency with no other slice, the one before, the one "
     "after, or both. Whiskers as above.", figures.consistency),
    ("frozen", "frozen SAM (Figure 5)", "SAM as it was published, prompted with raw points, all points, and what "
     "distillation keeps.", figures.frozen_prompts),
    ("sam2", "SAM 2 (Figure 9)", "SPD beside models that follow a target through the volume.", figures.volume_models),
    ("costs", "costs", "Score against seconds, of methods that are trained.", figures.costs),
)  # fmt: skip


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of records, as run.py stored them")
    parser.add_argument("-o", type=Path, required=True, help="folder of the report")
    parser.add_argument("--cases", metavar="METHOD", help="list the cases in which SPD loses most against this method")
    parser.add_argument(
        "--main_table", nargs="+", type=Path, default=[], metavar="FILE", help="pages whose main table is made anew"
    )
    parser.add_argument(
        "--short_table", nargs="+", type=Path, default=[], metavar="FILE", help="pages that hold a few of its rows"
    )
    parser.add_argument("-profile", choices=PROFILES, default="small", help="of the main table (default: small)")
    args = parser.parse_args()
    records = stored_records(args.results)
    if not records:
        parser.error(f"no records below {args.results}")
    if args.cases and args.cases not in (known := sorted({r.job.method for r in records})):
        parser.error(f"--cases {args.cases}: no records of it; there are {', '.join(known)}")
    titles = {name: source.title for name, source in DATASETS.items()}
    told = [with_remarks(r) for r in with_borrowed(records, METHODS, DATASETS)]
    collection = Collection(told, METHODS, NOISES, titles)
    for pages, names in ((args.main_table, None), (args.short_table, summary.FEW)):
        table = summary.summary_table(collection, args.profile, names)
        if pages and not table:
            parser.error(f"main table: no records of the test part with the profile {args.profile}")
        for page in pages:
            summary.write_into(page, table)
    file = write_report(collection, args.o, args.cases)
    print(f"Written: {file}, from {len(records)} records")
    return 0


def with_remarks(record: RunRecord) -> RunRecord:
    """A stored record with what its method says of it besides its notes."""
    method = METHODS.get(record.job.method)
    return replace(record, notes=[*record.notes, *method.remarks(record)]) if method and record.cases else record


def write_report(collection: Collection, output: Path, rival: str | None = None) -> Path:
    """Write `report.md` and its figures; with a rival, also the cases in which SPD loses most against it."""
    make_folder(output)
    parts = [INTRODUCTION]
    for profile in dict.fromkeys(c.profile for c in collection.conditions):
        parts += _profile(collection, profile, output, rival)
    write_text(output / "report.md", "\n\n".join(p.strip() for p in parts if p) + "\n")
    return output / "report.md"


def _profile(collection: Collection, profile: str, output: Path, rival: str | None) -> list[str]:
    conditions = [c for c in collection.conditions if c.profile == profile]
    records = [r for r in collection.records if r.job.setting.profile == profile]
    parts = [f"# Profile {profile}", f"{tables.budget_in_words(records)}; {tables.hardware_in_words(records)}."]
    parts.append(TRIAL_NOTE if profile == "trial" else "")
    parts += ["## Goals", tables.goal_summary(collection, profile), GOAL_NOTE]
    overview = figures.overview(collection, profile)
    missing: list[str] = []
    caption = "SPD's lead on every test part; positive where SPD is better. Right: against which method."
    parts += _figure(overview, output / f"{profile}_overview.png", "overview", caption, missing)
    for title, table in tables.goal_details(collection, profile):
        parts += [f"### {title[0].upper()}{title[1:]}", table]
    for condition in conditions:
        parts += _condition(collection, condition, output, rival)
        if condition == collection.by_volumes(condition)[-1]:
            parts += _volumes(collection, condition, output)
    return parts


def _condition(collection: Collection, condition: Condition, output: Path, rival: str | None) -> list[str]:
    rows = collection.rows(condition)
    parts = [f"## {collection.title(condition)[0].upper()}{collection.title(condition)[1:]}"]
    if condition.data in DATASETS:
        parts.append(f"{DATASETS[condition.data].description}.")
    if any(r.results for r in rows):
        parts += _tables(collection, condition, rows)
    for ladder in collection.ladders(condition):
        parts += [f"### Ever worse prompts: {LADDERS.get(ladder, (ladder,))[0]}"]
        parts += [tables.ladder_table(collection, condition, ladder)]
        parts += _under([r for c in tables.ladder_curves(collection, condition, ladder).values() for _, r in c])
    if rival is not None:
        spd, other = collection.runs(condition, SPD), collection.runs(condition, rival)
        if spd and other and spd.results and other.results:
            heading = f"### Where SPD loses most against {other.method.title}"
            parts += [heading, tables.loss_table(spd, other)]
    missing: list[str] = []
    for stem, title, caption, draw in PER_CONDITION:
        file = output / f"{condition.slug}_{stem}.png"
        parts += _figure(draw(collection, condition), file, title, caption, missing)
    if missing:
        parts.append(f"Figures without records, not made: {'; '.join(missing)}.")
    return parts


def _tables(collection: Collection, condition: Condition, rows: list[Runs]) -> list[str]:
    methods, ablation, main_rows = tables.method_rows(rows), tables.ablation_rows(rows), tables.main_rows(rows)
    parts = ["### Table 1: slices", tables.score_table(methods, tables.SLICE_METRICS)]
    parts += [tables.margin_line(collection, condition), *_under(methods, distances=True, tests=True)]
    if ablation:
        parts += ["### Table 2: ablation", tables.score_table(ablation, tables.SLICE_METRICS)]
        parts += _under(ablation, distances=True, tests=True)
    parts += ["### Table 3: volumes", tables.score_table(main_rows, ["volume_dice"]), *_under(main_rows, tests=True)]
    parts += ["### Costs", tables.cost_table(main_rows), *_under(main_rows, costs=True)]
    return parts


def _volumes(collection: Collection, condition: Condition, output: Path) -> list[str]:
    """Scores against the number of training volumes, if there are several."""
    curves = collection.volume_curves(condition)
    if not curves:
        return []
    parts = [f"## Few training volumes: {collection.short_title(condition, volumes=False)}"]
    parts += [tables.volumes_table(collection, condition)]
    parts += _under([r for curve in curves.values() for r in curve if r is not None])
    file = output / f"{replace(condition, n_train=None).slug}_volumes.png"
    caption = "Bands are 95 % intervals over cases, dots single draws of volumes."
    return parts + _figure(figures.label_efficiency(collection, condition), file, "label efficiency", caption, [])


def _under(rows: list[Runs], distances: bool = False, tests: bool = False, costs: bool = False) -> list[str]:
    records = [record for runs in rows for record in runs.records]
    warnings = tables.warnings(records, costs)
    return [tables.basis(records, distances, tests), *(f"**Warning: {warning}.**" for warning in warnings)]


def _figure(figure: Figure | None, file: Path, title: str, caption: str, missing: list[str]) -> list[str]:
    """Save a figure and return the lines that show it; where there is none, note its title."""
    if figure is None:
        missing.append(title)
        return []
    save_png(figure, file)
    return [f"![{title}]({file.name})", f"*{title[0].upper()}{title[1:]}. {caption}*"]


if __name__ == "__main__":
    sys.exit(main())
