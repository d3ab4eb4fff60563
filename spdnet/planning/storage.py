"""Preprocessed cases on disk, readable one slice at a time.

    {case}.npy       float16 (S, c, size, size), intensities in [0, 1]
    {case}_seg.npy   uint8 (S, k, size, size), one binary mask per class
    {case}_ignored.npy  uint8 (S, size, size), only where the data set has an ignore label
    {case}.json      mapping, geometry and prompts; written last, so a case without it is not there

Plain .npy files are mapped into memory, so a slice is read without unpacking a volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spdnet.errors import DatasetError
from spdnet.files import read_json, write_json
from spdnet.geometry import CaseMapping, ImageGeometry
from spdnet.prompts import SlicePrompts


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case; opens its files when asked."""

    folder: Path
    case: str

    @staticmethod
    def list(folder: Path) -> list[str]:
        """Identifiers of the complete cases in a folder, sorted."""
        return sorted(f.name.removesuffix(".json") for f in folder.glob("*.json") if not f.name.startswith("."))

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
        except (FileNotFoundError, ValueError) as error:
            raise DatasetError(
                f"case {self.case}: preprocessed file {self.folder / name} is missing or damaged ({error}); "
                "run spd_preprocess"
            ) from error


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
        partial = self.folder / f".partial_{name}"
        np.save(partial, array)
        partial.replace(self.folder / name)
