"""Whether a raw data set is complete: checks of files and names, beyond those that every step makes.

At least as strict as nnU-Net's check of the same name. What needs voxels (NaN, undeclared values, grids, channels) is
checked when the cases are measured, with or without this.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from spdnet.dataset.raw_dataset import (
    PROMPT_ENDINGS,
    CaseFiles,
    RawDataset,
    check_prompt_endings,
    check_version,
    find_cases,
    image_name,
    load_json_object,
)
from spdnet.errors import DatasetError

REQUIRED_KEYS = ("channel_names", "labels", "numTraining", "file_ending")
_NAMES_SHOWN = 5


def verify_dataset_integrity(dataset: RawDataset) -> None:
    """Check dataset.json, the training cases, their prompts if there are any, and the test images.

    Raises:
        DatasetError: a key of dataset.json, a folder, a channel or a label is missing, label values are not
            consecutive, the number of cases is not the declared one, or images, labels or prompts belong to no case.
    """
    file = dataset.folder / "dataset.json"
    content = load_json_object(file)
    check_version(content, file)
    missing = [key for key in REQUIRED_KEYS if key not in content]
    if missing:
        hint = '; "modality" is the old name of channel_names' if "channel_names" in missing else ""
        raise DatasetError(f"{file} lacks {', '.join(missing)}{hint}")
    dataset.labels.check_consecutive(str(file))
    if not dataset.is_explicit:
        _check_folders(dataset)
    cases = dataset.training_cases()
    declared = dataset.dataset_json["numTraining"]
    if declared != len(cases):
        where = "its entry dataset names" if dataset.is_explicit else "imagesTr holds"
        raise DatasetError(f"{dataset.folder}: dataset.json says numTraining {declared}, {where} {len(cases)} cases")
    if not dataset.is_explicit:
        _check_labels_have_images(dataset, cases)
    check_prompt_names(dataset, cases)
    _check_all_have_prompts(dataset, cases)
    test_images = dataset.folder / "imagesTs"
    if test_images.is_dir() and _files(test_images, dataset.file_ending):
        find_cases(test_images, dataset.file_ending, dataset.n_channels)


def _check_folders(dataset: RawDataset) -> None:
    for name in ("imagesTr", "labelsTr"):
        if not (dataset.folder / name).is_dir():
            raise DatasetError(f"{dataset.folder / name} does not exist; a data set has its training cases there")
    images = _files(dataset.folder / "imagesTr", dataset.file_ending)
    strays = [f.name for f in images if image_name(f, dataset.file_ending) is None]
    if strays:
        raise DatasetError(
            f"{dataset.folder / 'imagesTr'} holds files that are not named CASE_0000{dataset.file_ending}: "
            f"{_listing(strays)}"
        )


def _check_labels_have_images(dataset: RawDataset, cases: list[CaseFiles]) -> None:
    known = {c.case + dataset.file_ending for c in cases}
    folder = dataset.folder / "labelsTr"
    strays = [f.name for f in _files(folder, dataset.file_ending) if f.name not in known]
    if strays:
        raise DatasetError(f"{folder} holds labels of cases that imagesTr does not: {_listing(strays)}")


def check_prompt_names(dataset: RawDataset, cases: list[CaseFiles]) -> None:
    """Check that every file of promptsTr is a prompt file of a training case.

    Raises:
        DatasetError: one is of no training case; misnamed, it would be missed silently.
        PromptFileError: one is no prompt file by its ending.
    """
    folder = dataset.folder / "promptsTr"
    check_prompt_endings(folder)
    if not folder.is_dir():
        return
    names = {c.case for c in cases}
    known = {f"{name}{ending}" for name in names for ending in PROMPT_ENDINGS}
    strays = [f.name for ending in PROMPT_ENDINGS for f in _files(folder, ending) if f.name not in known]
    if strays:
        images = "the entry dataset of dataset.json" if dataset.is_explicit else "imagesTr"
        raise DatasetError(f"{folder} holds prompts of cases that {images} does not: {_listing(strays)}")


def _check_all_have_prompts(dataset: RawDataset, cases: list[CaseFiles]) -> None:
    folder = dataset.folder / "promptsTr"
    without = [c.case for c in cases if c.prompts is None]
    if folder.is_dir() and without:
        raise DatasetError(f"{len(without)} training cases have no prompts in {folder}: {_listing(without)}")


def _files(folder: Path, ending: str) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.name.endswith(ending) and not f.name.startswith("."))


def _listing(names: Iterable[str]) -> str:
    unique = sorted(set(names))
    more = f" and {len(unique) - _NAMES_SHOWN} more" if len(unique) > _NAMES_SHOWN else ""
    return ", ".join(unique[:_NAMES_SHOWN]) + more
