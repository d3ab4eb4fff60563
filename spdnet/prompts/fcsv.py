"""3D Slicer's old fiducial files (`.fcsv`), in the layouts of Slicer 3, 4 and 5: reading only.

The first four values of a row are a name and the position in every layout; what the header says of the columns is not
heeded, as Slicer does not heed it either. Coordinates are mm.
"""

from __future__ import annotations

import csv
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spdnet.errors import PromptFileError
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

_SYSTEMS: dict[str, Frame] = {"0": "ras", "RAS": "ras", "1": "lps", "LPS": "lps"}
_LABEL_COLUMN = 11  # Slicer 4 and 5
_STATUS_COLUMN = 14  # Slicer 5: 0 undefined, 1 preview, 2 defined
_SLICER_3_COLUMNS = range(4, 7)  # label,x,y,z and possibly sel,vis


@dataclass(frozen=True)
class _Header:
    """What the lines that start with # say: whether there is a version, the frame's value, Slicer 3's columns."""

    has_version: bool = False
    system: str | None = None
    is_slicer_3: bool = False


def looks_like_fcsv(text: str) -> bool:
    """Whether a text begins as an .fcsv file does, whatever its name."""
    first = text.lstrip()[:80].lower()
    return first.startswith(("# markups fiducial file", "# fiducial list file"))


def read_fcsv(file: Path, frame: Frame | None = None) -> list[Markup]:
    """Read the points of a file as one markup without name, in LPS mm.

    Rows that say that their point was never placed are skipped, counted and logged.

    Args:
        file: the .fcsv file.
        frame: of files that do not say theirs. None: the files of Slicer 3, which have no version line, are RAS; files
            with a version line and no `CoordinateSystem` are an error, because that was RAS before 2020 and LPS since.

    Raises:
        PromptFileError: the file is missing, above 20 MB or not text; its frame is unknown, not LPS or RAS, or
            disagrees with `frame`; a row has no three finite numbers after its first value.
    """
    return parse_fcsv(read_text(file), file, frame)


def parse_fcsv(text: str, file: Path, frame: Frame | None = None) -> list[Markup]:
    """As `read_fcsv`, for the text of the file."""
    lines = [(n, line) for n, line in enumerate(lines_of(text), start=1) if line.strip()]
    if not lines:
        raise PromptFileError(f"{file} is empty. Save the points again in 3D Slicer as .mrk.json")
    header = _parse_header([line for _, line in lines if line.startswith("#")], file)
    point_lines = [(n, line) for n, line in lines if not line.startswith("#")]
    check_count(len(point_lines), str(file))
    rows = [(n, _fields(line, n, file)) for n, line in point_lines]
    signs = _signs_to_lps(header, [len(fields) for _, fields in rows], frame, file)
    placed = [(n, fields) for n, fields in rows if not _is_unplaced(fields)]
    if skipped := len(rows) - len(placed):
        logger.info("%s: %d of %d points were never placed; skipped", file, skipped, len(rows))
    labels = tuple(_label(fields, n) for n, fields in placed)
    points = np.array([_position(fields, n, file) for n, fields in placed], dtype=np.float64).reshape(-1, 3) * signs
    check_range(points, labels, str(file))
    return [Markup("", "points", points, labels)]


def _parse_header(lines: list[str], file: Path) -> _Header:
    has_version, system, is_slicer_3 = False, None, False
    for line in lines:
        key, _, value = (part.strip() for part in line.lstrip("# ").partition("="))
        if key.lower() == "coordinatesystem":
            if system not in (None, value):
                raise PromptFileError(f"{file} has two frames, CoordinateSystem = {system} and {shown_text(value)}")
            system = value
        elif key.lower() == "markups fiducial file version":
            has_version = True
        elif re.fullmatch(r"label,\s*x,\s*y,\s*z,\s*sel,\s*vis", value.lower()):
            is_slicer_3 = True
    return _Header(has_version, system, is_slicer_3)


def _signs_to_lps(header: _Header, n_columns: list[int], frame: Frame | None, file: Path) -> np.ndarray:
    """Factors (3,) from the file's frame to LPS; see `read_fcsv` for the rules."""
    stated = None
    if header.system is not None:
        stated = _SYSTEMS.get(header.system.upper())
        if stated is None:
            raise PromptFileError(
                f'{file}: "CoordinateSystem" is {shown(header.system)}; it must be LPS or RAS (or 1 or 0). '
                "Save the points again in 3D Slicer as .mrk.json"
            )
    is_slicer_3 = not header.has_version and all(n in _SLICER_3_COLUMNS for n in n_columns)
    default: Frame | None = "ras" if is_slicer_3 or (header.is_slicer_3 and not header.has_version) else None
    return settle_frame(stated, frame, default, str(file), 'the line "# CoordinateSystem = LPS" (or RAS)')


def _fields(line: str, number: int, file: Path) -> list[str]:
    try:
        return next(csv.reader([line], strict=False))
    except csv.Error as error:
        raise PromptFileError(f"{file}: line {number} is no row of comma-separated values: {error}") from error


def _is_unplaced(fields: list[str]) -> bool:
    return len(fields) > _STATUS_COLUMN and fields[_STATUS_COLUMN].strip() in ("0", "1")


def _label(fields: list[str], number: int) -> str:
    label = fields[_LABEL_COLUMN] if len(fields) > _LABEL_COLUMN else ""
    return label.strip() or fields[0].strip() or f"line {number}"


def _position(fields: list[str], number: int, file: Path) -> list[float]:
    values = [parse_number(text) for text in fields[1:4]]
    position = [v for v in values if v is not None]
    if len(position) != 3:
        raise PromptFileError(
            f"{file}: line {number}: point '{shown_text(_label(fields, number))}' has the position "
            f"{shown(fields[1:4])}; the second to fourth value of a row must be finite numbers, with decimal points"
        )
    return position
