"""FUMPE (Masoudi et al., Scientific Data 5:180180, 2018) to nnU-Net's raw format: 35 CT angiographies with emboli.

    python -m evidence.converters.fumpe SOURCE TARGET

SOURCE holds `CT_scans/PAT001/*.dcm` and `GroundTruth/PAT001.mat` and so on. Each .mat file has an array `Mask` of rows,
columns and slices, of which slice k belongs to the k-th DICOM file by name (D0001.dcm, ...). That order, taken from
public programs that read these files, may run against the order by position, in which the image is stored; the mask
is put into the latter. Whether it lies right cannot be seen from the files' layout, so the run tells for every patient
the median intensity under the mask, and warns where much of it lies in air, as emboli never do. It was tried on files
of the same layout, not on FUMPE itself.

Patients without emboli are kept: they show what a method invents.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.io import loadmat

from evidence.converters.raw import Converted, parser, write_raw_dataset
from spdnet.cli.common import entry_point
from spdnet.errors import DatasetError
from spdnet.files import whole_file
from spdnet.geometry import ImageGeometry

AIR_HU = -500.0
LARGEST_SHARE_IN_AIR = 0.3
KEY = "Mask"

logger = logging.getLogger(__name__)


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Parse the command line and convert."""
    args = parser("evidence.converters.fumpe", __doc__).parse_args(argv)
    scans = args.source / "CT_scans"
    patients = sorted(f.name for f in scans.iterdir() if f.is_dir()) if scans.is_dir() else []
    if not patients:
        raise DatasetError(
            f"{scans} holds no folders of patients (PAT001, ...); SOURCE must be the folder above CT_scans"
        )
    missing = [p for p in patients if not (args.source / "GroundTruth" / f"{p}.mat").is_file()]
    if missing:
        raise DatasetError(f"{args.source / 'GroundTruth'} lacks the masks of {len(missing)} patients: {missing[:5]}")

    def convert(patient: str) -> Converted:
        return convert_patient(scans / patient, args.source / "GroundTruth" / f"{patient}.mat")

    write_raw_dataset(args.folder, patients, convert, "CT", "embolism", "FUMPE")


def convert_patient(folder: Path, mat_file: Path) -> Converted:
    """One patient.

    Args:
        folder: DICOM files.
        mat_file: MATLAB file with the mask.

    Raises:
        DatasetError: a file cannot be read, or no series has the mask's shape.
    """
    mask = read_mask(mat_file)
    files = _series(folder, mask.shape[2])
    try:
        image = sitk.ReadImage(files)
    except RuntimeError as error:
        raise DatasetError(f"{folder}: its DICOM files cannot be read as one volume: {error}") from error
    geometry = ImageGeometry.from_sitk(image)
    label_map = mask.transpose(2, 0, 1)[_ranks_by_name(files)]
    if label_map.shape != geometry.shape_zyx:
        raise DatasetError(
            f"{mat_file}: a mask of {mask.shape} rows, columns and slices is not on the image's grid; {folder} has "
            f"{geometry.shape_zyx} slices, rows and columns"
        )
    _tell_place(folder.name, sitk.GetArrayViewFromImage(image), label_map)
    return Converted(lambda file: _write_image(image, file), label_map, geometry)


def read_mask(file: Path) -> np.ndarray:
    """The mask of a patient: bool (rows, columns, slices).

    Raises:
        DatasetError: the file cannot be read or holds no such array.
    """
    try:
        content: dict[str, Any] = loadmat(file)
    except (ValueError, NotImplementedError, OSError) as error:
        raise DatasetError(f"{file} cannot be read as a MATLAB file of version 7 or older: {error}") from error
    found = content.get(KEY)
    if found is None or np.ndim(found) != 3:
        arrays = {name: np.shape(value) for name, value in content.items() if not name.startswith("__")}
        raise DatasetError(f"{file} holds no array {KEY!r} of three dimensions; it holds {arrays}")
    return np.asarray(found) > 0


def _series(folder: Path, n_slices: int) -> list[str]:
    """The files of the series with so many slices, in the order of their position."""
    reader = sitk.ImageSeriesReader()
    series = [reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in reader.GetGDCMSeriesIDs(str(folder))]
    fitting = [files for files in series if len(files) == n_slices]
    if len(fitting) != 1:
        raise DatasetError(
            f"{folder} must hold one DICOM series of the mask's {n_slices} slices; it holds "
            f"{len(series)} series, of {[len(files) for files in series]} slices"
        )
    return list(fitting[0])


def _ranks_by_name(files: Sequence[str]) -> list[int]:
    """The place of each file in the order of names, in which D2 comes before D10."""
    names = [Path(f).name for f in files]
    by_name = sorted(
        names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    )
    return [by_name.index(name) for name in names]


def _tell_place(patient: str, image_hu: np.ndarray, label_map: np.ndarray) -> None:
    """Log what lies under the mask, and warn if it is air."""
    under = image_hu[label_map]
    if not len(under):
        logger.info("%s: no emboli", patient)
        return
    in_air, in_air_reversed = (float(np.mean(image_hu[m] < AIR_HU)) for m in (label_map, label_map[::-1]))
    logger.info("%s: %d voxels of emboli, median %.0f HU", patient, len(under), np.median(under))
    if in_air > LARGEST_SHARE_IN_AIR:
        logger.warning(
            "warning: %s: %.0f %% of the emboli lie in air (%.0f %% with the slices in reverse order); is the mask in "
            "another order than its DICOM files' names? Look at it before you use it",
            patient,
            100 * in_air,
            100 * in_air_reversed,
        )


def _write_image(image: sitk.Image, file: Path) -> None:
    with whole_file(file) as partial:
        sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16), str(partial), useCompression=True)


if __name__ == "__main__":
    main()
