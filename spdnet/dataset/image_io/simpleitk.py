"""NIfTI, NRRD, MHA and what else SimpleITK reads; nnU-Net's default for .nii.gz."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from spdnet.dataset.image_io.base import ReaderWriter, spacing_of_properties
from spdnet.errors import DatasetError
from spdnet.geometry import ImageGeometry


class SimpleITKIO(ReaderWriter):
    """Reads and writes through SimpleITK.

    NaN and infinity in a NIfTI file are 0 here and in nnU-Net: the NIfTI library of ITK replaces them.
    """

    supported_file_endings = (".nii.gz", ".nrrd", ".mha", ".gipl")

    def read_geometry(self, file: Path, case: str = "") -> ImageGeometry:
        """See the base class; only the header of a 3D image is read."""
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
        return super().read_geometry(file, case)

    def write_segmentation(self, file: Path, label_map: np.ndarray, geometry: ImageGeometry) -> None:
        """See the base class; compressed."""
        image = sitk.GetImageFromArray(label_map if geometry.has_patient_axes else label_map[0])
        geometry.apply_to_sitk(image)
        partial = file.with_name(".partial_" + file.name)
        sitk.WriteImage(image, str(partial), useCompression=True)
        partial.replace(file)

    def properties(self, geometry: ImageGeometry) -> dict[str, Any]:
        """See the base class."""
        dimensions = 3 if geometry.has_patient_axes else 2
        d = geometry.direction
        stuff = {
            "spacing": geometry.spacing_zyx_mm[::-1][:dimensions],
            "origin": geometry.origin_lps_mm[:dimensions],
            "direction": tuple(d) if dimensions == 3 else (d[0], d[1], d[3], d[4]),
        }
        spacing = [float(s) for s in geometry.spacing_zyx_mm]
        if dimensions == 2:
            spacing[0] = 999 * max(spacing[1:])
        return {"sitk_stuff": stuff, "spacing": spacing}

    def geometry_from_properties(self, properties: dict[str, Any], shape_zyx: Sequence[int]) -> ImageGeometry:
        """See the base class."""
        z, y, x = (int(n) for n in shape_zyx)
        stuff = properties.get("sitk_stuff")
        if stuff is None:
            return ImageGeometry((z, y, x), spacing_of_properties(properties))
        image = sitk.Image([x, y, z] if len(stuff["spacing"]) == 3 else [x, y], sitk.sitkUInt8)
        image.SetSpacing([float(s) for s in stuff["spacing"]])
        image.SetOrigin([float(o) for o in stuff["origin"]])
        image.SetDirection([float(d) for d in stuff["direction"]])
        return ImageGeometry.from_sitk(image)

    def _read(self, file: Path, case: str) -> tuple[np.ndarray, ImageGeometry]:
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
        return array.reshape((1, *geometry.shape_zyx)), geometry


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
