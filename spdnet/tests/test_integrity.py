"""verify_dataset_integrity: a whole data set passes; what nnU-Net's check refuses is refused, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.dataset import RawDataset, verify_dataset_integrity
from spdnet.errors import DatasetError, PromptFileError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training cases of two channels with labels 0, 1, 2, and one test case."""
    folder = tmp_path / "Dataset503_Whole"
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    labels = np.zeros((3, 4, 5), dtype=np.uint8)
    labels[1, 1:3, 1:3] = 1
    labels[2, 1, 1] = 2
    image = sitk.GetImageFromArray(labels)
    names = [f"imagesTr/{case}_000{channel}" for case in ("a", "b") for channel in range(2)]
    for name in (*names, "labelsTr/a", "labelsTr/b", "imagesTs/t_0000", "imagesTs/t_0001"):
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    content = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 2}
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}), encoding="utf-8")
    return folder


def change(folder: Path, **changes: Any) -> None:
    """Change or, with None, remove keys of dataset.json."""
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8")) | changes
    (folder / "dataset.json").write_text(
        json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8"
    )


def add_prompts(folder: Path, *names: str) -> None:
    """Make empty files in promptsTr."""
    (folder / "promptsTr").mkdir(exist_ok=True)
    for name in names:
        (folder / "promptsTr" / name).touch()


def make_explicit(folder: Path) -> None:
    """Move the training cases elsewhere and name them in dataset.json."""
    entries = {}
    for case in ("a", "b"):
        images = [f"../elsewhere/imagesTr/{case}_000{channel}.nii.gz" for channel in range(2)]
        entries[case] = {"images": images, "label": f"../elsewhere/labelsTr/{case}.nii.gz"}
    for name in ("imagesTr", "labelsTr"):
        (folder.parent / "elsewhere").mkdir(exist_ok=True)
        (folder / name).rename(folder.parent / "elsewhere" / name)
    change(folder, dataset=entries)


def no_dataset_json(folder: Path) -> None:
    (folder / "dataset.json").unlink()


def no_labels_folder(folder: Path) -> None:
    shutil.rmtree(folder / "labelsTr")


def no_images_folder(folder: Path) -> None:
    shutil.rmtree(folder / "imagesTr")


def no_label(folder: Path) -> None:
    (folder / "labelsTr" / "b.nii.gz").unlink()


def no_channel(folder: Path) -> None:
    (folder / "imagesTr" / "b_0001.nii.gz").unlink()


def no_explicit_label(folder: Path) -> None:
    make_explicit(folder)
    (folder.parent / "elsewhere" / "labelsTr" / "b.nii.gz").unlink()


def stray_image(folder: Path) -> None:
    shutil.copy(folder / "imagesTr" / "a_0000.nii.gz", folder / "imagesTr" / "other.nii.gz")


REFUSED_BY_BOTH: dict[str, tuple[Callable[[Path], None], str]] = {
    "no dataset.json": (no_dataset_json, "dataset.json is missing"),
    "no numTraining": (lambda f: change(f, numTraining=None), "lacks numTraining"),
    "old name alone": (lambda f: change(f, channel_names=None, modality={"0": "T1", "1": "T2"}), "old name"),
    "no file_ending": (lambda f: change(f, file_ending=None), "lacks file_ending"),
    "wrong count": (lambda f: change(f, numTraining=3), "numTraining 3, imagesTr holds 2 cases"),
    "gap": (lambda f: change(f, labels={"background": 0, "a": 1, "b": 2, "c": 4}), r"consecutive.*\[3\]"),
    "gap in regions": (
        lambda f: change(f, labels={"background": 0, "a": [1, 2], "b": 4}, regions_class_order=[1, 4]),
        r"consecutive.*\[3\]",
    ),
    "no imagesTr": (no_images_folder, "imagesTr does not exist"),
    "no labelsTr": (no_labels_folder, "labelsTr does not exist"),
    "no label": (no_label, "case b: label file .* is missing"),
    "no channel": (no_channel, "case b: b_0001.nii.gz is missing"),
    "no explicit label": (no_explicit_label, "case b: label file .*elsewhere.* is missing"),
    "stray image": (stray_image, "imagesTr holds files that are not named CASE_0000.nii.gz: other.nii.gz"),
}


