"""The files in nnUNet_preprocessed that spdnet shares with nnU-Net, in nnU-Net's own form.

Made if missing and kept if there, so that both programs have the same splits whichever runs first.
"""

from __future__ import annotations

import logging
from pathlib import Path

from spdnet.dataset import CaseFiles, RawDataset
from spdnet.dataset.splits import N_FOLDS, create_splits
from spdnet.errors import DatasetError
from spdnet.files import copy_file, make_folder, read_json, write_json

logger = logging.getLogger(__name__)

SPLITS_FILE = "splits_final.json"


def write_shared_files(dataset: RawDataset, cases: list[CaseFiles], folder: Path) -> None:
    """Write `dataset.json`, `gt_segmentations/` and `splits_final.json`.

    Args:
        dataset: the raw data set.
        cases: all of its training cases, with labels.
        folder: of the data set in nnUNet_preprocessed.

    Raises:
        DatasetError: the raw folder has splits of its own that differ from those that are there, or they are not JSON.
    """
    _copy_if_different(dataset.folder / "dataset.json", folder / "dataset.json")
    ground_truth = folder / "gt_segmentations"
    make_folder(ground_truth)
    for case in cases:
        assert case.label is not None
        copy = ground_truth / f"{case.case}{dataset.file_ending}"
        _copy_if_different(case.label, copy)
        side_file, side_copy = (dataset.reader.side_file(file) for file in (case.label, copy))
        if side_file is not None and side_copy is not None and side_file.exists():
            _copy_if_different(side_file, side_copy)
    _write_splits(dataset.folder / SPLITS_FILE, [c.case for c in cases], folder / SPLITS_FILE)


def _write_splits(raw_splits: Path, case_ids: list[str], target: Path) -> None:
    """As nnU-Net: splits in the raw folder are taken over; else five folds by its rule, once."""
    if raw_splits.exists():
        given = read_json(raw_splits, "splits file", "Mend or remove it.", DatasetError)
        if target.exists() and read_json(target, "splits file", "Mend or remove it.", DatasetError) != given:
            raise DatasetError(
                f"{raw_splits} and {target} differ. Remove the one that is out of date; models trained on the other "
                "splits cannot be compared"
            )
        write_json(target, given)
    elif not target.exists():
        if len(case_ids) < N_FOLDS:
            logger.info("%d training cases are too few for %d folds; train on fold all", len(case_ids), N_FOLDS)
            return
        write_json(target, create_splits(case_ids))


def _copy_if_different(source: Path, target: Path) -> None:
    """Copy a file whole or not at all, unless the target is a copy of it by its time and size."""
    if target.exists():
        old, new = target.stat(), source.stat()
        if old.st_mtime_ns == new.st_mtime_ns and old.st_size == new.st_size:
            return
    copy_file(source, target)
