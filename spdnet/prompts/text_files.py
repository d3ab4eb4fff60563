"""What the readers of prompt files share: bounded reading, decoding, numbers, frames and bounds.

Whatever bytes come in, a reader returns markups or raises `PromptFileError`, in bounded time and memory; the limits
are here.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spdnet.errors import PromptFileError

Frame = Literal["lps", "ras"]

MAX_FILE_BYTES = 20 * 2**20
MAX_POINTS = 100_000
MAX_MARKUPS = 10_000
MAX_COORDINATE_MM = 1e6

_SIGNS_TO_LPS = {"lps": (1.0, 1.0, 1.0), "ras": (-1.0, -1.0, 1.0)}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LINE_END = re.compile("\r\n|\r|\n")
_ENCODINGS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SHOWN_CHARACTERS = 80


def read_text(file: Path) -> str:
    """Text of a prompt file: UTF-8, or UTF-16 if it begins with that byte order mark; the mark is left out.

    Raises:
        PromptFileError: the file is missing, above 20 MB, or no such text.
    """
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise PromptFileError(
                f"{file} has {size / 2**20:.0f} MB; prompt files above {MAX_FILE_BYTES / 2**20:.0f} MB are refused. "
                "Is it a point list at all? Resample curves if so"
            )
        content = file.read_bytes()
    except OSError as error:
        raise PromptFileError(f"prompt file {file} cannot be read: {error.strerror}") from error
    encoding = next((name for mark, name in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise PromptFileError(
            f"prompt file {file} is not {encoding.removesuffix('-sig').upper()} text: {error.reason} at byte "
            f"{error.start}. Save it as UTF-8"
        ) from error
    if "\0" in text:
        raise PromptFileError(f"prompt file {file} is not text: it holds a zero byte. Save it as UTF-8 text")
    return text


def lines_of(text: str) -> list[str]:
    """Lines ended by LF, CR LF or CR; other characters that Unicode counts as line ends stay."""
    return _LINE_END.split(text)


def settle_frame(
    stated: Frame | None, given: Frame | None, default: Frame | None, where: str, settled_by: str = ""
) -> np.ndarray:
    """Factors (3,) from a file's frame to LPS.

    Args:
        stated: what the file itself says, or None.
        given: what the user says (option -frame), or None.
        default: what the format means if a file says nothing, or None.
        where: file and place, for messages.
        settled_by: what to write into the file, where there is no default.

    Raises:
        PromptFileError: file and user disagree, or nobody says.
        ValueError: `given` is no frame.
    """
    if given is not None and given not in _SIGNS_TO_LPS:
        raise ValueError(f'frame is {given!r}; it must be "lps", "ras" or None')
    if stated is not None and given is not None and stated != given:
        raise PromptFileError(
            f"{where} says that its frame is {stated.upper()}, the option -frame says {given}. Correct the one that is "
            "wrong; without -frame the file's own word is taken"
        )
    frame = stated or given or default
    if frame is None:
        raise PromptFileError(
            f"{where} does not say whether its coordinates are LPS or RAS. Write {settled_by} into it, or give the "
            "option -frame lps or -frame ras (3D Slicer's files are LPS since 2020, its screen and nibabel RAS)"
        )
    return np.array(_SIGNS_TO_LPS[frame])


def parse_number(text: str, decimal_comma: bool = False) -> float | None:
    """A finite decimal number, or None. Spaces around it are ignored; no thousands separators, no underscores."""
    text = text.strip()
    if len(text) > _SHOWN_CHARACTERS:
        return None
    if decimal_comma:
        text = text.replace(",", ".", 1) if "." not in text else ""
    if _NUMBER.fullmatch(text) is None:
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def check_range(points_lps_mm: np.ndarray, point_labels: tuple[str, ...], where: str) -> None:
    """Refuse coordinates no image has.

    Raises:
        PromptFileError: a coordinate of points (N, 3) is beyond 1e6 mm.
    """
    too_far = np.flatnonzero(~(np.abs(points_lps_mm) <= MAX_COORDINATE_MM).all(axis=1))
    if len(too_far):
        i = int(too_far[0])
        position = ", ".join(f"{v:.5g}" for v in points_lps_mm[i])
        label = point_labels[i] if len(point_labels) == len(points_lps_mm) else ", ".join(point_labels)
        raise PromptFileError(
            f"{where}: point '{shown_text(label)}' lies at ({position}) mm, beyond {MAX_COORDINATE_MM:.0e} mm. "
            "Are the coordinates in mm?"
        )


def check_count(n: int, where: str, what: str = "points", limit: int | None = None) -> None:
    """Refuse files of more points than any reader would place.

    Raises:
        PromptFileError: above `limit`, default `MAX_POINTS`.
    """
    limit = MAX_POINTS if limit is None else limit
    if n > limit:
        raise PromptFileError(f"{where} holds more than {limit} {what}. Resample curves, or remove what is no prompt")


def shown(value: Any) -> str:
    """A value as JSON, cut to a readable length."""
    try:
        text = json.dumps(value)
    except (RecursionError, TypeError, ValueError):
        text = f"a {type(value).__name__}"
    return shown_text(text)


def shown_text(text: str) -> str:
    """A text on one line, cut to a readable length and safe to print."""
    text = " ".join(text[: 2 * _SHOWN_CHARACTERS].encode("utf-8", "replace").decode().split())
    text = "".join(c if c.isprintable() else "?" for c in text)  # no commands to the terminal
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
