"""A data set in nnU-Net's raw format: dataset.json and the files of each case.

Training cases are the files of imagesTr and labelsTr, or those that the entry "dataset" of dataset.json names.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spdnet.dataset.image_io import ReaderWriter, choose_reader
from spdnet.dataset.labels import Labels
from spdnet.errors import DatasetError, PromptFileError
from spdnet.files import read_json

# A label map of marks has an ending of its own, so that a folder of labels is not taken for one of prompts by mistake.
PROMPT_ENDINGS = (".mrk.json", ".fcsv", ".csv", ".tsv", ".marks.nii.gz", ".marks.nii")
PROMPTS_RECORD = "spd_prompts.json"  # how spd_simulate_prompts drew the files beside it
_OTHERS_AMONG_PROMPTS = (PROMPTS_RECORD, "Thumbs.db", "desktop.ini")  # that, and what Windows leaves in any folder


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        case: identifier.
        images: one file per channel, or fewer that hold several channels each.
        label: ground truth, or None.
        prompts: prompt file, or None.
    """

    case: str
    images: tuple[Path, ...]
    label: Path | None = None
    prompts: Path | None = None


@dataclass(frozen=True)
class RawDataset:
    """Folder `nnUNet_raw/DatasetNNN_Name`; nothing is read before it is asked for."""

    folder: Path

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        """Content of dataset.json.

        Raises:
            DatasetError: missing, not JSON, or without a key that nnU-Net needs.
        """
        return read_dataset_json(self.folder / "dataset.json")

    @cached_property
    def labels(self) -> Labels:
        """The classes."""
        return Labels.from_dataset_json(self.dataset_json, str(self.folder / "dataset.json"))

    @property
    def file_ending(self) -> str:
        """File ending of images, labels and predictions, with the dot."""
        return str(self.dataset_json["file_ending"])

    @cached_property
    def reader(self) -> ReaderWriter:
        """The reader of images and labels that nnU-Net would choose; tried on the first training image.

        Raises:
            DatasetError: none can read it.
        """
        return choose_reader(self.dataset_json, self._training_images()[0].images[0])

    @property
    def channel_names(self) -> list[str]:
        """Name of each channel, in file order."""
        channels = self.dataset_json["channel_names"]
        return [channels[key] for key in sorted(channels, key=int)]

    @property
    def n_channels(self) -> int:
        """Number of channels that every case has."""
        return len(self.dataset_json["channel_names"])

    @property
    def is_explicit(self) -> bool:
        """Whether dataset.json names the files of the training cases, which then need not be in imagesTr."""
        return "dataset" in self.dataset_json

    def training_cases(self) -> list[CaseFiles]:
        """Training cases, sorted, each with its label file and, if there is one, its prompt file.

        Raises:
            DatasetError: no images, a missing channel or file, or a missing label.
        """
        cases = sorted(self._training_images(), key=lambda case: case.case)
        return [self._with_label_and_prompts(case, "Tr", label_required=True) for case in cases]

    def _training_images(self) -> list[CaseFiles]:
        """Training cases in nnU-Net's order, whose first one chooses the reader; labels if dataset.json names them."""
        if self.is_explicit:
            return explicit_cases(self.dataset_json["dataset"], self.folder, self.n_channels)
        return find_cases(self.folder / "imagesTr", self.file_ending, self.n_channels)

    def cases(self, subset: str) -> list[CaseFiles]:
        """Cases of `images{subset}` ("Tr" or "Ts"), sorted, labels and prompts where present.

        Raises:
            DatasetError: no images or a missing channel.
        """
        if subset == "Tr":
            cases = sorted(self._training_images(), key=lambda case: case.case)
        else:
            cases = find_cases(self.folder / f"images{subset}", self.file_ending, self.n_channels)
        return [self._with_label_and_prompts(case, subset, label_required=False) for case in cases]

    def _with_label_and_prompts(self, case: CaseFiles, subset: str, label_required: bool) -> CaseFiles:
        label = case.label or self.folder / f"labels{subset}" / f"{case.case}{self.file_ending}"
        if label_required and not label.exists():
            raise DatasetError(f"case {case.case}: label file {label} is missing")
        prompts = find_prompt_file(self.folder / f"prompts{subset}", case.case)
        return CaseFiles(case.case, case.images, label if label.exists() else None, prompts)


