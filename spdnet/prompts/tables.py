"""Tables of points and boxes (CSV and TSV): 3D Slicer's control-points table, and tables with named columns.

Which frame the coordinates are in is said by the names of the columns, which are recognised exactly (README, prompt
files). Nothing is guessed: what the table does not say is an error that names the column or option that settles it.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spdnet.dataset import Labels
from spdnet.errors import PromptFileError
from spdnet.geometry import ImageGeometry
from spdnet.prompts.boxes import corners_between
from spdnet.prompts.points import Markup
from spdnet.prompts.text_files import (
    Frame,
    check_count,
    check_range,
    lines_of,
    parse_number,
    read_text,
    settle_frame,
    shown,
    shown_text,
)

logger = logging.getLogger(__name__)

_Triple = tuple[str, str, str]

_POINT_COLUMNS: dict[_Triple, str] = {
    ("x_lps_mm", "y_lps_mm", "z_lps_mm"): "lps",
    ("x_ras_mm", "y_ras_mm", "z_ras_mm"): "ras",
    ("l", "p", "s"): "lps",
    ("r", "a", "s"): "ras",
    ("i", "j", "k"): "voxel",
    ("x", "y", "z"): "unsaid",
    ("x_mm", "y_mm", "z_mm"): "unsaid",
}
_BOX_COLUMNS: dict[tuple[_Triple, _Triple], str] = {
    (("x0_lps_mm", "y0_lps_mm", "z0_lps_mm"), ("x1_lps_mm", "y1_lps_mm", "z1_lps_mm")): "lps",
    (("x0_ras_mm", "y0_ras_mm", "z0_ras_mm"), ("x1_ras_mm", "y1_ras_mm", "z1_ras_mm")): "ras",
    (("i0", "j0", "k0"), ("i1", "j1", "k1")): "voxel",
    (("x0", "y0", "z0"), ("x1", "y1", "z1")): "unsaid",
    (("x0_mm", "y0_mm", "z0_mm"), ("x1_mm", "y1_mm", "z1_mm")): "unsaid",
}
_SLICER_COLUMNS = ({"l", "p", "s"}, {"r", "a", "s"})
_CASE_COLUMNS = ("case_id", "case")
_CLASS_COLUMNS = ("label", "class")
_OTHER_COLUMNS = ("branch_id", "order", "point_id", "defined", "positive")
_UNUSED_COLUMNS = {"parent_id", "radius_mm", "sigma_mm", "annotator", "selected", "visible", "locked", "description"}
_KNOWN_COLUMNS = {
    *(name for names in _POINT_COLUMNS for name in names),
    *(name for corners in _BOX_COLUMNS for names in corners for name in names),
    *_CASE_COLUMNS, *_CLASS_COLUMNS, *_OTHER_COLUMNS, *_UNUSED_COLUMNS,
}  # fmt: skip
_SEPARATORS = (",", ";", "\t")
_MAX_COLUMNS = 100
_HOW_TO_NAME = (
    "Name the columns x_lps_mm,y_lps_mm,z_lps_mm or x_ras_mm,y_ras_mm,z_ras_mm (mm), i,j,k (voxel index from 0), or "
    "l,p,s or r,a,s as 3D Slicer does; of boxes x0_lps_mm,y0_lps_mm,z0_lps_mm,x1_lps_mm,y1_lps_mm,z1_lps_mm and so on"
)


@dataclass(frozen=True)
class _Table:
    """Rows of text by column.

    Attributes:
        file: for messages.
        columns: position of each named column, names in small letters.
        rows: line number and cells of each row; all have as many cells as there are columns.
        decimal_comma: whether numbers have decimal commas.
    """

    file: Path
    columns: dict[str, int]
    rows: list[tuple[int, list[str]]]
    decimal_comma: bool

    @property
    def is_slicer(self) -> bool:
        """Whether it is 3D Slicer's table, in which `label` is a free text."""
        return any(names <= self.columns.keys() for names in _SLICER_COLUMNS)

    def cell(self, row: list[str], column: str) -> str:
        """Text of a cell, "" where there is no such column."""
        return row[self.columns[column]].strip() if column in self.columns else ""


