"""Which cases a call predicts and where to: folders and lists, as nnU-Net's predictor takes them, to checked cases."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spdnet.dataset import CaseFiles, Labels, ReaderWriter
from spdnet.dataset.raw_dataset import PROMPT_ENDINGS, check_prompt_endings, find_prompt_file, scan_cases
from spdnet.errors import ConfigurationError, DatasetError, PromptFileError, SPDError
from spdnet.files import parse_json
from spdnet.geometry import default_slicing_axis, raw_resolution_mapping
from spdnet.inference.earlier import EARLIER_FOLDER
from spdnet.inference.export import is_complete
from spdnet.inference.origin import ORIGIN_FILE, begun_cases
from spdnet.inference.prompt_report import report_files
from spdnet.parallel import progress_bar
from spdnet.prompts import Markup, PromptReading, read_checked_markups

logger = logging.getLogger(__name__)

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
        fault: why it cannot be predicted, if that is known before any work; the others are.
    """

    files: CaseFiles
    target: Path | None
    fault: SPDError | None = None

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

    A case of a folder that lacks a channel, or its prompt file where others have theirs, is listed with its fault.

    Raises:
        DatasetError, PromptFileError: files of a list are missing, there are no images, or no case has prompts.
        ConfigurationError: lists of different lengths, two cases with one output or one name in a folder of prompts, an
            output that is an input, or one that would replace a file that no prediction has written.
    """
    _check_output_folder(source, outputs)
    faults: dict[str, SPDError] = {}
    if isinstance(source, str | Path):
        cases, of_images = scan_cases(Path(source), file_ending, n_channels)
        faults.update(of_images)
    else:
        cases = [_case_of_list(files, file_ending) for files in source]
    targets = _targets([c.case for c in cases], outputs, file_ending)
    if isinstance(prompts, str | Path):
        cases, of_prompts = with_prompts_of_folder(
            cases, Path(prompts), ", or run on the images alone with --no_prompts"
        )
        faults = {**of_prompts, **faults}
    elif prompts is not None:
        cases = _with_prompts_of_list(cases, prompts)
    listed = [FileCase(c, t, faults.get(c.case)) for c, t in zip(cases, targets, strict=True)]
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
    """The cases of which a file is still to be written, or whose files the folder's record does not speak of."""
    begun = {folder: begun_cases(folder) for folder in folders_of(cases)}

    def is_done(target: Path) -> bool:
        is_recorded = target.name in begun[target.parent]
        return is_recorded and is_complete(target.parent, target.name, file_ending, with_probabilities)

    return [c for c in cases if c.target is None or not is_done(c.target)]


def check_prompts(
    cases: list[FileCase],
    reader: ReaderWriter,
    labels: Labels,
    reading: PromptReading,
    show_progress: bool = False,
    slicing_axis: int | None = None,
) -> list[FileCase]:
    """Check the prompt file of every case against its image; cases that fail are returned with their fault.

    Arguments as in `checked_markups`.
    """
    with progress_bar(cases, "checking prompts", is_shown=show_progress, leave=False) as bar:
        return [replace(c, fault=c.fault or _fault_of_prompts(c, reader, labels, reading, slicing_axis)) for c in bar]


def checked_markups(
    case: FileCase,
    reader: ReaderWriter,
    labels: Labels,
    reading: PromptReading,
    log_dropped: bool = True,
    slicing_axis: int | None = None,
) -> list[Markup]:
    """The content of a case's prompt file, checked against its image and its slices.

    Args:
        case: with its files.
        reader, labels: of the data set.
        reading: what the user says of the file.
        log_dropped: as in `read_checked_markups`.
        slicing_axis: canonical axis that the image is sliced along; None: the one of largest spacing.

    Raises:
        DatasetError, PromptFileError: the image's header cannot be read, or see `read_checked_markups`.
    """
    if case.files.prompts is None:
        raise PromptFileError(f"case {case.case} has no prompt file")
    geometry = reader.read_geometry(case.files.images[0], case.case)
    if slicing_axis is None:
        slicing_axis = default_slicing_axis(geometry.canonical_spacing_mm())
    mapping = raw_resolution_mapping(geometry, slicing_axis if geometry.has_patient_axes else 0)
    how = reading.frame, reading.outside, log_dropped
    return read_checked_markups(case.files.prompts, case.case, geometry, labels, *how, mapping)


def check_some_can_be_predicted(cases: list[FileCase]) -> None:
    """Say at once which cases cannot be predicted, although it is reported again at the end.

    Raises:
        SPDError: none can; of the first fault's class.
    """
    faults = [c.fault for c in cases if c.fault is not None]
    if faults and len(faults) == len(cases):
        raise (
            faults[0]
            if len(cases) == 1
            else type(faults[0])(
                f"none of the {len(cases)} cases can be predicted:\n  " + "\n  ".join(str(f) for f in faults[:10])
            )
        )
    for fault in faults:
        logger.warning("left out: %s", fault)
    if faults:
        logger.warning("%d of %d cases are left out, the others are predicted", len(faults), len(cases))


def check_descriptions(folder: Path, contents: dict[str, Any]) -> None:
    """Check that the JSON files that go beside predictions replace none that belongs to something else.

    Args:
        folder: of predictions.
        contents: of each file, by its name.

    Raises:
        ConfigurationError: one is there with another content, and no prediction has written it.
    """
    if (folder / ORIGIN_FILE).is_file():
        return
    for name, content in contents.items():
        file = folder / name
        try:
            differs = file.is_file() and parse_json(file.read_bytes()) != parse_json(json.dumps(content))
        except (OSError, ValueError):
            differs = True
        if differs:
            raise ConfigurationError(
                f"the model's {name} would replace {file}, which is another one and was not written by a prediction: "
                f"is {folder} the folder of a data set or of a model? Choose another output folder"
            )


