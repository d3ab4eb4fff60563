"""Reading images and labels, writing segmentations: files on one side, arrays with a geometry on the other.

SimpleITK reads and writes. Arrays are (c, z, y, x) for images and (z, y, x) for labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from spdnet.errors import DatasetError
from spdnet.geometry import ImageGeometry


def read_image(files: Sequence[Path], case: str = "") -> tuple[np.ndarray, ImageGeometry]:
    """Read the channels of one case.

    NaN and infinity in a NIfTI file are 0 here and in nnU-Net: the NIfTI library of ITK replaces them.

    Args:
        files: one file per channel, in the order of `channel_names`.
        case: name for error messages, default the first file's name.

    Returns:
        image: float32 (c, z, y, x), intensities as stored. geometry: the common grid.

    Raises:
        DatasetError: a file cannot be read or is not a scalar 2D or 3D image, holds NaN or infinity, or the
            channels are not on one grid.
    """
    case = case or files[0].name
    channels, geometry = [], None
    for file in files:
        array, own_geometry = _read(file, case)
        if not np.isfinite(array).all():
            raise DatasetError(f"case {case}: {file} holds NaN or infinite values; replace them before use")
        if geometry is not None and (difference := geometry.difference(own_geometry)):
            raise DatasetError(f"case {case}: channels {files[0].name} and {file.name} differ: {difference}")
        geometry = own_geometry
        channels.append(array.astype(np.float32))
    assert geometry is not None
    return np.stack(channels), geometry


def read_label(file: Path, case: str = "") -> tuple[np.ndarray, ImageGeometry]:
    """Read a label map; files that store integers as floats are accepted.

    Returns:
        labels: int32 (z, y, x). geometry: its grid.

    Raises:
        DatasetError: the file cannot be read or holds values that are not integers.
    """
    case = case or file.name
    array, geometry = _read(file, case)
    is_integer = np.isfinite(array) & (array == np.rint(array)) if array.dtype.kind == "f" else np.ones(1, dtype=bool)
    if not is_integer.all():
        bad = array[~is_integer][0]
        raise DatasetError(f"case {case}: label {file} holds {bad}, which is not an integer")
    return array.astype(np.int32), geometry


def read_geometry(file: Path, case: str = "") -> ImageGeometry:
    """The grid of an image file, from its header alone.

    Raises:
        DatasetError: as in `read_image`.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DatasetError(
            f"case {case or file.name}: cannot read the header of {file}: {_last_line(error)}"
        ) from error
    if reader.GetDimension() == 3:
        size, spacing = reader.GetSize(), reader.GetSpacing()
        return ImageGeometry(
            (size[2], size[1], size[0]),
            (spacing[2], spacing[1], spacing[0]),
            reader.GetOrigin(),
            reader.GetDirection(),
        )
    return _read(file, case or file.name)[1]


def write_segmentation(file: Path, label_map: np.ndarray, geometry: ImageGeometry) -> None:
    """Write an integer label map (z, y, x) on the given grid, compressed; the file appears whole or not at all."""
    image = sitk.GetImageFromArray(label_map if geometry.has_patient_axes else label_map[0])
    geometry.apply_to_sitk(image)
    partial = file.with_name(".partial_" + file.name)
    sitk.WriteImage(image, str(partial), useCompression=True)
    partial.replace(file)


def _read(file: Path, case: str) -> tuple[np.ndarray, ImageGeometry]:
    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise DatasetError(f"case {case}: cannot read {file}: {_last_line(error)}") from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise DatasetError(
            f"case {case}: {file} has {image.GetNumberOfComponentsPerPixel()} values per pixel; one is needed"
        )
    try:
        geometry = ImageGeometry.from_sitk(image)
    except ValueError as error:
        raise DatasetError(f"case {case}: {file} is {error}") from error
    array = sitk.GetArrayFromImage(image)
    return array.reshape(geometry.shape_zyx), geometry


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