@dataclass(frozen=True)
class _Columns:
    """Names of coordinate columns, one triple for points and two for boxes, and their way to LPS mm."""

    triples: tuple[_Triple, ...]
    frame: str
    signs: np.ndarray | None

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        return [name for triple in self.triples for name in triple]


@dataclass(frozen=True)
class _Item:
    """One row: a point (1, 3) or the corners of a box (8, 3) in LPS mm, and what else the row says of it."""

    line: int
    points_lps_mm: np.ndarray
    label: str
    class_name: str
    branch: str
    order: float | None
    in_voxels: bool


def read_table(
    file: Path,
    frame: Frame | None = None,
    geometry: ImageGeometry | None = None,
    labels: Labels | None = None,
    case: str | None = None,
) -> list[Markup]:
    """Read a table of points and boxes, in LPS mm.

    Rows with `order` make curves, one for each `branch_id`; rows without are loose points. Rows of one class come
    together in markups named like the class, rows without class in markups without name. Boxes span two opposite
    corners; those of i,j,k are positions of the corners in continuous voxel indices, as for points.

    Args:
        file: CSV or TSV, separated by comma, semicolon or tab; decimal commas are read in the latter two.
        frame: of columns named x,y,z without more, "lps" or "ras".
        geometry: grid of the image, for columns i,j,k.
        labels: classes of the data set; without them class names are not checked.
        case: the case that a column `case_id` or `case` must name.

    Raises:
        PromptFileError: the file is missing, above 20 MB or not text, or has no header that names the frame of its
            coordinates; a number cannot be read; a row has another case, an unknown class, a negative point, or
            contradicts others.
    """
    return parse_table(read_text(file), file, frame, geometry, labels, case)


def parse_table(
    text: str,
    file: Path,
    frame: Frame | None = None,
    geometry: ImageGeometry | None = None,
    labels: Labels | None = None,
    case: str | None = None,
) -> list[Markup]:
    """As `read_table`, for the text of the file."""
    table = _parse_rows(text, file)
    point_columns, box_columns = _coordinate_columns(table, frame)
    for columns in (point_columns, box_columns):
        if columns is not None and columns.frame == "voxel" and geometry is None:
            raise PromptFileError(
                f"{file} has voxel indices ({','.join(columns.names)}), which mean nothing without their image. "
                "Read it together with its image, or write LPS or RAS mm"
            )
    _check_case(table, case)
    class_names = _class_names(table, labels)
    items, n_unplaced = [], 0
    for (line, row), class_name in zip(table.rows, class_names, strict=True):
        if not _flag(table, line, row, "defined"):
            n_unplaced += 1
            continue
        columns = _filled_columns(table, line, row, point_columns, box_columns)
        points = _row_points(table, line, row, columns, geometry)
        label = (table.cell(row, "label") if table.is_slicer else "") or table.cell(row, "point_id") or f"line {line}"
        branch, order = _branch_and_order(table, line, row)
        items.append(_Item(line, points, label, class_name, branch, order, columns.frame == "voxel"))
    if n_unplaced:
        logger.info("%s: %d of %d points were never placed; skipped", file, n_unplaced, len(table.rows))
    return _to_markups(items, file)


# text to cells


def _parse_rows(text: str, file: Path) -> _Table:
    lines = lines_of(text)
    first = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), None)
    if first is not None and re.fullmatch(r'"?sep=.?"?', lines[first].strip().lower()):  # Excel's hint for itself
        first = next((n for n in range(first + 1, len(lines)) if lines[n].strip()), None)
    if first is None:
        raise PromptFileError(f"{file} is an empty table. {_HOW_TO_NAME}")
    separator, columns = _parse_header(lines[first], file)
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO("\n".join(lines[first + 1 :]), newline=""), delimiter=separator)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                line = first + 1 + reader.line_num
                rows.append((line, _fitted(cells, len(columns), separator, f"{file}: line {line}")))
                check_count(len(rows), str(file))
    except csv.Error as error:
        raise PromptFileError(f"{file}: line {first + 1 + reader.line_num} is no row of a table: {error}") from error
    by_name = {name: n for n, name in enumerate(columns) if name}
    return _Table(file, by_name, rows, _has_decimal_commas(rows, by_name, separator, file))


