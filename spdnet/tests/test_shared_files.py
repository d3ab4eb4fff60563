"""Files that spdnet shares with nnU-Net in nnUNet_preprocessed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from spdnet.dataset import RawDataset
from spdnet.dataset.splits import create_splits, load_or_create_splits
from spdnet.errors import DatasetError
from spdnet.planning.shared_files import write_shared_files
from spdnet.tests.conftest import Workspace


def share(workspace: Workspace, n_cases: int | None = None) -> Path:
    dataset = RawDataset(workspace.raw)
    workspace.preprocessed.mkdir(exist_ok=True)
    write_shared_files(dataset, dataset.training_cases()[:n_cases], workspace.preprocessed)
    return workspace.preprocessed


def test_they_are_copies_and_nnunet_s_splits(workspace: Workspace) -> None:
    folder = share(workspace)
    assert (folder / "dataset.json").read_bytes() == (workspace.raw / "dataset.json").read_bytes()
    copies = sorted((folder / "gt_segmentations").iterdir())
    assert [f.name for f in copies] == [f"blob_{i:03d}.nii.gz" for i in range(5)]
    assert all(f.read_bytes() == (workspace.raw / "labelsTr" / f.name).read_bytes() for f in copies)
    splits = create_splits([f"blob_{i:03d}" for i in range(5)])
    assert (folder / "splits_final.json").read_text(encoding="utf-8") == json.dumps(splits, indent=4)


def test_splits_that_are_there_stay_and_labels_that_changed_are_copied_again(workspace: Workspace) -> None:
    folder = share(workspace)
    own = [{"train": ["blob_000"], "val": ["blob_001"]}]
    (folder / "splits_final.json").write_text(json.dumps(own), encoding="utf-8")
    label, other = (workspace.raw / "labelsTr" / f"blob_00{i}.nii.gz" for i in (0, 1))
    label.write_bytes(other.read_bytes())
    kept = (folder / "gt_segmentations" / "blob_002.nii.gz").stat().st_ino
    later = label.stat().st_mtime + 5
    os.utime(label, (later, later))
    share(workspace)
    assert json.loads((folder / "splits_final.json").read_text(encoding="utf-8")) == own
    assert (folder / "gt_segmentations" / "blob_000.nii.gz").read_bytes() == other.read_bytes()
    assert (folder / "gt_segmentations" / "blob_002.nii.gz").stat().st_ino == kept


def test_splits_of_the_raw_folder_are_taken_over_and_must_agree(workspace: Workspace) -> None:
    own = [{"train": ["blob_000"], "val": ["blob_001"]}]
    (workspace.raw / "splits_final.json").write_text(json.dumps(own), encoding="utf-8")
    folder = share(workspace)
    assert json.loads((folder / "splits_final.json").read_text(encoding="utf-8")) == own
    share(workspace)
    (workspace.raw / "splits_final.json").write_text(json.dumps(own * 2), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"splits_final\.json and .*splits_final\.json differ"):
        share(workspace)
    assert json.loads((folder / "splits_final.json").read_text(encoding="utf-8")) == own


def test_too_few_cases_have_no_splits(workspace: Workspace) -> None:
    folder = share(workspace, 4)
    assert not (folder / "splits_final.json").exists()


def test_a_label_that_was_restored_with_its_older_time_is_copied_again(workspace: Workspace) -> None:
    label = workspace.raw / "labelsTr" / "blob_000.nii.gz"
    other = bytes([*label.read_bytes()[:-1], 0])  # of the same size
    folder = share(workspace)
    label.write_bytes(other)
    os.utime(label, (10**9, 10**9))
    share(workspace)
    assert (folder / "gt_segmentations" / "blob_000.nii.gz").read_bytes() == other


def test_splits_that_overlap_are_told_and_those_without_training_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps([{"train": ["a", "b"], "val": ["b"]}, {"train": [], "val": ["b"]}]), encoding="utf-8")
    assert load_or_create_splits(file, ["a", "b"], 0).val == ("b",)
    assert "fold 0 validates on 1 of its own training cases, as b" in caplog.text
    with pytest.raises(DatasetError, match="fold 1 has no training case"):
        load_or_create_splits(file, ["a", "b"], 1)
