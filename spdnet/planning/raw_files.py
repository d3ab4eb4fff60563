"""Whether raw files are still those that something was made from, told by their names, sizes and times of change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spdnet.dataset import CaseFiles
from spdnet.prompts import PromptReading

_NAMES_SHOWN = 3
Stamp = tuple[int, int] | None  # size in bytes and time of change in ns; None of a file that is not there


def stamp(file: Path) -> Stamp:
    """What tells a file from one that has replaced it, without reading it."""
    try:
        status = file.stat()
    except OSError:  # gone meanwhile: reading it says so
        return None
    return status.st_size, status.st_mtime_ns


def files_of(case: CaseFiles) -> list[Path]:
    """The files that a case consists of, with those that hold the spacing of TIFF files."""
    files = [f for f in (*case.images, case.label, case.prompts) if f is not None]
    images_and_label = [f for f in (*case.images[:1], case.label) if f is not None]
    return [*files, *(f for f in (g.with_name(f"{case.case}.json") for g in images_and_label) if f.is_file())]


@dataclass(frozen=True)
class RawFiles:
    """The raw files of a data set's training cases, and how prompt files were read.

    Attributes:
        stamps: of each file, by its path from the data set's folder.
        reading: what the user says of prompt files.
    """

    stamps: dict[str, Stamp]
    reading: PromptReading

    @classmethod
    def of(cls, folder: Path, cases: Sequence[CaseFiles], reading: PromptReading) -> RawFiles:
        """Those that are there now; `folder` is the raw data set's."""
        files = [folder / "dataset.json", *(file for case in cases for file in files_of(case))]
        return cls({os.path.relpath(file, folder): stamp(file) for file in files}, reading)

    @classmethod
    def from_dict(cls, content: Any) -> RawFiles:
        """Inverse of `dataclasses.asdict`, from JSON; raises KeyError, TypeError or ValueError for something else."""
        stamps = {name: None if s is None else (int(s[0]), int(s[1])) for name, s in content["stamps"].items()}
        return cls(stamps, PromptReading(**content["reading"]))

    def difference(self, now: RawFiles) -> str | None:
        """How the files are not those any more, in words; None if they are."""
        before, there = self.stamps, now.stamps
        kinds = {
            "new": there.keys() - before.keys(),
            "gone": before.keys() - there.keys(),
            "changed": {name for name in before.keys() & there.keys() if before[name] != there[name]},
        }
        found = [f"{kind}: {_listing(names)}" for kind, names in kinds.items() if names]
        if self.reading != now.reading:
            found.append(f"prompts were read {_in_words(self.reading)}, now {_in_words(now.reading)}")
        return "; ".join(found) or None


def _listing(names: set[str]) -> str:
    shown = sorted(names)[:_NAMES_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def _in_words(reading: PromptReading) -> str:
    frame = "without -frame" if reading.frame is None else f"with -frame {reading.frame}"
    return f"{frame} and --outside {reading.outside}"
