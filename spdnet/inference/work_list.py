"""Which cases a call predicts and where to: folders and lists, as nnU-Net's predictor takes them, to checked cases."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spdnet.dataset import CaseFiles, Labels, ReaderWriter
from spdnet.dataset.raw_dataset import PROMPT_ENDINGS, find_cases, find_prompt_file
from spdnet.errors import ConfigurationError, DatasetError, PromptFileError
from spdnet.inference.export import is_complete
from spdnet.prompts import PromptReading, read_checked_markups

PathLike = str | Path
Source = PathLike | Sequence[Sequence[PathLike]]
Outputs = PathLike | Sequence[PathLike] | None
Prompts = PathLike | Sequence[PathLike | None] | None


@dataclass(frozen=True)
class FileCase:
    """A case to predict from files.

    Attributes:
        files: image files and, if there is one, the prompt file.
        target: path of the prediction without file ending, or None if it is returned.
    """

    files: CaseFiles
    target: Path | None

    @property
    def case(self) -> str:
        """Identifier."""
        return self.files.case


def list_cases(source: Source, outputs: Outputs, prompts: Prompts, file_ending: str, n_channels: int) -> list[FileCase]:
    """The cases of a folder, or of a list with the image files of each case.

    Args:
        source: folder of images named as nnU-Net names them, or one list of files per case; files of a list need no
            channel number in their names.
        outputs: folder, or one path without file ending per case, or None.
        prompts: folder with a prompt file for each case, or one file or None per case, or None.
        file_ending: of images and predictions, with the dot.
        n_channels: files per case in a folder.

    Raises:
        DatasetError, PromptFileError: files are missing.
        ConfigurationError: lists of different lengths, two cases with one output, or an output that is an input.
    """
    if isinstance(source, str | Path):
        cases = find_cases(Path(source), file_ending, n_channels)
    else:
        cases = [_case_of_list(files, file_ending) for files in source]
    targets = _targets([c.case for c in cases], outputs, file_ending)
    listed = [FileCase(c, t) for c, t in zip(_with_prompts(cases, prompts), targets, strict=True)]
    _check_outputs(listed, file_ending)
    return listed


def part_of(cases: list[FileCase], num_parts: int, part_id: int) -> list[FileCase]:
    """Every `num_parts`-th case from `part_id` (from 0), as nnU-Net shares cases among jobs.

    Raises:
        ConfigurationError: the part does not exist.
    """
    if num_parts < 1 or not 0 <= part_id < num_parts:
        raise ConfigurationError(
            f"part_id {part_id} of num_parts {num_parts} does not exist; parts are counted from 0 to num_parts - 1"
        )
    return cases[part_id::num_parts]


def unfinished(cases: list[FileCase], file_ending: str, with_probabilities: bool) -> list[FileCase]:
    """The cases of which a file is still to be written."""
    return [
        c
        for c in cases
        if c.target is None or not is_complete(c.target.parent, c.target.name, file_ending, with_probabilities)
    ]


def check_prompts(cases: list[FileCase], reader: ReaderWriter, labels: Labels, reading: PromptReading) -> None:
    """Check the prompt file of every case against its image; raises `PromptFileError`, `DatasetError`."""
    for case in cases:
        if case.files.prompts is not None:
            geometry = reader.read_geometry(case.files.images[0], case.case)
            read_checked_markups(case.files.prompts, case.case, geometry, labels, reading.frame, reading.outside)


def check_truncated(target: PathLike, file_ending: str) -> Path:
    """An output path without file ending; raises ConfigurationError if it has one."""
    if str(target).endswith(file_ending):
        raise ConfigurationError(f"output {target}: give it without the file ending {file_ending}")
    return Path(target)


def _case_of_list(files: Sequence[PathLike], file_ending: str) -> CaseFiles:
    if isinstance(files, str | Path) or not files:
        raise ConfigurationError(f"each case of the list must be a list of its image files, one or more, not {files!r}")
    images = tuple(Path(f) for f in files)
    for image in images:
        if not image.is_file():
            raise DatasetError(f"image {image} does not exist")
        if not image.name.endswith(file_ending):
            raise DatasetError(f"image {image}: the model is for {file_ending} files")
    return CaseFiles(re.sub(r"_\d{4}$", "", images[0].name.removesuffix(file_ending)), images)


def _targets(cases: list[str], outputs: Outputs, file_ending: str) -> list[Path | None]:
    if outputs is None:
        return [None] * len(cases)
    if isinstance(outputs, str | Path):
        return [Path(outputs) / case for case in cases]
    if len(outputs) != len(cases):
        raise ConfigurationError(f"{len(outputs)} outputs for {len(cases)} cases; give one for each")
    return [check_truncated(o, file_ending) for o in outputs]


def _with_prompts(cases: list[CaseFiles], prompts: Prompts) -> list[CaseFiles]:
    if prompts is None:
        return cases
    if isinstance(prompts, str | Path):
        return _with_prompts_of_folder(cases, Path(prompts))
    if len(prompts) != len(cases):
        raise PromptFileError(f"{len(prompts)} prompt files for {len(cases)} cases; give one, or None, for each")
    files = [Path(p) if p is not None else None for p in prompts]
    missing = [str(f) for f in files if f is not None and not f.is_file()]
    if missing:
        raise PromptFileError(f"{len(missing)} prompt files do not exist: {_some(missing)}")
    return [replace(c, prompts=f) for c, f in zip(cases, files, strict=True)]


def _with_prompts_of_folder(cases: list[CaseFiles], folder: Path) -> list[CaseFiles]:
    if not folder.is_dir():
        raise PromptFileError(f"prompts folder {folder} does not exist")
    prompted = [replace(c, prompts=find_prompt_file(folder, c.case)) for c in cases]
    missing = [c.case for c in prompted if c.prompts is None]
    if missing:
        raise PromptFileError(
            f"{len(missing)} of {len(cases)} cases have no prompt file in {folder}: {_some(missing)}. Put a "
            f"prompt file there ({missing[0]} with one of {', '.join(PROMPT_ENDINGS)}), name another folder with "
            "-prompts, or run on the image alone with --no_prompts."
        )
    return prompted


def _check_outputs(cases: list[FileCase], file_ending: str) -> None:
    targets = [c.target for c in cases if c.target is not None]
    twice = [str(t) for t, n in Counter(targets).items() if n > 1]
    if twice:
        raise ConfigurationError(f"several cases would be written to {_some(twice)}; give each its own output")
    images = {f.absolute() for c in cases for f in c.files.images}
    over = [str(t) for t in targets if t.with_name(t.name + file_ending).absolute() in images]
    if over:
        raise ConfigurationError(f"the predictions would replace the images {_some(over)}; choose another output")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
