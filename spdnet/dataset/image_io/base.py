"""What every reader does alike: several channel files to one array, labels to integers, checks and error texts.

Arrays are (c, z, y, x) for images and (z, y, x) for labels, in the order in which the file stores its voxels
(slowest axis first, as SimpleITK hands them over). nnU-Net's reader of the same name may turn the axes;
`to_reader_order` says how.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from spdnet.errors import DatasetError
from spdnet.files import whole_file, write_json
from spdnet.geometry import ImageGeometry

_INT32 = np.iinfo(np.int32)


class ReaderWriter(ABC):
    """Reads images and labels of some formats, and writes segmentations.

    Attributes:
        supported_file_endings: with the dot, in lower case.
    """

    supported_file_endings: ClassVar[tuple[str, ...]]

    @property
    def name(self) -> str:
        """Name of this reader, and of its counterpart in nnU-Net."""
        return type(self).__name__

    def read_image(self, files: Sequence[Path], case: str = "") -> tuple[np.ndarray, ImageGeometry]:
        """Read the channels of one case.

        Args:
            files: one file per channel, in the order of `channel_names`, or fewer that hold several channels each.
            case: name for error messages, default the first file's name.

        Returns:
            image: float32 (c, z, y, x), intensities as stored. geometry: the common grid.

        Raises:
            DatasetError: a file cannot be read or is not a 2D or 3D image, holds NaN or infinity, or the channels
                are not on one grid.
        """
        case = case or files[0].name
        channels, geometry = [], None
        for file in files:
            array, own_geometry = self._read(file, case)
            if not np.isfinite(array).all():
                raise DatasetError(f"case {case}: {file} holds NaN or infinite values; replace them before use")
            if geometry is not None and (difference := geometry.difference(own_geometry)):
                raise DatasetError(f"case {case}: channels {files[0].name} and {file.name} differ: {difference}")
            geometry = own_geometry
            channels.append(array.astype(np.float32))
        assert geometry is not None
        return np.concatenate(channels), geometry

    def read_label(self, file: Path, case: str = "") -> tuple[np.ndarray, ImageGeometry]:
        """Read a label map; files that store integers as floats are accepted.

        Returns:
            labels: int32 (z, y, x). geometry: its grid.

        Raises:
            DatasetError: the file cannot be read, has several values per voxel, or holds values that are not integers,
                or beyond 32 bits.
        """
        case = case or file.name
        array, geometry = self._read_label(file, case)
        if len(array) != 1:
            raise DatasetError(
                f"case {case}: label {file} has {len(array)} values per voxel; one is needed (a label map in colours "
                "or with a palette has to be stored as integers)"
            )
        is_integer = np.isfinite(array) & (array == np.rint(array)) if array.dtype.kind == "f" else np.ones(1, bool)
        if not is_integer.all():
            raise DatasetError(f"case {case}: label {file} holds {array[~is_integer][0]}, which is not an integer")
        extremes = (array.min(), array.max())
        if any(not _INT32.min <= v <= _INT32.max for v in extremes):
            raise DatasetError(
                f"case {case}: label {file} holds values from {extremes[0]} to {extremes[1]}, which no label can have. "
                "Is it an image?"
            )
        return array[0].astype(np.int32), geometry

    def read_geometry(self, file: Path, case: str = "") -> ImageGeometry:
        """The grid of an image file, from its header alone where the format allows it.

        Raises:
            DatasetError: as in `read_image`.
        """
        return self._read(file, case or file.name)[1]

    def write_segmentation(self, file: Path, label_map: np.ndarray, geometry: ImageGeometry) -> None:
        """Write an integer label map (z, y, x) on the given grid; the file appears whole or not at all.

        As nnU-Net does: uint8 if the highest value is below 255, else uint16.

        Raises:
            DatasetError: values are not integers from 0 to 65535, the shape is not the grid's, or the format cannot
                hold them.
            StorageError: the file cannot be written there.
        """
        stored = _storable(label_map, file)
        if stored.shape != geometry.shape_zyx:
            raise DatasetError(f"{file}: a label map of shape {stored.shape} is not on a grid of {geometry.shape_zyx}")
        if (side_file := self.side_file(file)) is not None:  # first: the segmentation makes a case complete
            write_json(side_file, self.properties(geometry), indent=None)
        with whole_file(file, _lower_ending(file.name, self.supported_file_endings)) as partial:
            self._write(partial, stored, geometry)

    def side_file(self, label_file: Path) -> Path | None:
        """Where the geometry of a label file is kept as JSON of `properties`, if not in the file itself.

        It is to be copied along with the label file.
        """
        return None

    def image_side_file(self, image_file: Path) -> Path | None:
        """Where the geometry of an image file is read from, if not from the file itself."""
        return None

    @abstractmethod
    def properties(self, geometry: ImageGeometry) -> dict[str, Any]:
        """What nnU-Net's reader of this name would say of a grid, in plain Python values.

        It always holds "spacing" (three numbers, mm, in the reader's array order).
        """

    @abstractmethod
    def geometry_from_properties(self, properties: dict[str, Any], shape_zyx: Sequence[int]) -> ImageGeometry:
        """Inverse of `properties`, for an array in the reader's order; without geometry but "spacing", axis-aligned.

        Raises:
            DatasetError: "spacing" is missing or not three positive numbers.
        """

    def to_reader_order(self, array: np.ndarray, geometry: ImageGeometry) -> np.ndarray:
        """Array (..., z, y, x) in stored order to the order of nnU-Net's reader of this name; a view."""
        return array

    def from_reader_order(self, array: np.ndarray, geometry: ImageGeometry) -> np.ndarray:
        """Inverse of `to_reader_order`; `geometry` is the stored grid."""
        return array

    @abstractmethod
    def _read(self, file: Path, case: str) -> tuple[np.ndarray, ImageGeometry]:
        """One image file: array (c, z, y, x) of any type, and its grid. Raises DatasetError."""

    def _read_label(self, file: Path, case: str) -> tuple[np.ndarray, ImageGeometry]:
        """As `_read`, for a label file."""
        return self._read(file, case)

    @abstractmethod
    def _write(self, file: Path, label_map: np.ndarray, geometry: ImageGeometry) -> None:
        """Write uint8 or uint16 (z, y, x) of the grid's shape; the ending of `file` is in lower case."""


def _lower_ending(name: str, endings: Sequence[str]) -> str:
    """A file name with its ending, one of `endings`, in lower case, as the libraries want it."""
    ending = next((e for e in sorted(endings, key=len, reverse=True) if name.lower().endswith(e)), "")
    return f"{name[: len(name) - len(ending)]}{ending}"


def _storable(label_map: np.ndarray, file: Path) -> np.ndarray:
    if label_map.dtype.kind not in "biu":
        raise DatasetError(f"{file}: a label map of {label_map.dtype} cannot be written; integers are needed")
    lowest, highest = int(label_map.min()), int(label_map.max())
    if lowest < 0 or highest > 65535:
        raise DatasetError(f"{file}: label values from {lowest} to {highest} cannot be written; they must fit 16 bits")
    return label_map.astype(np.uint8 if highest < 255 else np.uint16, copy=False)


def spacing_of_properties(properties: dict[str, Any]) -> tuple[float, float, float]:
    """The "spacing" of nnU-Net's properties, three positive numbers in array order.

    Raises:
        DatasetError: it is not there or not that.
    """
    try:
        first, second, third = (float(v) for v in properties["spacing"])
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f'image properties need "spacing", three numbers (z, y, x) in mm, not {properties}'
        ) from error
    if min(first, second, third) <= 0:
        raise DatasetError(f"spacing {(first, second, third)} must be positive")
    return first, second, third
