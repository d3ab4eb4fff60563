"""From probabilities in the network frame to a segmentation file on the image's own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from spdnet.dataset import Labels, ReaderWriter
from spdnet.geometry import CaseMapping, ImageGeometry


def probabilities_on_raw_grid(probabilities: np.ndarray, mapping: CaseMapping) -> np.ndarray:
    """Maps float (S, k, M, M) of the network's square to the raw grid: float32 (k, z, y, x)."""
    if probabilities.shape[-1] != mapping.image_size:
        resized = F.interpolate(
            torch.from_numpy(probabilities), (mapping.image_size,) * 2, mode="bilinear", align_corners=False
        )
        probabilities = resized.numpy()
    return mapping.probabilities_to_raw(probabilities)


def export_prediction(
    probabilities: np.ndarray,
    mapping: CaseMapping,
    geometry: ImageGeometry,
    labels: Labels,
    reader: ReaderWriter,
    file: Path,
) -> None:
    """Merge the classes on the raw grid and write an integer label map with the image's geometry."""
    reader.write_segmentation(file, labels.merge(probabilities_on_raw_grid(probabilities, mapping)), geometry)
