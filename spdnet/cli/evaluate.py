"""`spd_evaluate`: scores of a folder of predictions, as a table on screen and a JSON file."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from spdnet.cli.common import entry_point
from spdnet.dataset.image_io import choose_reader
from spdnet.dataset.labels import Labels
from spdnet.dataset.raw_dataset import read_dataset_json
from spdnet.errors import ConfigurationError, DatasetError, PlansError
from spdnet.evaluation.evaluate import Estimate, EvaluationResult, evaluate_folder
from spdnet.files import parse_json, read_json
from spdnet.geometry.image_geometry import axis_from_name
from spdnet.parallel import default_processes

RESULT_FILE = "spd_evaluation.json"
_COLUMNS = (  # metric, heading, decimals, whether to show the interval
    ("dsc", "DSC [95 %]", 3, True),
    ("iou", "IoU", 3, False),
    ("target_dsc", "target DSC", 3, False),
    ("hd95_mm", "HD95 mm", 2, False),
    ("asd_mm", "ASD mm", 2, False),
    ("volume_dice", "volume Dice [95 %]", 3, True),
)


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = _parser().parse_args(argv)
    output = arguments.o or arguments.pred / RESULT_FILE
    check_output(output)
    dataset_file = arguments.djfile or find_dataset_json(arguments.ref, arguments.pred)
    dataset_json = read_dataset_json(dataset_file)
    labels = Labels.from_dataset_json(dataset_json, str(dataset_file))
    slicing_axis = find_slicing_axis(arguments.pred, arguments.pfile)
    result = evaluate_folder(
        arguments.ref,
        arguments.pred,
        choose_reader(dataset_json, min(arguments.ref.glob(f"[!.]*{dataset_json['file_ending']}"), default=None)),
        labels,
        str(dataset_json["file_ending"]),
        slicing_axis,
        default_processes() if arguments.np is None else arguments.np,
    )
    result.to_json(output)  # first: the screen may be a pipe that ends early
    print(format_table(result))
    if slicing_axis is None:
        print(
            "No plans of spdnet lie beside the predictions, so each file is sliced along its own largest spacing. To "
            "compare with scores of a model that slices along another axis, give its plans.json with -pfile."
        )
    print(f"Written: {output}")


def check_output(file: Path) -> None:
    """Raise ConfigurationError unless scores can be written to a file without loss."""
    if file.suffix.lower() != ".json":
        raise ConfigurationError(f"-o {file}: scores are written as JSON; give a name that ends in .json")
    if not file.parent.is_dir():
        raise ConfigurationError(f"the folder of the output file {file} does not exist; mend -o or -pred")
    if file.is_file() and file.name != RESULT_FILE and not _holds_scores(file):
        raise ConfigurationError(f"-o {file}: this file is there already and holds no scores; choose another name")


def _holds_scores(file: Path) -> bool:
    try:
        content = parse_json(file.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and {"n_cases", "mean", "cases"} <= content.keys()


def find_dataset_json(reference_folder: Path, prediction_folder: Path) -> Path:
    """The dataset.json of the prediction folder, else of the data set that the reference folder lies in.

    Raises:
        DatasetError: neither is there.
    """
    candidates = [prediction_folder / "dataset.json", reference_folder.absolute().parent / "dataset.json"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DatasetError(f"found neither {candidates[0]} nor {candidates[1]}; give the data set's with -djfile")


def find_slicing_axis(prediction_folder: Path, plans_file: Path | None = None) -> int | None:
    """The canonical slicing axis that the plans beside the predictions name, or None.

    Args:
        prediction_folder: searched for plans.json. Plans of another program name no axis: None.
        plans_file: plans to read instead; they must name an axis.

    Raises:
        PlansError: the file given is missing or names no axis, or a plans file is damaged.
    """
    file = plans_file or prediction_folder / "plans.json"
    if plans_file is None and not file.is_file():
        return None
    plans = read_json(file, "plans file", "Mend -pfile, or give the plans.json of the trained model.", PlansError)
    settings = plans.get("spd", {}) if isinstance(plans, dict) else None
    if not isinstance(settings, dict):
        raise PlansError(f"{file} is not a plans file; mend -pfile, or remove the file")
    name = settings.get("slicing_axis")
    if name is None and plans_file is None:
        return None
    try:
        return axis_from_name(str(name))
    except ValueError as error:
        raise PlansError(f'{file}: "slicing_axis" under "spd" is {name!r}; it must be "S", "P" or "L"') from error


def format_table(result: EvaluationResult) -> str:
    """The result as text: a row per class and one for their mean."""
    rows = [("class", *(heading for _, heading, _, _ in _COLUMNS))]
    for label, index in [*((name, i) for i, name in enumerate(result.class_names)), ("mean", None)]:
        cells = [_cell(result.estimate(metric, index), digits, wide) for metric, _, digits, wide in _COLUMNS]
        rows.append((label, *cells))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    rule = "-" * max(len(line) for line in lines)
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], "", _explanation(result)])


def _cell(estimate: Estimate, digits: int, with_interval: bool) -> str:
    mean = _number(estimate.mean, digits)
    if not with_interval or math.isnan(estimate.mean):
        return mean
    return f"{mean} [{_number(estimate.low, digits)}, {_number(estimate.high, digits)}]"


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _explanation(result: EvaluationResult) -> str:
    n_slices = sum(case.classes[0].n_slices for case in result.cases)
    axes = ", ".join(sorted({case.slicing_axis for case in result.cases}))
    return (
        f"{len(result.cases)} cases, {n_slices} slices along {axes}. DSC and IoU: mean over all slices, both empty 1, "
        "one empty 0.\nTarget DSC: mean over slices with target. HD95 and ASD: mean over slices where both have "
        "foreground.\nIntervals: bootstrap over cases."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spd_evaluate", description="Scores predicted label maps against reference label maps."
    )
    parser.add_argument("-ref", type=Path, required=True, metavar="FOLDER", help="reference label maps (labelsTs)")
    parser.add_argument("-pred", type=Path, required=True, metavar="FOLDER", help="predicted label maps")
    parser.add_argument(
        "-djfile", type=Path, metavar="FILE", help="dataset.json; default: in -pred, else beside the folder -ref"
    )
    parser.add_argument(
        "-pfile",
        type=Path,
        metavar="FILE",
        help="plans.json that names the slicing axis; default: in -pred, else each file's axis of largest spacing",
    )
    parser.add_argument("-o", type=Path, metavar="FILE", help=f"output file; default: {RESULT_FILE} in -pred")
    parser.add_argument(
        "-np", type=int, metavar="N", help="processes; default: nnUNet_def_n_proc, at most one per core"
    )
    return parser
