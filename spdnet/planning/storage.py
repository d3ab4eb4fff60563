"""Preprocessed cases on disk, readable one slice at a time.

    {case}.npy       float16 (S, c, size, size), intensities in [0, 1]
    {case}_seg.npy   uint8 (S, k, size, size), one binary mask per class
    {case}_ignored.npy  uint8 (S, size, size), only where the data set has an ignore label
    {case}.json      mapping, geometry and prompts; written last, so a case without it is not there
    .unfinished/     while cases are still to be written (`RunRecord`); gone when all are there
    .made_with.json  what the cases were made with, of the last run that came to its end

Plain .npy files are mapped into memory, so a slice is read without unpacking a volume.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spdnet.errors import DatasetError, SPDError
from spdnet.files import make_folder, read_json, storage_errors, whole_file, write_json
from spdnet.geometry import CaseMapping, ImageGeometry
from spdnet.prompts import SlicePrompts

_BEGUN = ".begun.json"
_MADE_WITH = ".made_with.json"


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case; opens its files when asked."""

    folder: Path
    case: str

    def __reduce__(self) -> tuple[type[StoredCase], tuple[Path, str]]:
        """Without what is open: another process opens the files itself, instead of being sent all they hold."""
        return StoredCase, (self.folder, self.case)

    @staticmethod
    def list(folder: Path) -> list[str]:
        """Identifiers of the cases in a folder, sorted.

        Raises:
            DatasetError: a preprocessing was begun there and did not come to its end.
        """
        RunRecord(folder).check_finished()
        return stored_cases(folder)

    @cached_property
    def slices(self) -> np.ndarray:
        """float16 (S, c, size, size), memory-mapped."""
        return self._open(f"{self.case}.npy")

    @cached_property
    def masks(self) -> np.ndarray:
        """uint8 (S, k, size, size), memory-mapped."""
        return self._open(f"{self.case}_seg.npy")

    @cached_property
    def ignored(self) -> np.ndarray | None:
        """uint8 (S, size, size), 1 where a pixel has the ignore label, memory-mapped; None if the data set has none."""
        return self._open(f"{self.case}_ignored.npy") if self._properties["has_ignore_label"] else None

    @cached_property
    def _properties(self) -> dict[str, Any]:
        return read_json(self.folder / f"{self.case}.json", "preprocessed case", "Run spd_preprocess.", DatasetError)

    @property
    def mapping(self) -> CaseMapping:
        """How the slices were made from the raw image."""
        return CaseMapping.from_dict(self._properties["mapping"])

    @property
    def geometry(self) -> ImageGeometry:
        """Grid of the raw image."""
        return ImageGeometry.from_dict(self._properties["geometry"])

    @property
    def prompts(self) -> SlicePrompts:
        """Points and boxes of the case's prompt file, network frame; empty if prompts are simulated."""
        if "boxes" not in self._properties["prompts"]:
            raise DatasetError(
                f"case {self.case}: {self.folder} was preprocessed by an earlier version; run spd_preprocess"
            )
        return SlicePrompts.from_dict(self._properties["prompts"])

    @property
    def target_slices(self) -> np.ndarray:
        """bool (S,): slices that hold any class."""
        return np.asarray(self._properties["target_slices"], dtype=bool)

    def remove(self) -> None:
        """Delete the case's files."""
        for name in (f"{self.case}.json", *(f"{self.case}{ending}.npy" for ending in ("", "_seg", "_ignored"))):
            (self.folder / name).unlink(missing_ok=True)

    def _open(self, name: str) -> np.ndarray:
        try:
            return np.load(self.folder / name, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise DatasetError(
                f"case {self.case}: preprocessed file {self.folder / name} is missing or damaged ({error}); "
                "run spd_preprocess"
            ) from error


def stored_cases(folder: Path) -> list[str]:
    """Identifiers of the cases in a folder that are complete, sorted, whether or not all are there."""
    return sorted(f.name.removesuffix(".json") for f in folder.glob("[!.]*.json"))


@dataclass(frozen=True)
class RunRecord:
    """What is known of a preprocessing: the folder `.unfinished` among the cases, then the file `.made_with.json`.

    The folder holds what the run was begun with, and a small file for each case that it has written. So a run that was
    killed is not mistaken for a finished one, and the next one with the same plans goes on where it stopped. The file
    keeps what a finished run was begun with, so that cases that are out of date can be told.
    """

    folder: Path

    def begin(self, made_with: Any) -> None:
        """Go on with the run that was begun with the same, else begin one; the cases there count as not yet written.

        Args:
            made_with: plain data, all that decides the content of the cases but their files.
        """
        make_folder(self._place)
        begun = self._place / _BEGUN
        if _content(begun) == made_with:
            return
        begun.unlink(missing_ok=True)
        for record in self._place.glob("*.json"):
            record.unlink()
        write_json(begun, made_with)

    def is_written(self, case: str, files: Any) -> bool:
        """Whether this run has written a case, from the same files (plain data that tells them from others)."""
        return (self.folder / f"{case}.json").exists() and _content(self._place / f"{case}.json") == files

    def note_written(self, case: str, files: Any) -> None:
        """Note that a case is written."""
        write_json(self._place / f"{case}.json", files, indent=None)

    def end(self) -> None:
        """All cases are there."""
        write_json(self.folder / _MADE_WITH, _content(self._place / _BEGUN))
        with storage_errors(self._place, "remove"):
            gone = self.folder / f".finished_{secrets.token_hex(4)}"
            self._place.rename(gone)  # at one stroke
            for folder in self.folder.glob(".finished_*"):  # of killed runs as well
                shutil.rmtree(folder, ignore_errors=True)

    def made_with(self) -> Any:
        """What the finished run was begun with; None if it left no record that can be read, as earlier versions."""
        return _content(self.folder / _MADE_WITH)

    def check_finished(self) -> None:
        """Raise `DatasetError` if a run was begun and did not come to its end."""
        if self._place.exists():
            n = len(stored_cases(self.folder))
            raise DatasetError(
                f"the preprocessing into {self.folder} was not finished; {n} cases are there. Run spd_preprocess, with "
                "the same -d and -plans_name; it goes on where it stopped"
            )

    @property
    def _place(self) -> Path:
        return self.folder / ".unfinished"


def _content(file: Path) -> Any:
    """Content of a JSON file, or None if there is none that can be read."""
    try:
        return read_json(file, "", "")
    except SPDError:
        return None


@dataclass(frozen=True)
class CaseWriter:
    """Writes a preprocessed case whole or not at all."""

    folder: Path
    case: str

    def write(
        self,
        slices: np.ndarray,
        masks: np.ndarray,
        ignored: np.ndarray | None,
        mapping: CaseMapping,
        geometry: ImageGeometry,
        prompts: SlicePrompts,
    ) -> None:
        """Arrays as `StoredCase` returns them (slices of any float type)."""
        properties = self.folder / f"{self.case}.json"
        with storage_errors(properties, "replace"):
            properties.unlink(missing_ok=True)
        self._save(f"{self.case}.npy", slices.astype(np.float16))
        self._save(f"{self.case}_seg.npy", masks.astype(np.uint8))
        if ignored is not None:
            self._save(f"{self.case}_ignored.npy", ignored.astype(np.uint8))
        content = {
            "mapping": mapping.to_dict(),
            "geometry": geometry.to_dict(),
            "prompts": prompts.to_dict(),
            "has_ignore_label": ignored is not None,
            "target_slices": masks.any(axis=(1, 2, 3)).tolist(),
        }
        write_json(properties, content, indent=None)

    def _save(self, name: str, array: np.ndarray) -> None:
        with whole_file(self.folder / name) as partial:
            np.save(partial, array)