OLD_LABELS = {"labels": {"0": "background", "1": "a", "2": "b"}}
OLD_CHANNELS = {"channel_names": None, "modality": {"0": "T1", "1": "T2"}}


@pytest.mark.parametrize(
    "changes", [{**OLD_LABELS, **OLD_CHANNELS, "file_ending": None}, OLD_LABELS, {**OLD_CHANNELS, "file_ending": None}]
)
def test_data_sets_of_nnunet_v1_are_to_be_converted(folder: Path, changes: dict[str, Any]) -> None:
    change(folder, **changes)
    message = "dataset.json is of nnU-Net v1 or the Medical.*Convert the data set with nnUNetv2_convert_MSD_dataset, or"
    with pytest.raises(DatasetError, match=message):
        verify_dataset_integrity(RawDataset(folder))
    with pytest.raises(DatasetError, match=message):
        RawDataset(folder).training_cases()


@pytest.mark.parametrize("name", REFUSED_BY_BOTH)
def test_faults_are_named(name: str, folder: Path) -> None:
    verify_dataset_integrity(RawDataset(folder))
    fault, message = REFUSED_BY_BOTH[name]
    fault(folder)
    with pytest.raises(DatasetError, match=message):
        verify_dataset_integrity(RawDataset(folder))


@pytest.mark.nnunet
@pytest.mark.parametrize("name", REFUSED_BY_BOTH)
def test_nnunet_refuses_them_too(name: str, folder: Path) -> None:
    pytest.importorskip("nnunetv2")
    from nnunetv2.experiment_planning import verify_dataset_integrity as module

    REFUSED_BY_BOTH[name][0](folder)
    with pytest.raises((AssertionError, RuntimeError, OSError, KeyError)):
        module.verify_dataset_integrity(str(folder), 1)


def test_labels_without_image_are_named(folder: Path) -> None:
    shutil.copy(folder / "labelsTr" / "a.nii.gz", folder / "labelsTr" / "c.nii.gz")
    with pytest.raises(DatasetError, match=r"labelsTr holds labels of cases that imagesTr does not: c\.nii\.gz"):
        verify_dataset_integrity(RawDataset(folder))


def test_prompts_are_for_all_cases_and_no_others(folder: Path) -> None:
    add_prompts(folder, "a.mrk.json")
    with pytest.raises(DatasetError, match=r"1 training cases have no prompts in .*: b"):
        verify_dataset_integrity(RawDataset(folder))
    add_prompts(folder, "b.mrk.json", "spd_prompts.json", ".hidden.txt", "Thumbs.db")
    (folder / "promptsTr" / "older").mkdir()
    verify_dataset_integrity(RawDataset(folder))
    for name in ("b.json", "b.txt", "b.CSV", "b.MRK.json", "notes.txt", "b.mrk.json.bak"):
        add_prompts(folder, name)
        with pytest.raises(
            PromptFileError, match=f"promptsTr holds files that are not read as prompts: {name}. .*fcsv"
        ):
            verify_dataset_integrity(RawDataset(folder))
        (folder / "promptsTr" / name).unlink()
    add_prompts(folder, "c.mrk.json")
    with pytest.raises(DatasetError, match=r"prompts of cases that imagesTr does not: c\.mrk\.json"):
        verify_dataset_integrity(RawDataset(folder))


def test_test_images_are_complete_or_absent(folder: Path) -> None:
    (folder / "imagesTs" / "u_0000.nii.gz").touch()
    with pytest.raises(DatasetError, match="case u: u_0001.nii.gz is missing"):
        verify_dataset_integrity(RawDataset(folder))
    for file in (folder / "imagesTs").iterdir():
        file.unlink()
    verify_dataset_integrity(RawDataset(folder))


def test_an_explicit_data_set_needs_no_folders(folder: Path) -> None:
    make_explicit(folder)
    verify_dataset_integrity(RawDataset(folder))
    change(folder, numTraining=1)
    with pytest.raises(DatasetError, match="numTraining 1, its entry dataset names 2 cases"):
        verify_dataset_integrity(RawDataset(folder))


def test_the_ignore_label_continues_the_labels(folder: Path) -> None:
    change(folder, labels={"background": 0, "a": 1, "b": 2, "ignore": 3})
    verify_dataset_integrity(RawDataset(folder))