def read_dataset_json(file: Path) -> dict[str, Any]:
    """Read and check a dataset.json; `channel_names` is there even if the file has its old name `modality`.

    Raises:
        DatasetError: missing, not JSON, of nnU-Net v1, without `channel_names`, `labels` or `file_ending`, or one of
            them is not of its form.
    """
    content = load_json_object(file)
    check_version(content, file)
    if "channel_names" not in content and "modality" in content:
        content["channel_names"] = content["modality"]
    missing = [key for key in ("channel_names", "labels", "file_ending") if key not in content]
    if missing:
        raise DatasetError(f"{file} lacks {', '.join(missing)}")
    channels, ending = content["channel_names"], content["file_ending"]
    if not isinstance(channels, dict) or not channels or not all(key.isdecimal() for key in channels):
        raise DatasetError(f'{file}: "channel_names" must be like {{"0": "T1", "1": "T2"}}, not {str(channels)[:200]}')
    if not isinstance(ending, str) or not re.fullmatch(r"(\.\w+)+", ending):
        raise DatasetError(f'{file}: "file_ending" must be like ".nii.gz", not {str(ending)[:200]!r}')
    return content


def load_json_object(file: Path) -> dict[str, Any]:
    """Content of a dataset.json as it is.

    Raises:
        DatasetError: missing, not JSON, not an object, or a key is there twice.
    """
    remedy = "It describes the data set as nnU-Net v2 documents it."
    content = read_json(file, "data set description", remedy, DatasetError)
    if not isinstance(content, dict):
        raise DatasetError(f"{file} must hold a JSON object, not a {type(content).__name__}")
    return content


def check_version(content: dict[str, Any], file: Path) -> None:
    """Refuse the dataset.json of nnU-Net v1 and of the Medical Segmentation Decathlon, which nnU-Net v2 converts.

    Raises:
        DatasetError: it has labels by their value, {"0": "background"}, or "modality" and neither of the keys that
            nnU-Net v2 has instead.
    """
    labels = content.get("labels")
    by_value = (
        isinstance(labels, dict) and bool(labels) and all(k.isdecimal() and isinstance(labels[k], str) for k in labels)
    )
    if by_value or ("modality" in content and "channel_names" not in content and "file_ending" not in content):
        raise DatasetError(
            f'{file} is of nnU-Net v1 or the Medical Segmentation Decathlon ("modality", labels like {{"0": '
            '"background"}). Convert the data set with nnUNetv2_convert_MSD_dataset, or a folder TaskXXX_NAME of '
            "nnU-Net v1 with nnUNetv2_convert_old_nnUNet_dataset"
        )


def find_cases(folder: Path, file_ending: str, n_channels: int) -> list[CaseFiles]:
    """Group the files `{case}_{XXXX}{file_ending}` of a folder by case, sorted.

    Every case has as many files as the others, from 0000 on: one per channel, or fewer if files hold several
    channels each (`check_channels` is for those who read them).

    Raises:
        DatasetError: no such folder or file, a case without one of its files, or with more files than channels.
    """
    found, faults = scan_cases(folder, file_ending, n_channels)
    if faults:
        raise next(iter(faults.values()))
    return found