def _parse_header(line: str, file: Path) -> tuple[str, list[str]]:
    """Separator of a table and the names of its columns in small letters: the one that yields most known names."""
    best: tuple[int, str, list[str]] = (0, "", [])
    for separator in _SEPARATORS:
        try:
            names = [name.strip().lower() for name in next(csv.reader([line], delimiter=separator))]
        except csv.Error:
            continue
        n_known = sum(name in _KNOWN_COLUMNS for name in names)
        if n_known > best[0]:
            best = (n_known, separator, names)
    _, separator, names = best
    if not separator:
        raise PromptFileError(f"{file}: its first line, {shown(line)}, names no column. {_HOW_TO_NAME}")
    check_count(len(names), str(file), "columns", _MAX_COLUMNS)
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise PromptFileError(f"{file} has two columns {shown(twice[0])}. Remove or rename one of them")
    unknown = [name for name in names if name and name not in _KNOWN_COLUMNS]
    if unknown:
        logger.info("%s: columns that spdnet does not know are not read: %s", file, shown_text(", ".join(unknown)))
    return separator, names


def _fitted(cells: list[str], n: int, separator: str, where: str) -> list[str]:
    """Cells of a row, as many as there are columns; empty ones at the end may be left out or too many."""
    if any(cell.strip() for cell in cells[n:]):
        hint = " Are there decimal commas? Separate the columns by semicolons, or write decimal points"
        raise PromptFileError(f"{where} has {len(cells)} values for {n} columns.{hint if separator == ',' else ''}")
    return cells[:n] + [""] * (n - len(cells))


def _has_decimal_commas(
    rows: Sequence[tuple[int, list[str]]], columns: dict[str, int], separator: str, file: Path
) -> bool:
    """Whether the numbers of a table have decimal commas; never if commas separate its columns."""
    numeric = {name for names in _POINT_COLUMNS for name in names} | {"order"}
    numeric |= {name for corners in _BOX_COLUMNS for names in corners for name in names}
    used = [columns[name] for name in columns if name in numeric]
    with_comma = next(((line, row[n]) for line, row in rows for n in used if "," in row[n]), None)
    with_point = next(((line, row[n]) for line, row in rows for n in used if "." in row[n]), None)
    if with_comma is None or separator == ",":
        return False
    if with_point is not None:
        raise PromptFileError(
            f"{file} has decimal commas (line {with_comma[0]}: {shown(with_comma[1])}) and decimal points (line "
            f"{with_point[0]}: {shown(with_point[1])}). Write all numbers in one way, without thousands separators"
        )
    return True


# columns


def _coordinate_columns(table: _Table, frame: Frame | None) -> tuple[_Columns | None, _Columns | None]:
    """The columns of points and of boxes; one of them may be missing."""
    points = [((names,), system) for names, system in _POINT_COLUMNS.items() if table.columns.keys() >= {*names}]
    boxes = [
        (corners, system)
        for corners, system in _BOX_COLUMNS.items()
        if table.columns.keys() >= {*corners[0], *corners[1]}
    ]
    if not points and not boxes:
        raise PromptFileError(
            f"{table.file} has the columns {shown_text(', '.join(table.columns))}, which hold no complete coordinates. "
            f"{_HOW_TO_NAME}"
        )
    return _one_of(points, table, frame), _one_of(boxes, table, frame)


def _one_of(found: Sequence[tuple[tuple[_Triple, ...], str]], table: _Table, frame: Frame | None) -> _Columns | None:
    if not found:
        return None
    if len(found) > 1:
        sets = " and ".join(",".join(name for triple in triples for name in triple) for triples, _ in found)
        raise PromptFileError(f"{table.file} has coordinates twice, {sets}. Remove one of them")
    ((triples, system),) = found
    names = ",".join(name for triple in triples for name in triple)
    where = f"{table.file} (columns {names})"
    if system == "voxel":
        return _Columns(triples, system, None)
    stated: Frame | None = "lps" if system == "lps" else "ras" if system == "ras" else None
    signs = settle_frame(stated, frame, None, where, f"x_lps_mm or x_ras_mm instead of {triples[0][0]}, and so on,")
    return _Columns(triples, system, signs)


