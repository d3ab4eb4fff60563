"""NIfTI files through nibabel; nnU-Net's default for bare .nii."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.orientations import io_orientation
from nibabel.spatialimages import HeaderDataError, SpatialImage

from spdnet.dataset.image_io.base import ReaderWriter, spacing_of_properties
from spdnet.dataset.image_io.nifti_frames import READ_ERRORS, nifti_voxels, refuse_conflicting_frames
from spdnet.dataset.image_io.reorient import AxisTurn, ReorientingReader, ras_aligned
from spdnet.dataset.image_io.stored import check_memory, check_stored, check_voxel_count, float_bytes
from spdnet.errors import DatasetError
from spdnet.files import meant
from spdnet.geometry import ImageGeometry


class NibabelIO(ReaderWriter):
    """Reads and writes 3D NIfTI images through nibabel; NaN is seen, and an error."""

    supported_file_endings = (".nii", ".nii.gz")

    def read_geometry(self, file: Path, case: str = "") -> ImageGeometry:
        """See the base class; only the header is read."""
        return self._open(file, case or file.name)[1]

    def properties(self, geometry: ImageGeometry) -> dict[str, Any]:
        """See the base class; the affine is an array, float64 4x4, as nibabel's is."""
        return {
            "nibabel_stuff": {"original_affine": geometry.affine_ras},
            "spacing": [float(s) for s in geometry.spacing_zyx_mm],
        }

    def geometry_from_properties(self, properties: dict[str, Any], shape_zyx: Sequence[int]) -> ImageGeometry:
        """See the base class."""
        z, y, x = (int(n) for n in shape_zyx)
        if "nibabel_stuff" not in properties:
            return ImageGeometry((z, y, x), spacing_of_properties(properties))
        return ImageGeometry.from_affine_ras((z, y, x), properties["nibabel_stuff"]["original_affine"])

    def _open(self, file: Path, case: str) -> tuple[SpatialImage, ImageGeometry]:
        """The image with its voxels unread, and its grid."""
        try:
            image = nibabel.load(file)
        except READ_ERRORS as error:
            raise DatasetError(f"case {case}: cannot read {file}: {error}") from error
        if not isinstance(image, SpatialImage):
            raise DatasetError(f"case {case}: {file} is not an image but a {type(image).__name__}")
        if len(image.shape) != 3:
            raise DatasetError(
                f"case {case}: {file} is an image of {len(image.shape)} dimensions; {self.name} reads 3D images only"
            )
        if image.get_data_dtype().fields is not None or image.get_data_dtype().kind == "c":
            raise DatasetError(f"case {case}: {file} has several values per voxel; one is needed")
        check_voxel_count(image.shape, file, case)
        refuse_conflicting_frames(file, case)
        try:
            return image, ImageGeometry.from_affine_ras(image.shape[::-1], image.affine)
        except ValueError as error:
            raise DatasetError(f"case {case}: {file} is {error}") from error

    def _read(self, file: Path, case: str) -> tuple[np.ndarray, ImageGeometry]:
        image, geometry = self._open(file, case)
        voxels = nifti_voxels(file, case)
        check_memory(float_bytes(image.shape, voxels.n_bytes if voxels is not None else 0), file, case)
        if voxels is not None:
            check_stored(file, case, voxels)
        try:
            return image.get_fdata(caching="unchanged").transpose(2, 1, 0)[None], geometry
        except READ_ERRORS as error:
            raise DatasetError(f"case {case}: cannot read the voxels of {file}: {error}") from error

    def _write(self, file: Path, label_map: np.ndarray, geometry: ImageGeometry) -> None:
        try:
            nibabel.save(nibabel.Nifti1Image(label_map.transpose(2, 1, 0), geometry.affine_ras), file)
        except HeaderDataError as error:
            raise DatasetError(f"{meant(file)}: NIfTI cannot hold it: {error}") from error


class NibabelIOWithReorient(ReorientingReader, NibabelIO):
    """As NibabelIO; nnU-Net's reader of this name turns arrays to RAS by nibabel's closest canonical axes."""

    def properties(self, geometry: ImageGeometry) -> dict[str, Any]:
        """See the base class; the affines are arrays, float64 4x4, as nibabel's are."""
        turned = self._turn(geometry).geometry(geometry)
        stuff = {"original_affine": geometry.affine_ras, "reoriented_affine": turned.affine_ras}
        return {"nibabel_stuff": stuff, "spacing": [float(s) for s in turned.spacing_zyx_mm]}

    def geometry_from_properties(self, properties: dict[str, Any], shape_zyx: Sequence[int]) -> ImageGeometry:
        """See the base class."""
        z, y, x = (int(n) for n in shape_zyx)
        if "nibabel_stuff" not in properties:
            return ras_aligned((z, y, x), spacing_of_properties(properties))
        affine = properties["nibabel_stuff"]["original_affine"]
        stored_axis = AxisTurn.to_ras(io_orientation(affine)).inverse().permutation
        return ImageGeometry.from_affine_ras([(z, y, x)[axis] for axis in stored_axis], affine)

    def _turn(self, geometry: ImageGeometry) -> AxisTurn:
        return AxisTurn.to_ras(io_orientation(geometry.affine_ras))
