"""TIFF files: voxels as tifffile reads them, and 3D images with their spacing in a file of its own."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from spdnet.dataset.image_io.base import ReaderWriter, spacing_of_properties
from spdnet.dataset.image_io.headers import check_tiff_pages
from spdnet.dataset.image_io.stored import check_memory, check_voxel_count, float_bytes
from spdnet.errors import DatasetError, SPDError
from spdnet.geometry import ImageGeometry

logger = logging.getLogger(__name__)


def tiff_shape(file: Path, case: str) -> tuple[int, ...]:
    """Shape of the first series of a TIFF, from its header.

    Raises:
        DatasetError: not a TIFF, without an image, or of an absurd size.
    """
    try:
        check_tiff_pages(file, case)
        with tifffile.TiffFile(file) as tiff:
            shape = tuple(int(n) for n in tiff.series[0].shape)
    except SPDError:
        raise
    except Exception as error:  # tifffile raises what its parsing of damaged tags runs into, of any class
        raise _unreadable(f"the header of {file}", case, error) from error
    check_voxel_count(shape, file, case)
    return shape


def read_tiff(file: Path, case: str) -> np.ndarray:
    """The first series of a TIFF, as stored.

    Raises:
        DatasetError: unreadable; some compressions need the package imagecodecs, which the message then names.
    """
    check_memory(float_bytes(tiff_shape(file, case), 0), file, case)
    try:
        return np.asarray(tifffile.imread(file))
    except Exception as error:  # see above
        raise _unreadable(str(file), case, error) from error


def _unreadable(what: str, case: str, error: Exception) -> DatasetError:
    return DatasetError(f"case {case}: cannot read {what}: {str(error) or type(error).__name__}")


def write_tiff(file: Path, array: np.ndarray) -> None:
    """Write an array (y, x) or (z, y, x) of gray values, compressed without loss."""
    tifffile.imwrite(file, array, compression="zlib", photometric="minisblack")


class Tiff3DIO(ReaderWriter):
    """3D TIFFs, one channel per file, axis-aligned.

    The spacing of CASE_0000.tif and of the label CASE.tif is in CASE.json beside them, {"spacing": [z, y, x]} in mm;
    without that file it is 1 mm. Metadata in the TIFF itself is not looked at. nnU-Net does the same.
    """

    supported_file_endings = (".tif", ".tiff")

    def read_geometry(self, file: Path, case: str = "") -> ImageGeometry:
        """See the base class; only headers and the spacing file are read."""
        case = case or file.name
        shape = _shape3(tiff_shape(file, case), file, case)
        return ImageGeometry(shape, _spacing(self.image_side_file(file), file, case))

    def image_side_file(self, image_file: Path) -> Path | None:
        """See the base class: the spacing file."""
        case = re.sub(r"_\d{4}$", "", image_file.stem)
        return image_file.with_name(f"{case}.json") if case else None

    def side_file(self, label_file: Path) -> Path | None:
        """See the base class: the spacing file."""
        return label_file.with_suffix(".json")

    def properties(self, geometry: ImageGeometry) -> dict[str, Any]:
        """See the base class."""
        return {"spacing": [float(s) for s in geometry.spacing_zyx_mm]}

    def geometry_from_properties(self, properties: dict[str, Any], shape_zyx: Sequence[int]) -> ImageGeometry:
        """See the base class."""
        z, y, x = (int(n) for n in shape_zyx)
        return ImageGeometry((z, y, x), spacing_of_properties(properties))

    def _read(self, file: Path, case: str) -> tuple[np.ndarray, ImageGeometry]:
        return self._read_with(self.image_side_file(file), file, case)

    def _read_label(self, file: Path, case: str) -> tuple[np.ndarray, ImageGeometry]:
        return self._read_with(self.side_file(file), file, case)

    def _read_with(self, side_file: Path | None, file: Path, case: str) -> tuple[np.ndarray, ImageGeometry]:
        shape = _shape3(tiff_shape(file, case), file, case)
        return read_tiff(file, case)[None], ImageGeometry(shape, _spacing(side_file, file, case))

    def _write(self, file: Path, label_map: np.ndarray, geometry: ImageGeometry) -> None:
        write_tiff(file, label_map)


def _shape3(shape: tuple[int, ...], file: Path, case: str) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise DatasetError(f"case {case}: {file} has the shape {shape}; Tiff3DIO reads 3D images only")
    return shape[0], shape[1], shape[2]


def _spacing(side_file: Path | None, file: Path, case: str) -> tuple[float, float, float]:
    """Spacing (z, y, x) in mm by the spacing file of `file`."""
    if side_file is None or not side_file.is_file():
        logger.warning("case %s: no spacing file %s; the spacing of %s is taken as 1 mm", case, side_file, file)
        return 1.0, 1.0, 1.0
    try:
        content = json.loads(side_file.read_text(encoding="utf-8"))
        return spacing_of_properties(content)
    except (json.JSONDecodeError, UnicodeDecodeError, DatasetError) as error:
        raise DatasetError(
            f'case {case}: spacing file {side_file} must be JSON like {{"spacing": [3.0, 1.0, 1.0]}}: {error}'
        ) from error