def _check_case(table: _Table, case: str | None) -> None:
    names = [name for name in _CASE_COLUMNS if name in table.columns]
    cells = [(line, table.cell(row, name)) for line, row in table.rows for name in names]
    if not cells:
        return
    expected = cells[0][1] if case is None else case
    for line, value in cells:
        if value != expected:
            raise PromptFileError(
                f"{table.file}: line {line} is of case {shown(value)}, not {shown(expected)}. Each case has a file of "
                "its own, named like the case; split the table"
            )


def _class_names(table: _Table, labels: Labels | None) -> list[str]:
    """Class of each row, "" for all classes; see `_class_name`."""
    names = [name for name in _CLASS_COLUMNS if name in table.columns and not (name == "label" and table.is_slicer)]
    if len(names) > 1:
        raise PromptFileError(f'{table.file} has a column "label" and a column "class". Remove one of them')
    for line, row in table.rows:
        if not _flag(table, line, row, "positive"):
            raise _negative(f"{table.file}: line {line}", "positive", table.cell(row, "positive"))
    if not names:
        return [""] * len(table.rows)
    return [
        _class_name(table.cell(row, names[0]), f"{table.file}: line {line}", names[0], labels)
        for line, row in table.rows
    ]


def _flag(table: _Table, line: int, row: list[str], column: str) -> bool:
    """Whether a cell says yes, as Slicer, pandas and Excel write it; an empty one, or none, does."""
    text = table.cell(row, column)
    number = parse_number(text, decimal_comma="," in text)
    if text.lower() in ("", "true", "yes") or number in (1, 2):  # 2: placed, in Slicer's table
        return True
    if text.lower() in ("false", "no") or number in (0, -1):
        return False
    raise PromptFileError(
        f'{table.file}: line {line}: column "{column}" is {shown(text)}; it must be 1 or 0, true or false'
    )


def _class_name(text: str, where: str, column: str, labels: Labels | None) -> str:
    """Name of the class that a cell stands for, "" for all.

    A declared name comes first. 1 and 0 otherwise say positive and negative, as in tables for SAM; where there are
    several classes 1 could be the value of one of them, so it is refused.
    """
    if not text or (labels is not None and text in labels.names):
        return text
    number = parse_number(text, decimal_comma="," in text)
    if text.lower() in ("background", "negative") or (number is not None and number <= 0):
        raise _negative(where, column, text)
    if text.lower() == "positive" or (number == 1 and (labels is None or len(labels) == 1)):
        return ""
    if number is not None:
        declared = "" if labels is None else f" ({', '.join(labels.names)})"
        raise PromptFileError(
            f'{where}: column "{column}" holds the number {shown(text)}, which may be a class or mean positive. '
            f"Write the name of the class{declared}, or nothing for all classes"
        )
    if labels is not None:
        raise PromptFileError(
            f'{where}: column "{column}" names the class {shown(text)}; dataset.json declares '
            f"{', '.join(labels.names)}. Correct the name, or leave the cell empty for all classes"
        )
    return text


def _negative(where: str, column: str, text: str) -> PromptFileError:
    return PromptFileError(
        f'{where}: column "{column}" is {shown(text)}, a point on the background; spdnet takes points on the target '
        "only. Remove negative points"
    )


# rows


def _filled_columns(
    table: _Table, line: int, row: list[str], point_columns: _Columns | None, box_columns: _Columns | None
) -> _Columns:
    """The columns that a row has its coordinates in."""
    filled = [
        columns
        for columns in (point_columns, box_columns)
        if columns is not None and any(table.cell(row, name) for name in columns.names)
    ]
    if len(filled) != 1:
        said = "a point and a box; give each a row of its own" if filled else "no coordinates; remove or complete it"
        raise PromptFileError(f"{table.file}: line {line} holds {said}")
    return filled[0]


