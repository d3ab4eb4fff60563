"""Segmentations of any program without the pieces in which no point lies, as SPD's own lose them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spdnet.comparison.point_channels import check_points
from spdnet.dataset import Labels
from spdnet.errors import ConfigurationError, DatasetError
from spdnet.files import make_folder
from spdnet.inference.pieces import drop_where_others_are_confirmed
from spdnet.inference.steps import CaseTools, prepare_case
from spdnet.inference.work_list import FileCase
from spdnet.parallel import progress_bar
from spdnet.prompts import SlicePrompts


@dataclass(frozen=True)
class Dropped:
    """What a case lost: the number of voxels that changed."""

    case: str
    n_voxels: int


def drop_lone_pieces(cases: Sequence[FileCase], tools: CaseTools, predictions: Path, folder: Path) -> list[Dropped]:
    """Write segmentations of cases without the pieces that hold no point of their class, on the images' own grids.

    Voxels of a piece touch, if only with a corner. A class keeps all its pieces where none holds a point.

    Args:
        cases: images with a prompt file each.
        tools: of the plans.
        predictions: folder with a segmentation `CASE.ENDING` of each case.
        folder: where to; a segmentation that is there is an error.

    Returns:
        What every case lost.

    Raises:
        ConfigurationError: a file would be replaced.
        DatasetError, PromptFileError: a case, its prompt file or its segmentation is missing or not what it must be.
            All but what is in the segmentations is checked before anything is written.
        StorageError: a file cannot be written.
    """
    files = {case.case: f"{case.case}{tools.file_ending}" for case in cases}
    for case, name in files.items():
        if not (predictions / name).is_file():
            raise DatasetError(f"case {case}: no segmentation {predictions / name}")
        if (folder / name).exists():
            raise ConfigurationError(f"{folder / name} exists; nothing is replaced. Choose another folder")
    check_points(cases, tools)
    make_folder(folder)
    dropped = []
    with progress_bar(cases, "dropping pieces") as bar:
        for case in bar:
            prepared = prepare_case(case, tools)
            before, geometry = tools.reader.read_label(predictions / files[case.case], case.case)
            difference = geometry.difference(prepared.network_case.geometry)
            if difference is not None:
                raise DatasetError(f"case {case.case}: segmentation and image lie on different grids: {difference}")
            points, mapping = prepared.prompts or SlicePrompts.empty(), prepared.network_case.mapping
            voxels = [mapping.points_to_raw(points.for_class(k).points_syx) for k in range(len(tools.labels))]
            after = without_lone_pieces(before, voxels, tools.labels)
            tools.reader.write_segmentation(folder / files[case.case], after, geometry)
            dropped.append(Dropped(case.case, int((before != after).sum())))
    return dropped


def without_lone_pieces(label_map: np.ndarray, points_zyx: Sequence[np.ndarray], labels: Labels) -> np.ndarray:
    """A label map without the pieces of each class that hold none of its points, unless that were all of them.

    Args:
        label_map: int32 (z, y, x).
        points_zyx: for each class float (N, 3), continuous indices into it; points outside do not count.
        labels: the classes; regions are judged each as a whole.

    Returns:
        uint8 or uint16 (z, y, x).
    """
    kept = labels.masks(label_map).astype(np.float32)
    for mask, points in zip(kept, points_zyx, strict=True):
        drop_where_others_are_confirmed(mask, points)
    return labels.merge(kept)
