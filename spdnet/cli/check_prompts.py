"""`spd_check_prompts`: the prompt files of a folder against their images, as before a prediction, and all faults."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spdnet.cli.common import add_prompt_reading, entry_point, planned_slicing_axis, prompt_reading
from spdnet.dataset import Labels, RawDataset, ReaderWriter, choose_reader
from spdnet.dataset.raw_dataset import (
    PROMPT_ENDINGS,
    check_prompt_endings,
    explicit_cases,
    read_dataset_json,
    scan_cases,
)
from spdnet.errors import ConfigurationError, DatasetError, PromptFileError, SPDError
from spdnet.inference.work_list import FileCase, checked_markups, with_prompts_of_folder
from spdnet.paths import raw_root, resolve_dataset_name
from spdnet.prompts import Markup, PromptReading


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Check the prompt files of a data set or a folder against their images; a line per case, and every fault."""
    args = _parser().parse_args(argv)
    images, prompts, dataset_file = _folders(args)
    dataset_json = read_dataset_json(dataset_file)
    labels = Labels.from_dataset_json(dataset_json, str(dataset_file))
    check_prompt_endings(prompts)
    cases = _cases(
        images, prompts, dataset_json, dataset_file.parent, is_training=args.d is not None and args.s == "Tr"
    )
    first = next((c.files.images[0] for c in cases if c.files.images), None)
    reader = choose_reader(dataset_json, first)
    axis = planned_slicing_axis(dataset_file.parent.name) if args.d is not None else None
    n_wrong = 0
    for case in cases:
        try:
            print(f"case {case.case}: {_what_is_there(case, reader, labels, prompt_reading(args), axis)}")
        except SPDError as error:
            n_wrong += 1
            print(str(error) if case.case in str(error) else f"case {case.case}: {error}")
    if n_wrong:
        raise PromptFileError(f"{n_wrong} of {len(cases)} cases cannot be used; what is wrong is said above")
    print(f"{_counted(len(cases), 'case')}: nothing is wrong")


def _cases(
    images: Path, prompts: Path, dataset_json: dict[str, Any], folder: Path, is_training: bool
) -> list[FileCase]:
    """The cases with their prompt files and faults; training cases may be without prompts."""
    n_channels = len(dataset_json["channel_names"])
    of_images: dict[str, DatasetError] = {}
    if is_training and "dataset" in dataset_json:
        cases = explicit_cases(dataset_json["dataset"], folder, n_channels)
    else:
        cases, of_images = scan_cases(images, str(dataset_json["file_ending"]), n_channels)
    prompted, of_prompts = with_prompts_of_folder(cases, prompts)
    if is_training:
        of_prompts = {name: fault for name, fault in of_prompts.items() if _has_prompts(prompts, name)}
    faults = {**of_prompts, **of_images}
    return [FileCase(files, None, faults.get(files.case)) for files in prompted]


def _what_is_there(
    case: FileCase, reader: ReaderWriter, labels: Labels, reading: PromptReading, slicing_axis: int | None
) -> str:
    """The content of a case's prompt file in words; raises what is wrong with it."""
    if case.fault is not None:
        raise case.fault
    if case.files.prompts is None:
        return "no prompt file, so the prompts of all training cases are simulated"
    return _in_words(checked_markups(case, reader, labels, reading, slicing_axis=slicing_axis), labels)


def _folders(args: argparse.Namespace) -> tuple[Path, Path, Path]:
    """Folders of images and prompts, and the dataset.json that says what the classes are."""
    if (args.i is None) == (args.d is None):
        raise ConfigurationError("give either a data set, -d ID, or a folder of images, -i FOLDER")
    if args.d is not None:
        folder = RawDataset(raw_root() / resolve_dataset_name(args.d)).folder
        return folder / f"images{args.s}", args.prompts or folder / f"prompts{args.s}", folder / "dataset.json"
    if args.prompts is None:
        raise ConfigurationError("with -i FOLDER, name the folder of the prompt files: -prompts FOLDER")
    file = args.djfile or args.i.absolute().parent / "dataset.json"
    if not file.is_file():
        raise DatasetError(f"found no {file}, which says what the classes are; name it with -djfile")
    return args.i, args.prompts, file


def _has_prompts(folder: Path, case: str) -> bool:
    return any((folder / f"{case}{ending}").is_file() for ending in PROMPT_ENDINGS)


def _in_words(markups: Sequence[Markup], labels: Labels) -> str:
    """How many of what a file holds, and for which classes."""
    placed = [m for m in markups if len(m.points_lps_mm)]
    points = sum(len(m.points_lps_mm) for m in placed if m.kind == "points")
    curves = [len(m.points_lps_mm) for m in placed if "curve" in m.kind]
    boxes = sum(m.kind == "box" for m in placed)
    counts = [_counted(points, "point")] if points else []
    counts += [f"{_counted(len(curves), 'curve')} with {_counted(sum(curves), 'control point')}"] if curves else []
    counts += [_counted(boxes, "box")] if boxes else []
    if not counts:
        return "nothing is placed in its file"
    classes = dict.fromkeys(m.name if m.name in labels.names else "all classes" for m in placed)
    return f"{', '.join(counts)}; for {', '.join(classes)}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('x') else 's'}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("spd_check_prompts", description=main.__doc__)
    parser.add_argument("-d", metavar="ID", help="data set, number or name")
    parser.add_argument("-s", choices=("Tr", "Ts"), default="Ts", help="training or test cases (default: %(default)s)")
    parser.add_argument("-i", type=Path, metavar="FOLDER", help="instead of -d: a folder of images, CASE_0000.nii.gz")
    parser.add_argument(
        "-prompts", type=Path, metavar="FOLDER", help="prompt files (default with -d: promptsTr or promptsTs)"
    )
    parser.add_argument(
        "-djfile", type=Path, metavar="FILE", help="with -i: dataset.json (default: beside the folder of images)"
    )
    add_prompt_reading(parser)
    return parser