def _row_points(
    table: _Table, line: int, row: list[str], columns: _Columns, geometry: ImageGeometry | None
) -> np.ndarray:
    """A point (1, 3) or the corners of a box (8, 3) in LPS mm."""
    where = f"{table.file}: line {line}"
    values = np.array([_number(table, row, name, where) for name in columns.names]).reshape(-1, 3)
    values = np.clip(values, -1e12, 1e12)  # beyond any number that is let through, so that products stay finite
    corners = corners_between(*values) if len(columns.triples) == 2 else values
    if columns.signs is not None:
        return corners * columns.signs
    assert geometry is not None
    return geometry.voxel_to_world(corners[:, ::-1])


def _number(table: _Table, row: list[str], name: str, where: str) -> float:
    text = table.cell(row, name)
    value = parse_number(text, table.decimal_comma)
    if value is None:
        raise PromptFileError(
            f'{where}: column "{name}" is {shown(text)}; it must be a finite number such as -12.5, without thousands '
            "separators. Decimal commas need semicolons or tabs between the columns"
        )
    return value


def _branch_and_order(table: _Table, line: int, row: list[str]) -> tuple[str, float | None]:
    """Branch and place along it; no place for loose points."""
    where = f"{table.file}: line {line}"
    branch = table.cell(row, "branch_id")
    if table.cell(row, "order"):
        return branch, _number(table, row, "order", where)
    if branch:
        raise PromptFileError(
            f'{where} belongs to branch {shown(branch)} but has no "order". Rows of a table can be sorted anew by any '
            'program, so a column "order" has to number the points along each branch'
        )
    return branch, None


# items to markups


def _to_markups(items: Sequence[_Item], file: Path) -> list[Markup]:
    """Loose points by class, curves by branch, and boxes one by one."""
    loose: dict[str, list[_Item]] = {}
    branches: dict[str, list[_Item]] = {}
    boxes = []
    for item in items:
        if len(item.points_lps_mm) == 8:
            if item.order is not None:
                raise PromptFileError(f"{file}: line {item.line} is a box with an order; only points have one")
            boxes.append(_box_markup(item, file))
        elif item.order is None:
            loose.setdefault(item.class_name, []).append(item)
        else:
            branches.setdefault(item.branch, []).append(item)
    markups = [_markup(name, "points", group, file) for name, group in loose.items()]
    return markups + [_curve(branch, group, file) for branch, group in branches.items()] + boxes


def _markup(name: str, kind: str, items: Sequence[_Item], file: Path) -> Markup:
    points, point_labels = np.concatenate([item.points_lps_mm for item in items]), tuple(i.label for i in items)
    check_range(points, point_labels, str(file))
    return Markup(name, kind, points, point_labels, all(item.in_voxels for item in items))


def _curve(branch: str, items: Sequence[_Item], file: Path) -> Markup:
    where = f"{file}: branch {shown(branch)}" if branch else str(file)
    ordered = sorted(items, key=lambda item: item.order or 0.0)
    for before, after in itertools.pairwise(ordered):
        if before.order == after.order:
            raise PromptFileError(
                f"{where} has the order {before.order:g} twice, in lines {before.line} and {after.line}. Number the "
                "points along the branch, and give each branch its own branch_id"
            )
        if before.class_name != after.class_name:
            raise PromptFileError(
                f"{where} changes its class between lines {before.line} and {after.line}, from "
                f"{shown(before.class_name)} to {shown(after.class_name)}. A branch speaks for one class; cut it in two"
            )
    return _markup(ordered[0].class_name, "curve", ordered, file)


def _box_markup(item: _Item, file: Path) -> Markup:
    corners = item.points_lps_mm
    if sum((corners[n] != corners[0]).any() for n in (1, 2, 4)) < 2:
        raise PromptFileError(f"{file}: line {item.line} is a box without extent. Give two opposite corners")
    check_range(item.points_lps_mm, (item.label,), str(file))
    return Markup(item.class_name, "box", item.points_lps_mm, (item.label,) * 8, item.in_voxels)
