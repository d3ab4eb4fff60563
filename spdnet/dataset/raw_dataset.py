"""A data set in nnU-Net's raw format: dataset.json and the files of each case."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spdnet.dataset.image_io import ReaderWriter, choose_reader
from spdnet.dataset.labels import Labels
from spdnet.errors import DatasetError

PROMPT_ENDINGS = (".mrk.json",)


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        case: identifier.
        images: one file per channel.
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
        return choose_reader(self.dataset_json, self.training_cases()[0].images[0])

    @property
    def channel_names(self) -> list[str]:
        """Name of each channel, in file order."""
        channels = self.dataset_json["channel_names"]
        return [channels[key] for key in sorted(channels, key=int)]

    def training_cases(self) -> list[CaseFiles]:
        """Cases of imagesTr, sorted, each with its label file and, if there is one, its prompt file.

        Raises:
            DatasetError: no images, a missing channel or a missing label.
        """
        cases = find_cases(self.folder / "imagesTr", self.file_ending, len(self.channel_names))
        return [self._with_label_and_prompts(case, "Tr", label_required=True) for case in cases]

    def cases(self, subset: str) -> list[CaseFiles]:
        """Cases of `images{subset}` ("Tr" or "Ts"), labels and prompts where present.

        Raises:
            DatasetError: no images or a missing channel.
        """
        cases = find_cases(self.folder / f"images{subset}", self.file_ending, len(self.channel_names))
        return [self._with_label_and_prompts(case, subset, label_required=False) for case in cases]

    def _with_label_and_prompts(self, case: CaseFiles, subset: str, label_required: bool) -> CaseFiles:
        label = self.folder / f"labels{subset}" / f"{case.case}{self.file_ending}"
        if label_required and not label.exists():
            raise DatasetError(f"case {case.case}: label file {label} is missing")
        prompts = find_prompt_file(self.folder / f"prompts{subset}", case.case)
        return CaseFiles(case.case, case.images, label if label.exists() else None, prompts)


def read_dataset_json(file: Path) -> dict[str, Any]:
    """Read and check a dataset.json.

    Raises:
        DatasetError: missing, not JSON, or without `channel_names`, `labels` or `file_ending`.
    """
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise DatasetError(f"{file} is missing; it describes the data set as nnU-Net v2 documents it") from error
    except json.JSONDecodeError as error:
        raise DatasetError(f"{file} is not valid JSON: {error}") from error
    if "channel_names" not in content and "modality" in content:
        content["channel_names"] = content["modality"]
    missing = [key for key in ("channel_names", "labels", "file_ending") if key not in content]
    if missing:
        raise DatasetError(f"{file} lacks {', '.join(missing)}")
    return dict(content)


def find_cases(folder: Path, file_ending: str, n_channels: int) -> list[CaseFiles]:
    """Group the files `{case}_{XXXX}{file_ending}` of a folder by case, sorted.

    Raises:
        DatasetError: no such folder or file, or a case without one of its channels.
    """
    if not folder.is_dir():
        raise DatasetError(f"image folder {folder} does not exist")
    cut = len(file_ending) + 5
    names = {f.name for f in folder.iterdir() if f.name.endswith(file_ending) and not f.name.startswith(".")}
    cases = sorted({name[:-cut] for name in names if len(name) > cut and name[-cut] == "_"})
    if not cases:
        raise DatasetError(f"{folder} holds no images named CASE_0000{file_ending}")
    found = []
    for case in cases:
        files = [f"{case}_{channel:04d}{file_ending}" for channel in range(n_channels)]
        missing = [f for f in files if f not in names]
        if missing:
            raise DatasetError(f"case {case}: {', '.join(missing)} is missing in {folder}")
        found.append(CaseFiles(case, tuple(folder / f for f in files)))
    return found


def find_prompt_file(folder: Path, case: str) -> Path | None:
    """The prompt file of a case in a prompts folder, or None."""
    for ending in PROMPT_ENDINGS:
        if (folder / f"{case}{ending}").exists():
            return folder / f"{case}{ending}"
    return None
