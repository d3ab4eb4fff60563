"""Segmentations without the pieces in which no point lies: what SPD does to its masks, for a rival's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spdnet.comparison.lone_pieces import without_lone_pieces
from spdnet.dataset import RawDataset
from spdnet.prompts import read_markups


def drop_lone_pieces(raw: Path, prompts: Path, predictions: Path) -> None:
    """Take pieces without points out of the label maps of all test cases, in place, on the image's own grid.

    A point list that is named like a class speaks for that class, any other for all of them; a class keeps all its
    pieces if none holds a point.

    Args:
        raw: raw data set with plain labels, whose names the prompts use.
        prompts: folder with CASE.mrk.json.
        predictions: folder with a label map for each case.
    """
    dataset = RawDataset(raw)
    names = dataset.labels.names
    for case in dataset.cases("Ts"):
        file = predictions / f"{case.case}{dataset.file_ending}"
        label_map, geometry = dataset.reader.read_label(file, case.case)
        markups = read_markups(prompts / f"{case.case}.mrk.json")
        of_classes = [[m.points_lps_mm for m in markups if m.name == n or m.name not in names] for n in names]
        voxels = [geometry.world_to_voxel(np.concatenate([np.zeros((0, 3)), *points])) for points in of_classes]
        dataset.reader.write_segmentation(file, without_lone_pieces(label_map, voxels, dataset.labels), geometry)
