"""The main table of docs/results.md and the few rows of it in README.md, written between two comments from records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evidence.collection import CEILING, LABELS, Collection, Condition, Runs
from evidence.jobs import PROFILES, other_sizes
from evidence.statistics import METRICS, estimate
from evidence.tables import markdown, number
from spdnet.files import write_text

BEGIN, END = "<!-- main table, made by benchmarks/report.py -->", "<!-- end of the main table -->"
BOUNDS = (CEILING, LABELS)
SHOWN = ("dsc", "target_dsc", "volume_dice")
GROUPS = ("SPD", "ablation", "SAM", "U-Net", "nnU-Net")  # and those of `BOUNDS`
FEW = (  # that a reader should know of
    "spd",
    "consensus",
    "saliency",
    "sam_tuning",
    "medsam_points",
    "unet_raw_points_pieces",
    "unet_points_around_pieces",
    "unet_consensus_around",
    "nnunet",
    "nnunet_raw_points_pieces",
    "nnunet_points_around_pieces",
    *BOUNDS,
)


def summary_table(collection: Collection, profile: str, names: Sequence[str] | None = None) -> str:
    """Trained methods in every setting of the test part with all training volumes; with other sizes of slices, too.

    A cell holds the means of `SHOWN`; where there are several trainings, their number follows in brackets.

    Args:
        collection, profile: the records, and those of them.
        names: of the methods to show; None: all that are trained.
    """
    own = [c for c in collection.conditions if (c.profile, c.part, c.n_train) == (profile, "final", None)]
    if not own:
        return ""
    profiles = [profile, *other_sizes(profile)]
    conditions = [c for o in own for c in (replace(o, profile=p) for p in profiles) if c in collection.conditions]
    known = list(collection.methods)
    there = {name for c in conditions for name in collection.names(c) if name in known and _is_shown(collection, name)}
    if names is not None:
        there &= set(names)
    groups = [*GROUPS, collection.method(CEILING).group]
    lines = []
    for name in sorted(there, key=lambda n: (groups.index(collection.method(n).group), known.index(n))):
        cells = [_cell(collection.runs(c, name)) for c in conditions]
        if any(cells):
            lines.append([collection.method(name).title, *cells])
    headings = [" / ".join(METRICS[m].title for m in SHOWN), *(_heading(collection, c, profile) for c in conditions)]
    return markdown(headings, lines)


def _heading(collection: Collection, condition: Condition, profile: str) -> str:
    title = collection.short_title(condition)
    return title if condition.profile == profile else f"{title}, slices of {PROFILES[condition.profile].image_size} px"


def _is_shown(collection: Collection, name: str) -> bool:
    return collection.method(name).group in GROUPS or name in BOUNDS


def write_into(file: Path, table: str) -> bool:
    """Put a table in place of the one that stands between `BEGIN` and `END` in a file; returns whether it differed.

    Raises:
        ValueError: the file has no such place, or several.
    """
    text = file.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise ValueError(f"{file}: needs one line {BEGIN!r} and below it one {END!r}")
    changed = f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"
    if changed != text:
        write_text(file, changed)
    return changed != text


def _cell(runs: Runs | None) -> str:
    if runs is None or not runs.results:
        return ""
    means = " / ".join(number(estimate(runs.results, m).mean, METRICS[m]) for m in SHOWN)
    return f"{means} ({len(runs.results)})" if len(runs.results) > 1 else means