def check_prompts_stay(cases: Sequence[FileCase]) -> None:
    """Check that telling what became of the points replaces no prompt file that is read; raises ConfigurationError."""
    read = {c.files.prompts.resolve() for c in cases if c.files.prompts is not None}
    written = [f for c in cases if c.target is not None for f in report_files(c.target.parent, c.target.name)]
    over = [str(f) for f in written if f.resolve() in read]
    if over:
        raise ConfigurationError(
            f"--save_prompts would replace the prompt files {_some(over)}; choose another output folder, or move the "
            "prompts to another folder and name it with -prompts"
        )


def folders_of(cases: Sequence[FileCase]) -> list[Path]:
    """The folders that predictions are written to."""
    return list(dict.fromkeys(c.target.parent for c in cases if c.target is not None))


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


def _fault_of_prompts(
    case: FileCase, reader: ReaderWriter, labels: Labels, reading: PromptReading, slicing_axis: int | None
) -> SPDError | None:
    if case.files.prompts is None:
        return None
    try:  # what is dropped is logged when the case is predicted
        checked_markups(case, reader, labels, reading, log_dropped=False, slicing_axis=slicing_axis)
    except SPDError as error:
        return error
    return None


def _with_prompts_of_list(cases: list[CaseFiles], prompts: Sequence[PathLike | None]) -> list[CaseFiles]:
    if len(prompts) != len(cases):
        raise PromptFileError(f"{len(prompts)} prompt files for {len(cases)} cases; give one, or None, for each")
    files = [Path(p) if p is not None else None for p in prompts]
    missing = [str(f) for f in files if f is not None and not f.is_file()]
    if missing:
        raise PromptFileError(f"{len(missing)} prompt files do not exist: {_some(missing)}")
    return [replace(c, prompts=f) for c, f in zip(cases, files, strict=True)]


def with_prompts_of_folder(
    cases: list[CaseFiles], folder: Path, advice: str = ""
) -> tuple[list[CaseFiles], dict[str, SPDError]]:
    """The cases with their prompt files, and the faults of those that have none, or several.

    Args:
        cases: any.
        folder: of prompt files that are called as the cases.
        advice: what else can be done where a file is missing, as the command that is run allows.

    Raises:
        ConfigurationError: several cases have one name. PromptFileError: there is no such folder, it holds files of
            other kinds, or none of any case.
    """
    if not folder.is_dir():
        raise PromptFileError(f"prompts folder {folder} does not exist; name one with -prompts")
    twice = [name for name, n in Counter(c.case for c in cases).items() if n > 1]
    if twice:
        raise ConfigurationError(
            f"several cases of the list are called {_some(twice)}, and {folder} has one prompt file for each name. "
            "Give the prompts as a list, with one file, or None, for each case"
        )
    of_images = {image.parent.resolve() for case in cases for image in case.images}
    if of_images and folder.resolve() not in of_images:  # of cases with faults the images are not known
        check_prompt_endings(folder)
    prompted: list[CaseFiles] = []
    faults: dict[str, SPDError] = {}
    for case in cases:
        file = None
        try:
            file = find_prompt_file(folder, case.case)
        except PromptFileError as error:
            faults[case.case] = error
        prompted.append(replace(case, prompts=file))
    missing = [c.case for c in prompted if c.prompts is None and c.case not in faults]
    advice = f"one of {', '.join(PROMPT_ENDINGS)}), or name another folder with -prompts{advice}"
    if missing and len(missing) == len(cases):
        raise PromptFileError(f"{folder} holds no prompt file of any case. Put some there ({missing[0]} with {advice}")
    for name in missing:
        faults[name] = PromptFileError(
            f"case {name} has no prompt file in {folder}. Put one there ({name} with {advice}"
        )
    return prompted, faults


def _check_outputs(cases: list[FileCase], file_ending: str) -> None:
    targets = [c.target for c in cases if c.target is not None]
    twice = [str(t) for t, n in Counter(targets).items() if n > 1]
    if twice:
        raise ConfigurationError(f"several cases would be written to {_some(twice)}; give each its own output")
    images = {f.resolve() for c in cases for f in c.files.images}
    over = [str(t) for t in targets if t.with_name(t.name + file_ending).resolve() in images]
    if over:
        raise ConfigurationError(f"the predictions would replace the images {_some(over)}; choose another output")
    for folder in folders_of(cases):
        _check_only_predictions(folder, [f"{t.name}{file_ending}" for t in targets if t.parent == folder])


def _check_output_folder(source: Source, outputs: Outputs) -> None:
    folders = isinstance(source, str | Path) and isinstance(outputs, str | Path)
    if folders and Path(str(source)).resolve() == Path(str(outputs)).resolve():
        raise ConfigurationError(
            f"the output folder {outputs} is the folder of the images; the predictions would lie among them. Choose "
            "another output folder"
        )


def _check_only_predictions(folder: Path, names: list[str]) -> None:
    """Refuse a folder with files of these names that no prediction has written: they may be labels.

    The files are looked for first: a prediction that works on another part of the cases writes its record before them.
    """
    places = [*names, *(str(Path(EARLIER_FOLDER, name)) for name in names)]
    there = [place for place in places if (folder / place).is_file()]
    if there and not (folder / ORIGIN_FILE).is_file():
        raise ConfigurationError(
            f"the predictions would replace {len(there)} files of {folder} ({_some(there)}) that no prediction has "
            f"written, as {ORIGIN_FILE} is not beside them: are they labels? Choose another output folder or, if these "
            "files may go, remove them"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
