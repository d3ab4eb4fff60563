"""Prompt files without their wrong points: what a method that knew which points to trust would be given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from spdnet.dataset import RawDataset
from spdnet.errors import ConfigurationError, DatasetError
from spdnet.files import make_folder
from spdnet.geometry import nearest_index
from spdnet.prompts import read_markups, write_markups


def keep_right_points(raw: Path, prompts: Path, output: Path) -> None:
    """Copy the prompts of every test case, `CASE.mrk.json`, without the points whose voxel is not target by its label.

    A point list that is named like a class is compared with that class, any other with all of them.

    Raises:
        DatasetError: a case has no label. ConfigurationError: prompts are something else than points.
    """
    dataset = RawDataset(raw)
    make_folder(output)
    for case in dataset.cases("Ts"):
        if case.label is None:
            raise DatasetError(f"case {case.case}: {raw} has no label of it, which tells the right points")
        label_map, geometry = dataset.reader.read_label(case.label, case.case)
        masks = dataset.labels.masks(label_map) > 0
        kept = []
        for markup in read_markups(prompts / f"{case.case}.mrk.json"):
            if markup.kind != "points":
                raise ConfigurationError(f"case {case.case}: {prompts} holds a {markup.kind}; only points are compared")
            names = dataset.labels.names
            target = masks[names.index(markup.name)] if markup.name in names else masks.max(axis=0)
            voxels = nearest_index(geometry.world_to_voxel(markup.points_lps_mm))
            inside = ((voxels >= 0) & (voxels < target.shape)).all(axis=1)
            right = inside & target[tuple(voxels.clip(0, np.array(target.shape) - 1).T)]
            labels = tuple(label for label, is_right in zip(markup.point_labels, right, strict=True) if is_right)
            kept.append(replace(markup, points_lps_mm=markup.points_lps_mm[right], point_labels=labels))
        write_markups(output / f"{case.case}.mrk.json", kept)
