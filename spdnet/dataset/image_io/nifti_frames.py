"""The header of a NIfTI file: where its voxels are, and the error if its two affines contradict each other.

A header may hold an s-form and a q-form that differ. ITK, and with it 3D Slicer, then places the image by one of them
and nibabel by the other, so points that were put on the image in one program lie elsewhere in the other.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from spdnet.dataset.image_io.stored import StoredVoxels
from spdnet.errors import DatasetError
from spdnet.geometry import ImageGeometry

TOLERANCE_MM = 0.01
NIFTI_ENDINGS = (".nii", ".nii.gz")


# what nibabel raises on damaged files
READ_ERRORS = (
    ImageFileError, HeaderDataError, OSError, EOFError, ValueError, TypeError, OverflowError, MemoryError, zlib.error,
)  # fmt: skip


def nifti_voxels(file: Path, case: str) -> StoredVoxels | None:
    """Where a NIfTI file's voxels are, or None for files of other endings and kinds; raises `DatasetError`."""
    image = _nifti_image(file, case)
    if image is None:
        return None
    n_bytes = math.prod(int(n) for n in image.shape) * int(image.header["bitpix"]) // 8
    is_packed = file.name.lower().endswith(".gz")
    offset = int(image.dataobj.offset)  # type: ignore[attr-defined]
    return StoredVoxels(offset, n_bytes, "whole file" if is_packed else "none")


def _nifti_image(file: Path, case: str) -> nibabel.Nifti1Image | None:
    """A NIfTI file with its voxels unread, or None for files of other endings and kinds; raises `DatasetError`.

    Its affines and spacing are finite: ITK would report NaN by a stack of numbers and of another cause, or not at all.
    """
    if not file.name.lower().endswith(NIFTI_ENDINGS):
        return None
    try:
        image = nibabel.load(file)
    except READ_ERRORS as error:
        raise DatasetError(f"case {case}: cannot read the header of {file}: {error}") from error
    if not isinstance(image, nibabel.Nifti1Image):
        return None
    _check_finite(image.header, len(image.shape), file, case)
    return image


def _check_finite(header: nibabel.Nifti1Header, n_dimensions: int, file: Path, case: str) -> None:
    """Refuse NaN and infinity in the spacing and in the forms that the header says are set."""
    fields = {"pixdim": header["pixdim"][1 : 1 + min(n_dimensions, 3)]}
    if int(header["sform_code"]) > 0:
        fields |= {f"s-form ({name})": header[name] for name in ("srow_x", "srow_y", "srow_z")}
    if int(header["qform_code"]) > 0:
        names = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
        fields |= {f"q-form ({name})": header[name] for name in names}
    for name, values in fields.items():
        if not np.isfinite(values).all():
            numbers = ", ".join(f"{v:g}" for v in np.atleast_1d(values))
            raise DatasetError(
                f"case {case}: the {name} in the header of {file} is {numbers}; it must be finite, or nobody knows "
                "where the image lies. Export the image again, or write this field anew from the scan's own geometry"
            )


def refuse_conflicting_frames(file: Path, case: str) -> None:
    """Compare where ITK and nibabel place the corners of a 3D NIfTI image; headers only.

    Two kinds of header have only one reading and pass: one without any frame (both codes 0), which ITK's reader
    places at its identity, and one with a sheared s-form and no q-form, which ITK cannot read at all.

    Raises:
        DatasetError: more than 0.01 mm apart; names both forms.
    """
    image = _nifti_image(file, case)
    if image is None or len(image.shape) < 3:
        return
    header = image.header
    s_code, q_code = int(header["sform_code"]), int(header["qform_code"])
    if s_code == 0 and q_code == 0:
        return
    shape = header.get_data_shape()[2::-1]
    by_itk = _itk_geometry(file, shape)
    try:
        by_nibabel = ImageGeometry.from_affine_ras(shape, header.get_best_affine())
    except ValueError as error:
        raise DatasetError(f"case {case}: {file} is {error}") from error
    distance = 0.0 if by_itk is None else _corner_distance_mm(by_itk, by_nibabel)
    if by_itk is None or distance <= TOLERANCE_MM:
        return
    raise DatasetError(
        f"case {case}: {file} has two frames: its s-form (code {s_code}), q-form (code {q_code}) and pixdim place its "
        f"corners up to {distance:.4g} mm apart, depending on the program. SimpleITK and 3D Slicer see its first voxel "
        f"at {_words(by_itk.origin_lps_mm)} LPS mm with the spacing {_words(by_itk.spacing_zyx_mm[::-1])}, nibabel at "
        f"{_words(by_nibabel.origin_lps_mm)} with {_words(by_nibabel.spacing_zyx_mm[::-1])}. Find out which one the "
        "prompts were placed in, and write the file again with that one alone"
    )


def _itk_geometry(file: Path, shape_zyx: tuple[int, ...]) -> ImageGeometry | None:
    """Where ITK places the image; None if it cannot."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    n = reader.GetDimension()
    spacing, origin = reader.GetSpacing(), reader.GetOrigin()
    direction = np.asarray(reader.GetDirection()).reshape(n, n)[:3, :3]
    z, y, x = (int(v) for v in shape_zyx)
    return ImageGeometry(
        (z, y, x), (spacing[2], spacing[1], spacing[0]), (origin[0], origin[1], origin[2]), tuple(direction.ravel())
    )


def _corner_distance_mm(a: ImageGeometry, b: ImageGeometry) -> float:
    last = np.asarray(a.shape_zyx) - 1
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * last
    return float(np.linalg.norm(a.voxel_to_world(corners) - b.voxel_to_world(corners), axis=1).max())


def _words(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v + 0.0:.4g}" for v in values) + ")"