def scan_cases(folder: Path, file_ending: str, n_channels: int) -> tuple[list[CaseFiles], dict[str, DatasetError]]:
    """As `find_cases`, with what is wrong with the files of single cases by their identifier.

    Returns:
        All cases, sorted, the faulty ones without images; and the error of each of those.

    Raises:
        DatasetError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DatasetError(f"image folder {folder} does not exist")
    channels: dict[str, set[int]] = {}
    for file in folder.iterdir():
        if (name := image_name(file, file_ending)) is not None:
            channels.setdefault(name[0], set()).add(name[1])
    if not channels:
        raise DatasetError(f"{folder} holds no images named CASE_0000{file_ending}")
    n_files = min(max(len(numbers) for numbers in channels.values()), n_channels)
    found, faults = [], {}
    for case in sorted(channels):
        names = [f"{case}_{channel:04d}{file_ending}" for channel in range(n_files)]
        missing = [name for channel, name in enumerate(names) if channel not in channels[case]]
        if len(channels[case]) > n_channels:
            faults[case] = DatasetError(
                f"case {case}: {folder} holds {len(channels[case])} files of it; dataset.json declares {n_channels} "
                "channels"
            )
        elif missing:
            faults[case] = DatasetError(f"case {case}: {', '.join(missing)} is missing in {folder}")
        found.append(CaseFiles(case, () if case in faults else tuple(folder / name for name in names)))
    return found, faults


def image_name(file: Path, file_ending: str) -> tuple[str, int] | None:
    """Case and channel of an image file named `{case}_{XXXX}{file_ending}`; None for other and hidden files."""
    match = re.fullmatch(r"(.+)_([0-9]{4})" + re.escape(file_ending), file.name)
    return (match[1], int(match[2])) if match and not file.name.startswith(".") else None


def explicit_cases(entries: Any, folder: Path, n_channels: int) -> list[CaseFiles]:
    """The cases of the entry "dataset" of a dataset.json, in its order.

    Args:
        entries: {case: {"images": [file, ...], "label": file}}. Environment variables are expanded; paths are
            relative to the data set's folder or absolute.
        folder: the raw data set.
        n_channels: highest number of files a case may have.

    Raises:
        DatasetError: not of this form, an environment variable is not set, or an image does not exist.
    """
    if not isinstance(entries, dict) or not entries:
        raise DatasetError(f'{folder / "dataset.json"}: "dataset" must be {{case: {{"images": [...], "label": ...}}}}')
    found = []
    for case, entry in entries.items():
        where = f"{folder / 'dataset.json'}: case {case}"
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not all(isinstance(f, str) for f in [*images, label]) or "/" in case:
            raise DatasetError(f'{where} must be {{"images": [file, ...], "label": file}}, not {entry}')
        if not 1 <= len(images) <= n_channels:
            raise DatasetError(f"{where} names {len(images)} images; there are {n_channels} channels")
        files = tuple(_expanded_path(f, folder, where) for f in images)
        missing = [str(f) for f in files if not f.is_file()]
        if missing:
            raise DatasetError(f"{where}: {', '.join(missing)} does not exist")
        found.append(CaseFiles(case, files, _expanded_path(str(label), folder, where)))
    return found


def check_channels(image: np.ndarray, n_channels: int, case: str) -> None:
    """Check that an image (c, z, y, x) as read from a case's files has as many channels as dataset.json declares.

    Raises:
        DatasetError: it has not.
    """
    if len(image) != n_channels:
        raise DatasetError(
            f"case {case}: its image files hold {len(image)} channels; dataset.json declares {n_channels}. "
            f"Each channel has a file of its own, {case}_0000, {case}_0001, ..., or one file holds all"
        )


def _expanded_path(text: str, folder: Path, where: str) -> Path:
    """A path of dataset.json; relative ones begin at `folder`. Raises DatasetError for unset variables."""
    path = Path(os.path.abspath(folder / os.path.expandvars(text)))
    unset = [name for name in re.findall(r"\$\{?(\w+)", text) if name not in os.environ]
    if unset and not path.exists():
        raise DatasetError(f"{where}: {text} needs the environment variable {unset[0]}, which is not set")
    return path


def find_prompt_file(folder: Path, case: str) -> Path | None:
    """The prompt file of a case in a prompts folder, or None.

    Raises:
        PromptFileError: there are several.
    """
    found = [file for ending in PROMPT_ENDINGS if (file := folder / f"{case}{ending}").exists()]
    if len(found) > 1:
        raise PromptFileError(
            f"case {case}: {folder} holds {len(found)} prompt files of it, {', '.join(file.name for file in found)}. "
            "Keep the one that counts"
        )
    return found[0] if found else None


def check_prompt_endings(folder: Path) -> None:
    """Check that every visible file of a prompts folder, if it is there, can be a prompt file by its ending.

    Raises:
        PromptFileError: some cannot; misnamed, they would be missed silently.
    """
    files = folder.iterdir() if folder.is_dir() else ()
    visible = sorted(f.name for f in files if not f.name.startswith(".") and f.is_file())
    strays = [name for name in visible if not name.endswith(PROMPT_ENDINGS) and name not in _OTHERS_AMONG_PROMPTS]
    if strays:
        more = f" and {len(strays) - 5} more" if len(strays) > 5 else ""
        raise PromptFileError(
            f"{folder} holds files that are not read as prompts: {', '.join(strays[:5])}{more}. Prompt files are named "
            f"CASE and one of {', '.join(PROMPT_ENDINGS)}, in small letters. Rename these, or move them elsewhere if "
            "they are no prompts"
        )
