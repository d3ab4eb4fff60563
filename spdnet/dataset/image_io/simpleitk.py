"""NIfTI, NRRD, MHA and what else SimpleITK reads; nnU-Net's default for .nii.gz."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel.orientations
import numpy as np
import SimpleITK as sitk

from spdnet.dataset.image_io.base import ReaderWriter, spacing_of_properties
from spdnet.dataset.image_io.headers import gipl_voxels, mha_voxels, nrrd_voxels
from spdnet.dataset.image_io.nifti_frames import nifti_voxels, refuse_conflicting_frames
from spdnet.dataset.image_io.reorient import AxisTurn, ReorientingReader, ras_aligned
from spdnet.dataset.image_io.stored import StoredVoxels, check_memory, check_stored, check_voxel_count, float_bytes
from spdnet.errors import DatasetError, StorageError
from spdnet.files import meant
from spdnet.geometry import ImageGeometry

_UNIT_TOLERANCE = 0.01  # of the length of a direction; headers written by hand have two decimals


class SimpleITKIO(ReaderWriter):
    """Reads and writes through SimpleITK. The fourth axis of a 4D image holds channels.

    NaN and infinity in a NIfTI file are 0 here and in nnU-Net: the NIfTI library of ITK replaces them.
    """

    supported_file_endings = (".nii.gz", ".nrrd", ".mha", ".gipl")

    def read_geometry(self, file: Path, case: str = "") -> ImageGeometry:
        """See the base class; only the header is read."""
        return self._header(file, case or file.name)[1]

    def _header(self, file: Path, case: str) -> tuple[sitk.ImageFileReader, ImageGeometry]:
        """What ITK knows of the file from its header, and the grid."""
        if not file.is_file():
            raise DatasetError(f"case {case}: cannot read the header of {file}: there is no such file")
        _stored_voxels(file, case)  # before ITK parses the header
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise DatasetError(f"case {case}: cannot read the header of {file}: {_last_line(error)}") from error
        check_voxel_count(reader.GetSize(), file, case)
        if reader.GetNumberOfComponents() != 1:
            raise DatasetError(
                f"case {case}: {file} has {reader.GetNumberOfComponents()} values per pixel; one is needed"
            )
        refuse_conflicting_frames(file, case)
        try:
            return reader, _geometry(reader)
        except ValueError as error:
            raise DatasetError(f"case {case}: {file} is {error}") from error

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
        image = sitk.Image([1] * len(stuff["spacing"]), sitk.sitkUInt8)
        image.SetSpacing([float(s) for s in stuff["spacing"]])
        image.SetOrigin([float(o) for o in stuff["origin"]])
        image.SetDirection([float(d) for d in stuff["direction"]])
        return _with_shape(ImageGeometry.from_sitk(image), (z, y, x))

    def _read(self, file: Path, case: str) -> tuple[np.ndarray, ImageGeometry]:
        header, geometry = self._header(file, case)
        _refuse_twin(file, case)
        voxels = _stored_voxels(file, case)
        check_memory(float_bytes(header.GetSize(), voxels.n_bytes if voxels is not None else 0), file, case)
        if voxels is not None:
            check_stored(file, case, voxels)
        try:
            image = sitk.ReadImage(str(file))
        except (RuntimeError, MemoryError) as error:
            raise DatasetError(f"case {case}: cannot read {file}: {_last_line(error)}") from error
        return sitk.GetArrayFromImage(image).reshape((-1, *geometry.shape_zyx)), geometry

    def _write(self, file: Path, label_map: np.ndarray, geometry: ImageGeometry) -> None:
        write_on_grid(file, label_map, geometry)


def write_on_grid(file: Path, array: np.ndarray, geometry: ImageGeometry) -> None:
    """Write an array (z, y, x) on a grid, and read it back.

    Args:
        file: may be one that `whole_file` gives, which messages call by its name.
        array: of a type that the format holds.
        geometry: of the array.

    Raises:
        StorageError: not all of it could be written. DatasetError: the format cannot hold the grid.
    """
    image = sitk.GetImageFromArray(array if geometry.has_patient_axes else array[0])
    geometry.apply_to_sitk(image)
    try:
        sitk.WriteImage(image, str(file), useCompression=True)
    except RuntimeError as error:
        raise StorageError(f"cannot write {meant(file)}: {_last_line(error)}") from error
    try:  # ITK does not always notice that the disk is full, nor that voxels are missing in what it reads
        if voxels := _stored_voxels(file, file.name):
            check_stored(file, file.name, voxels)
        written = sitk.ReadImage(str(file))
        is_whole, why = np.array_equal(sitk.GetArrayViewFromImage(written), sitk.GetArrayViewFromImage(image)), ""
    except (RuntimeError, MemoryError, DatasetError) as error:
        is_whole, why = False, f" ({_last_line(error)})"
    if not is_whole:
        raise StorageError(
            f"cannot write {meant(file)}: what can be read back is not what was written{why}; is there no space left "
            "on the disk? What was there before is unchanged"
        )
    if difference := geometry.difference(_geometry(written)):
        raise DatasetError(f"{meant(file)}: the format cannot hold the grid of the image: {difference}")


class SimpleITKIOWithReorient(ReorientingReader, SimpleITKIO):
    """As SimpleITKIO, for 3D images; nnU-Net's reader of this name turns arrays to RAS by ITK's DICOMOrient."""

    def _header(self, file: Path, case: str) -> tuple[sitk.ImageFileReader, ImageGeometry]:
        header, geometry = super()._header(file, case)
        if not geometry.has_patient_axes:
            raise DatasetError(f"case {case}: {file} is a 2D image; {self.name} reads 3D images only")
        return header, geometry

    def properties(self, geometry: ImageGeometry) -> dict[str, Any]:
        """See the base class."""
        properties = super().properties(self._turn(geometry).geometry(geometry))
        properties["sitk_stuff"]["original_orientation"] = _orientation_code(geometry)
        return properties

    def geometry_from_properties(self, properties: dict[str, Any], shape_zyx: Sequence[int]) -> ImageGeometry:
        """See the base class."""
        z, y, x = (int(n) for n in shape_zyx)
        if "sitk_stuff" not in properties:
            return ras_aligned((z, y, x), spacing_of_properties(properties))
        turned = super().geometry_from_properties(properties, (z, y, x))
        return _turn_from(properties["sitk_stuff"]["original_orientation"]).inverse().geometry(turned)

    def _turn(self, geometry: ImageGeometry) -> AxisTurn:
        return _turn_from(_orientation_code(geometry))


def _refuse_twin(file: Path, case: str) -> None:
    """ITK reads the header of c.nii.gz, and then the voxels of a c.nii that lies beside it."""
    twin = file.with_name(file.name[:-3])
    if file.name.lower().endswith(".nii.gz") and twin.is_file():
        raise DatasetError(
            f"case {case}: {twin} lies beside {file}. ITK, with which nnU-Net reads too, would take the voxels of the "
            "one for those of the other; move one of them to another folder"
        )


def _stored_voxels(file: Path, case: str) -> StoredVoxels | None:
    """Where the voxels of a file are; None for formats and kinds of which ITK is left to find out."""
    by_ending = {".mha": mha_voxels, ".nrrd": nrrd_voxels, ".gipl": gipl_voxels}
    return by_ending.get(file.suffix.lower(), nifti_voxels)(file, case)


def _geometry(header: sitk.Image | sitk.ImageFileReader) -> ImageGeometry:
    """Grid of an image or header of 2, 3 or 4 dimensions; of four, the first three.

    Raises:
        ValueError: another number of dimensions, a fourth axis that is not apart, or no spacing, origin and directions
            that place voxels: ITK itself takes a spacing of -1 or NaN, and directions of any length.
    """
    geometry = ImageGeometry.from_sitk(header) if header.GetDimension() != 4 else _of_four_dimensions(header)
    if not (np.isfinite(geometry.spacing_zyx_mm).all() and min(geometry.spacing_zyx_mm) > 0):
        raise ValueError(f"an image with the spacing (z, y, x) {geometry.spacing_zyx_mm}, which is no distance")
    lengths = np.linalg.norm(np.asarray(geometry.direction).reshape(3, 3), axis=0)
    if not np.isfinite(geometry.origin_lps_mm).all() or not np.allclose(lengths, 1, atol=_UNIT_TOLERANCE):
        raise ValueError(
            f"an image with the origin {geometry.origin_lps_mm} and the direction {geometry.direction}, which place no "
            "voxels"
        )
    return geometry


def _of_four_dimensions(header: sitk.Image | sitk.ImageFileReader) -> ImageGeometry:
    direction = np.asarray(header.GetDirection()).reshape(4, 4)
    if direction[3, :3].any() or direction[:3, 3].any():
        raise ValueError("a 4D image whose fourth axis is not apart from the others, so it cannot hold channels")
    size, spacing, origin = header.GetSize(), header.GetSpacing(), header.GetOrigin()
    return ImageGeometry(
        (size[2], size[1], size[0]),
        (spacing[2], spacing[1], spacing[0]),
        (origin[0], origin[1], origin[2]),
        tuple(direction[:3, :3].ravel().tolist()),
    )


def _with_shape(geometry: ImageGeometry, shape_zyx: tuple[int, int, int]) -> ImageGeometry:
    return ImageGeometry(
        shape_zyx, geometry.spacing_zyx_mm, geometry.origin_lps_mm, geometry.direction, geometry.has_patient_axes
    )


def _orientation_code(geometry: ImageGeometry) -> str:
    """ITK's name of the stored axes, like "LPS": the directions in which x, y and z increase."""
    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(geometry.direction))


def _turn_from(orientation_code: str) -> AxisTurn:
    return AxisTurn.to_ras(nibabel.orientations.axcodes2ornt(tuple(orientation_code)))


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
