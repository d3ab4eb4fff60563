"""Segmentations of any program without the pieces in which no point lies, by the rule that SPD can apply to its own.

SPD applies it to the classes for which its training cases say so. Here whoever calls decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spdnet.comparison.point_channels import check_points, raw_points
from spdnet.dataset import Labels
from spdnet.errors import ConfigurationError, DatasetError
from spdnet.files import whole_folder
from spdnet.inference.pieces import drop_where_others_are_confirmed
from spdnet.inference.steps import CaseTools, prepare_case
from spdnet.inference.work_list import FileCase
from spdnet.parallel import progress_bar
from spdnet.prompts import SlicePrompts


def drop_lone_pieces(cases: Sequence[FileCase], tools: CaseTools, predictions: Path, folder: Path) -> Mapping[str, int]:
    """Write segmentations of cases without the pieces that hold no point of their class, on the images' own grids.

    Voxels of a piece touch, if only with a corner. A class keeps all its pieces where none holds a point.

    Args:
        cases: images with a prompt file each.
        tools: of the plans.
        predictions: folder with a segmentation `CASE.ENDING` of each case.
        folder: to make; whole, or not at all.

    Returns:
        For every case the number of voxels that changed.

    Raises:
        ConfigurationError: the folder exists.
        DatasetError, PromptFileError: a case, its prompt file or its segmentation is missing or not what it must be.
        StorageError: a file cannot be written.
    """
    if folder.exists():
        raise ConfigurationError(f"{folder} exists; nothing is replaced. Remove it, or choose another")
    files = {case.case: predictions / f"{case.case}{tools.file_ending}" for case in cases}
    for case, file in files.items():
        if not file.is_file():
            raise DatasetError(f"case {case}: there is no segmentation {file}")
    check_points(cases, tools)
    with whole_folder(folder) as partial, progress_bar(cases, "dropping pieces") as bar:
        return {case.case: _drop(case, tools, files[case.case], partial) for case in bar}


def _drop(case: FileCase, tools: CaseTools, file: Path, folder: Path) -> int:
    labels, reader = tools.labels, tools.reader
    prepared = prepare_case(case, tools)
    before, geometry = reader.read_label(file, case.case)
    difference = geometry.difference(prepared.network_case.geometry)
    if difference is not None:
        raise DatasetError(f"case {case.case}: {file} is not on the grid of its image: {difference}")
    unknown = sorted(set(np.unique(before).tolist()) - set(labels.declared_values))
    if unknown:
        raise DatasetError(
            f"case {case.case}: {file} holds {', '.join(map(str, unknown))}, which dataset.json does not declare. Is "
            "it of another data set?"
        )
    points = prepared.given.prompts if prepared.given is not None else SlicePrompts.empty()
    voxels = [raw_points(points.for_class(k), prepared.network_case.mapping) for k in range(len(labels))]
    after = without_lone_pieces(before, voxels, labels)
    reader.write_segmentation(folder / file.name, after, geometry)
    return int((before != after).sum())


def without_lone_pieces(label_map: np.ndarray, points_zyx: Sequence[np.ndarray], labels: Labels) -> np.ndarray:
    """A label map without the pieces of each class that hold none of its points, unless that were all of them.

    Args:
        label_map: int32 (z, y, x) of values that `labels` declares; what lies in no piece that goes keeps its own.
        points_zyx: for each class float (N, 3), continuous indices into it; points outside do not count.
        labels: the classes; regions are judged each as a whole.

    Returns:
        uint8 or uint16 (z, y, x).
    """
    before = labels.masks(label_map)
    kept = before.astype(np.float32)
    for mask, points in zip(kept, points_zyx, strict=True):
        drop_where_others_are_confirmed(mask, points)
    merged = labels.merge(kept)
    return np.where((before != kept.astype(bool)).any(axis=0), merged, label_map).astype(merged.dtype)
