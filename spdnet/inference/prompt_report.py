"""What became of every point, as files: markups that 3D Slicer opens, one list per fate, and a table of the numbers.

The files go to `prompts/` in the folder of predictions, where nnU-Net's tools do not look.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spdnet.dataset import Labels
from spdnet.files import make_folder, whole_file
from spdnet.geometry import CaseMapping, ImageGeometry
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompting import points_of_classes
from spdnet.prompts import Markup, SlicePrompts, write_markups
from spdnet.prompts.fates import Fate, PointFates, among_given, point_fates
from spdnet.prompts.used_points import GivenPrompts

REPORT_FOLDER = "prompts"
_COLUMNS = (
    "label", "point", "x_lps_mm", "y_lps_mm", "z_lps_mm", "slice", "judged_for_slice", "saliency_in_own_slice",
    "saliency_here", "threshold", "fate",
)  # fmt: skip


@dataclass(frozen=True)
class JudgedPrompts:
    """The points of a case in the network frame, and what became of them for each class.

    Attributes:
        points: for each class the points that speak for it, float64 (N, 3) slice, y, x in network pixels.
        fates: for each class what became of them.
        tau: the threshold.
    """

    points: list[np.ndarray]
    fates: list[PointFates]
    tau: float


def judge_prompts(
    prompts: SlicePrompts,
    saliency: np.ndarray,
    rules: Rules,
    refused: np.ndarray | None = None,
    given: GivenPrompts | None = None,
) -> JudgedPrompts:
    """Say what distillation makes of every point.

    Args:
        prompts: in network pixels.
        saliency: float (S, k, M, M) in [0, 1].
        rules: of the network.
        refused: bool (k,), the classes whose points look random; None for none.
        given: all points of the case, of which `prompts` are those that the network got; they are told of, and counted,
            instead. None where these are all.
    """
    points, fates, plans = [], [], rules.settings
    limits = plans.tau, plans.n_context, plans.max_points
    for k, scaled in enumerate(points_of_classes(prompts, saliency, rules.image_size)):
        found = point_fates(scaled, saliency[:, k], *limits, refused is not None and bool(refused[k]))
        told = prompts.for_class(k)
        if given is not None:
            all_own = given.of_class(k)
            told = all_own.prompts
            found = among_given(found, all_own.used, all_own.outside, told.slice_index)
        points.append(told.points_syx)
        fates.append(found)
    return JudgedPrompts(points, fates, plans.tau)


def report_files(folder: Path, case: str) -> list[Path]:
    """The files of a case in a folder of predictions, of which the table is written last."""
    return [folder / REPORT_FOLDER / f"{case}{ending}" for ending in (".mrk.json", ".csv")]


def is_prompt_report(folder: Path, case: str) -> bool:
    """Whether what lies where the files of a case go was written by `write_prompt_report`."""
    try:
        with report_files(folder, case)[1].open(encoding="utf-8", newline="") as stream:
            return set(_COLUMNS) <= set(next(csv.reader(stream), []))  # earlier versions had more
    except (OSError, ValueError, csv.Error):
        return False


def write_prompt_report(
    folder: Path, case: str, judged: JudgedPrompts, mapping: CaseMapping, geometry: ImageGeometry, labels: Labels
) -> None:
    """Write `prompts/{case}.mrk.json` and `prompts/{case}.csv` into a folder of predictions.

    Slices count from 0 along the slicing axis of the plans, points from 1 in the order in which those of the class, and
    those for all classes, were given. A point that a neighbouring slice lends, or could have lent, is drawn in the
    slice that it was judged for.
    """
    make_folder(folder / REPORT_FOLDER)
    markups, rows = [], []
    for name, points, fates in zip(labels.names, judged.points, judged.fates, strict=True):
        world = _positions_lps_mm(points, fates, mapping, geometry)
        for fate in Fate:
            chosen = fates.rows(fate)
            if len(chosen):
                point_labels = tuple(_point_label(fates, row) for row in chosen.tolist())
                markups.append(Markup(f"{name}, {fate.value}", "points", world[chosen], point_labels))
        rows += [_table_row(name, world[row], fates, row, judged.tau) for row in range(len(fates))]
    markups_file, table_file = report_files(folder, case)
    write_markups(markups_file, markups)
    _write_table(table_file, rows)


def _positions_lps_mm(
    points_syx: np.ndarray, fates: PointFates, mapping: CaseMapping, geometry: ImageGeometry
) -> np.ndarray:
    """Where each row's point is drawn: its own place, or the same place in the slice that it was judged for."""
    positions = points_syx[fates.point_index].copy()
    lent = fates.target_slice != fates.source_slice
    positions[lent, 0] = fates.target_slice[lent]
    return geometry.voxel_to_world(mapping.points_to_raw(positions))


def _point_label(fates: PointFates, row: int) -> str:
    number, source, target = (int(a[row]) for a in (fates.point_index, fates.source_slice, fates.target_slice))
    text = f"point {number + 1}"
    if not np.isnan(fates.saliency[row]):
        text += f", saliency {fates.saliency[row]:.2f}"
    return text if source == target else f"{text}, from slice {source}"


def _table_row(name: str, position: np.ndarray, fates: PointFates, row: int, tau: float) -> list[str]:
    numbers = [f"{v:.6f}" for v in position]
    slices = [str(int(a[row])) for a in (fates.source_slice, fates.target_slice)]
    saliency = ["" if np.isnan(a[row]) else f"{a[row]:.4f}" for a in (fates.own_saliency, fates.saliency)]
    return [
        name,
        str(int(fates.point_index[row]) + 1),
        *numbers,
        *slices,
        *saliency,
        f"{tau:g}",
        fates.fates[row].value,
    ]


def _write_table(file: Path, rows: list[list[str]]) -> None:
    with whole_file(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        writer.writerows(rows)
