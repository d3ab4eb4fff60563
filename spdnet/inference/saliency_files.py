"""The saliency of stage 1 as files: one integer image per case and class, in per cent, on the image's own grid.

The files go to `saliency/` in the folder of predictions, where nnU-Net's tools do not look. They are named like the
channels of an image, `CASE_0000` for the first class.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spdnet.dataset import ReaderWriter
from spdnet.files import make_folder
from spdnet.geometry import CaseMapping, ImageGeometry
from spdnet.inference.export import probabilities_on_raw_grid

SALIENCY_FOLDER = "saliency"


def saliency_file(folder: Path, case: str, class_index: int, file_ending: str) -> Path:
    """Where the saliency of a class (from 0) of a case lies in a folder of predictions."""
    return folder / SALIENCY_FOLDER / f"{case}_{class_index:04d}{file_ending}"


def write_saliency(
    folder: Path,
    case: str,
    file_ending: str,
    saliency: np.ndarray,
    mapping: CaseMapping,
    geometry: ImageGeometry,
    reader: ReaderWriter,
) -> None:
    """Write one file per class into a folder of predictions, each whole or not at all.

    Args:
        folder: of the predictions.
        case: identifier.
        file_ending: of the images, with the dot.
        saliency: float (S, k, M, M) in [0, 1], in the network frame.
        mapping, geometry: of the case.
        reader: of the data set; writes the files.
    """
    make_folder(folder / SALIENCY_FOLDER)
    for k, values in enumerate(probabilities_on_raw_grid(saliency, mapping)):
        per_cent = np.rint(100 * values).astype(np.uint8)
        reader.write_segmentation(saliency_file(folder, case, k, file_ending), per_cent, geometry)
