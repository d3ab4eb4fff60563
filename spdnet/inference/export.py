"""From probabilities in the network frame to nnU-Net's files of a predicted case, on the image's own grid.

The files are the segmentation `{case}{file_ending}` and, if asked for, `{case}.npz` and `{case}.pkl`. Each appears
whole or not at all and the segmentation comes last, so that an existing segmentation means that the case is complete.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from spdnet.dataset import Labels, ReaderWriter
from spdnet.errors import DatasetError
from spdnet.files import storage_errors, whole_file
from spdnet.geometry import CaseMapping, ImageGeometry

_ROUNDING = 1e-5  # interpolation between ones gives 1.0000002


def probabilities_on_raw_grid(probabilities: np.ndarray, mapping: CaseMapping) -> np.ndarray:
    """Maps float (S, k, M, M) of the network's square to the raw grid: float32 (k, z, y, x)."""
    if probabilities.shape[-1] != mapping.image_size:
        resized = F.interpolate(
            torch.from_numpy(probabilities), (mapping.image_size,) * 2, mode="bilinear", align_corners=False
        )
        probabilities = resized.numpy()
    return mapping.probabilities_to_raw(probabilities)


def nnunet_probabilities(foreground: np.ndarray, labels: Labels) -> np.ndarray:
    """Foreground probabilities to the channels of nnU-Net's npz.

    With labels: background first (what the most probable class leaves), then the classes, divided by their sum.
    nnU-Net's argmax of the result is exactly `labels.merge(foreground)`: where rounding has made a tie, the
    winner is raised by one step of float32. With regions: the regions as they are, without background.

    Args:
        foreground: float (k, z, y, x) in [0, 1].
        labels: the classes.

    Returns:
        float32 (K, z, y, x), K = k + 1 with labels and k with regions.
    """
    foreground = foreground.astype(np.float32, copy=False)
    if labels.is_regions:
        return foreground
    best = foreground.argmax(axis=0)
    highest = np.take_along_axis(foreground, best[None], axis=0)
    stacked = np.concatenate([np.clip(1 - highest, 0, 1), foreground])
    probabilities = stacked / stacked.sum(axis=0, keepdims=True)
    winner = np.where(highest[0] > 0.5, best + 1, 0)
    tied = np.nonzero(probabilities.argmax(axis=0) != winner)
    raised = (winner[tied], *tied)
    probabilities[raised] = np.nextafter(probabilities.max(axis=0)[tied], np.float32(2))
    return probabilities


def write_prediction(
    folder: Path,
    case: str,
    file_ending: str,
    foreground: np.ndarray,
    geometry: ImageGeometry,
    labels: Labels,
    reader: ReaderWriter,
    save_probabilities: bool,
) -> None:
    """Write the files of one predicted case as nnU-Net does.

    Args:
        folder: where to; must exist.
        case: name of the files.
        file_ending: of the segmentation, with the dot.
        foreground: float (k, z, y, x) on the image's grid in stored order, in [0, 1].
        geometry: the image's grid.
        labels: the classes.
        reader: of the data set; writes the segmentation, and knows nnU-Net's axis order and properties.
        save_probabilities: also write `{case}.npz`, with the one key "probabilities" (`nnunet_probabilities`, in the
            order of nnU-Net's reader), and `{case}.pkl`, that reader's properties of the grid in plain types.

    Raises:
        DatasetError: the probabilities are not on the grid, or not finite and from 0 to 1, dataset.json does not
            declare a value that would be written, or the format cannot hold the grid; nothing is written then.
        StorageError: a file cannot be written.
    """
    if foreground.shape != (len(labels), *geometry.shape_zyx):
        raise DatasetError(
            f"case {case}: probabilities of shape {foreground.shape} do not fit {len(labels)} classes on an image of "
            f"shape {geometry.shape_zyx}"
        )
    low, high = float(foreground.min()), float(foreground.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN is neither
        raise DatasetError(
            f"case {case}: the network's probabilities reach from {low} to {high}, not from 0 to 1; the model is "
            "damaged, or it cannot work in this precision on this device"
        )
    segmentation = labels.merge(foreground)
    undeclared = sorted(set(np.unique(segmentation).tolist()) - labels.declared_values)
    if undeclared:
        raise DatasetError(
            f"case {case}: the prediction holds {undeclared}, which dataset.json does not declare; check its "
            "regions_class_order"
        )
    if not save_probabilities:
        reader.write_segmentation(folder / f"{case}{file_ending}", segmentation, geometry)
        return
    probabilities = reader.to_reader_order(nnunet_probabilities(foreground, labels), geometry)
    with whole_file(folder / f"{case}.npz") as npz, whole_file(folder / f"{case}.pkl") as pkl:
        with storage_errors(folder / f"{case}.npz"):
            np.savez_compressed(npz, probabilities=probabilities)
        pkl.write_bytes(pickle.dumps(reader.properties(geometry)))
        # an older segmentation must not stand beside newer probabilities
        with storage_errors(folder / f"{case}{file_ending}", "replace"):
            (folder / f"{case}{file_ending}").unlink(missing_ok=True)
    reader.write_segmentation(folder / f"{case}{file_ending}", segmentation, geometry)


def is_complete(folder: Path, case: str, file_ending: str, with_probabilities: bool) -> bool:
    """Whether the files that `write_prediction` makes of a case are all there."""
    endings = (file_ending, ".npz", ".pkl") if with_probabilities else (file_ending,)
    return all((folder / f"{case}{ending}").is_file() for ending in endings)
