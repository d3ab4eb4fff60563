"""PNG, BMP and TIFF in 2D: gray, or colours as three or four channels; volumes of one slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spdnet.dataset.image_io.base import ReaderWriter, spacing_of_properties
from spdnet.dataset.image_io.stored import check_memory, check_voxel_count, float_bytes
from spdnet.dataset.image_io.tiff import read_tiff, tiff_shape, write_tiff
from spdnet.errors import DatasetError
from spdnet.geometry import ImageGeometry

_PILLOW_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class NaturalImage2DIO(ReaderWriter):
    """2D images of one file per case (RGB, RGBA) or per channel (gray). They have no spacing and no patient axes.

    Voxels are what nnU-Net's reader of this name gets: palettes are resolved to RGB, bits are 0 and 1, RGB of 16 bits
    per colour is cut to 8 (Pillow does that; store such channels as gray files), resolution metadata is not used.
    Gray with alpha is refused, as it is there.
    """

    supported_file_endings = (".png", ".bmp", ".tif")

    def read_geometry(self, file: Path, case: str = "") -> ImageGeometry:
        """See the base class; only the header is read."""
        case = case or file.name
        shape = tiff_shape(file, case) if _is_tiff(file) else _pillow_shape(file, case)
        return _geometry(_colours_last(shape, file, case))

    def properties(self, geometry: ImageGeometry) -> dict[str, Any]:
        """See the base class."""
        return {"spacing": (999, 1, 1)}

    def geometry_from_properties(self, properties: dict[str, Any], shape_zyx: Sequence[int]) -> ImageGeometry:
        """See the base class; the spacing is 1 in any case. Raises DatasetError for more than one slice."""
        spacing_of_properties(properties)
        z, y, x = (int(n) for n in shape_zyx)
        if z != 1:
            raise DatasetError(f"NaturalImage2DIO has arrays of one slice (1, y, x), not {(z, y, x)}")
        return _geometry((y, x))

    def _read(self, file: Path, case: str) -> tuple[np.ndarray, ImageGeometry]:
        array = read_tiff(file, case) if _is_tiff(file) else _read_pillow(file, case)
        height_width_colours = _colours_last(array.shape, file, case)
        if array.ndim == 2:
            return array[None, None], _geometry(height_width_colours)
        if array.shape != height_width_colours:
            array = np.moveaxis(array, 0, -1)
        return np.moveaxis(array, -1, 0)[:, None], _geometry(height_width_colours)

    def _write(self, file: Path, label_map: np.ndarray, geometry: ImageGeometry) -> None:
        if len(label_map) != 1:
            raise DatasetError(f"{file} holds one slice; the label map has {len(label_map)}")
        if _is_tiff(file):
            write_tiff(file, label_map[0])
            return
        if file.suffix == ".bmp" and label_map.dtype != np.uint8:
            raise DatasetError(f"{file}: BMP files cannot hold label values above 254; use .png or .tif")
        Image.fromarray(label_map[0]).save(file)


def _is_tiff(file: Path) -> bool:
    return file.suffix.lower() in (".tif", ".tiff")


def _geometry(shape: Sequence[int]) -> ImageGeometry:
    return ImageGeometry((1, shape[0], shape[1]), (1.0, 1.0, 1.0), has_patient_axes=False)


def _colours_last(shape: tuple[int, ...], file: Path, case: str) -> tuple[int, ...]:
    """Shape (y, x) or (y, x, colours) of a stored shape; three or four planes stored first are colours.

    Raises:
        DatasetError: it is neither a gray nor a colour image.
    """
    if len(shape) == 3 and shape[-1] not in (3, 4) and shape[0] in (3, 4):
        shape = (*shape[1:], shape[0])
    if len(shape) == 2 or (len(shape) == 3 and shape[-1] in (3, 4)):
        return shape
    raise DatasetError(
        f"case {case}: {file} has the shape {shape}; NaturalImage2DIO reads gray (y, x), RGB and RGBA images"
    )


def _pillow_shape(file: Path, case: str) -> tuple[int, ...]:
    try:
        with Image.open(file) as image:
            return _checked_shape(image, file, case)
    except _PILLOW_ERRORS as error:
        raise DatasetError(f"case {case}: cannot read the header of {file}: {error}") from error


def _read_pillow(file: Path, case: str) -> np.ndarray:
    try:
        with Image.open(file) as image:
            check_memory(float_bytes(_checked_shape(image, file, case), 0), file, case)
            resolved = image.convert(image.palette.mode) if image.mode == "P" and image.palette else image
            return np.asarray(resolved)
    except _PILLOW_ERRORS as error:
        raise DatasetError(f"case {case}: cannot read {file}: {error}") from error


def _checked_shape(image: Image.Image, file: Path, case: str) -> tuple[int, ...]:
    """Shape (y, x) or (y, x, colours) from the header of an opened image; raises DatasetError."""
    shape: tuple[int, ...] = image.size[::-1]
    check_voxel_count(shape, file, case)
    if getattr(image, "n_frames", 1) != 1:
        raise DatasetError(f"case {case}: {file} is an animation; one image is needed")
    if image.mode in ("LA", "La", "PA"):
        raise DatasetError(f"case {case}: {file} is gray with an alpha channel; store gray alone, or RGBA")
    colours = image.palette.mode if image.mode == "P" and image.palette else image.getbands()
    return shape if len(colours) == 1 else (*shape, len(colours))
