"""`spd_report`: a trained fold, or folders of predictions, as one HTML file to look at."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path

from spdnet.cli.common import add_prompt_reading, entry_point, prompt_reading, prompts_beside
from spdnet.dataset import RawDataset
from spdnet.errors import ConfigurationError, ModelError
from spdnet.inference import ModelFolder, find_model
from spdnet.inference.origin import read_origin
from spdnet.parallel import default_processes
from spdnet.paths import raw_root, resolve_dataset_name
from spdnet.report import (
    FigureRequest,
    ReportOptions,
    ReportSource,
    prediction_source,
    training_source,
    write_figures,
    write_report,
)
from spdnet.report.write import INLINE_BYTES, WrittenReport, check_place

logger = logging.getLogger(__name__)

_CASES_PER_PROCESS = 4  # a process takes seconds to start


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Make a report to look at in a browser: scores, curves, and a viewer of every case with its prompts.

    Either of a trained fold (-d, -f), or of one or several folders of predictions (-i, -p).
    """
    args = _parser().parse_args(argv)
    _check(args)
    command = shlex.join(["spd_report", *(sys.argv[1:] if argv is None else argv)])
    source, page = _training(args) if args.d is not None else _predictions(args)
    page = args.o or page
    check_place(page)
    if args.cases is not None:
        source = source.only(args.cases)
    n_processes = _processes(args.np, len(source.cases))
    options = ReportOptions(command, args.channel, n_processes, 0 if args.split else INLINE_BYTES)
    written = write_report(source, page, options)
    _tell(written)
    if args.figures:
        request = FigureRequest(command, args.channel, tuple(args.figure_slices or ()))
        for file in write_figures(source, written.summaries, page.with_name(f"{page.stem}_figures"), request):
            print(f"figure: {file}")


def _training(args: argparse.Namespace) -> tuple[ReportSource, Path]:
    dataset_name = resolve_dataset_name(args.d)
    if args.p is not None and len(args.p) != 1:
        raise ConfigurationError("-p with -d is the name of one plans; folders to compare with go to -compare")
    model = find_model(Path(), dataset_name, args.tr, args.p[0] if args.p else None)
    fold = args.f or _only_fold(model)
    raw = RawDataset(raw_root() / dataset_name)
    source = training_source(model, fold, raw, args.compare or (), args.names or (), prompt_reading(args))
    return source, model.path / f"fold_{fold}" / "report.html"


def _predictions(args: argparse.Namespace) -> tuple[ReportSource, Path]:
    folders = [Path(p) for p in args.p]
    prompts = args.prompts or _prompts_of(folders[0], args.i)
    source = prediction_source(args.i, folders, args.names or (), args.ref, prompts, args.djfile, prompt_reading(args))
    return source, folders[0] / "report.html"


def _prompts_of(predictions: Path, images: Path) -> Path | None:
    """The folder of prompts that predictions were made with, by their record, else the one beside the images."""
    record = read_origin(predictions, "Remove it, or name the folder of prompts with -prompts.")
    if record is None or "prompts" not in record:
        sibling = prompts_beside(images)
        return sibling if sibling is not None and sibling.is_dir() else None
    given = record["prompts"]
    if not isinstance(given, str):  # none, or a list of files
        return None
    if not Path(given).is_dir():
        logger.warning(
            "the prompts that %s was made with, %s, are not there; none are shown, unless you name their folder with "
            "-prompts",
            predictions,
            given,
        )
        return None
    return Path(given)


def _only_fold(model: ModelFolder) -> str:
    folds = model.folds()
    if len(folds) != 1:
        raise ModelError(f"{model.path} has the folds {', '.join(folds) or 'none'}; choose one with -f")
    return folds[0]


def _tell(written: WrittenReport) -> None:
    size = written.page.stat().st_size / 1e6
    print(f"report: {written.page} ({size:.1f} MB)")
    if written.folder is not None:
        print(f"its cases: {written.folder} ({sum(written.case_bytes) / 1e6:.1f} MB); keep both together")


def _processes(wanted: int | None, n_cases: int) -> int:
    if wanted is not None and wanted < 1:
        raise ConfigurationError(f"-np {wanted}: at least 1 process is needed")
    return wanted or max(1, min(default_processes(), n_cases // _CASES_PER_PROCESS))


def _check(args: argparse.Namespace) -> None:
    """Raise ConfigurationError unless the options are those of one kind of report."""
    given = {f"-{name}" for name in ("d", "i", "f", "tr", "ref", "prompts", "djfile", "compare") if getattr(args, name)}
    if ("-d" in given) == ("-i" in given):
        raise ConfigurationError("give either -d (a trained fold) or -i and -p (folders of images and predictions)")
    wrong = given & ({"-ref", "-prompts", "-djfile"} if "-d" in given else {"-f", "-tr", "-compare"})
    if wrong:
        raise ConfigurationError(f"{', '.join(sorted(wrong))} cannot be used with {'-d' if '-d' in given else '-i'}")
    if "-i" in given and not args.p:
        raise ConfigurationError("-i needs -p, one or several folders of predictions")
    if args.figure_slices and not args.figures:
        raise ConfigurationError("-figure_slices needs --figures")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("spd_report", description=main.__doc__)
    training = parser.add_argument_group("of a trained fold")
    training.add_argument("-d", metavar="ID", help="data set, number or name")
    training.add_argument("-f", metavar="FOLD", help="fold (default: the only one trained)")
    training.add_argument("-tr", metavar="NAME", help="trainer (default: the only one trained)")
    training.add_argument(
        "-compare", nargs="+", type=Path, metavar="FOLDER", help="show these predictions of the same cases beside it"
    )
    folders = parser.add_argument_group("of predictions")
    folders.add_argument("-i", type=Path, metavar="FOLDER", help="images, CASE_0000.nii.gz")
    folders.add_argument("-ref", type=Path, metavar="FOLDER", help="label maps to compare with (labelsTs)")
    folders.add_argument(
        "-prompts", type=Path, metavar="FOLDER", help="prompt files (default: promptsTs beside imagesTs)"
    )
    folders.add_argument(
        "-djfile", type=Path, metavar="FILE", help="dataset.json (default: beside predictions or images)"
    )
    parser.add_argument(
        "-p", nargs="+", metavar="NAME", help="with -d: the plans (default: the only ones trained); with -i: folders "
        "of predictions, shown side by side"
    )  # fmt: skip
    parser.add_argument("-names", nargs="+", metavar="NAME", help="what to call the folders of -p, or of -compare")
    parser.add_argument("-o", type=Path, metavar="FILE", help="the report (default: report.html in the fold or in -p)")
    parser.add_argument("-cases", nargs="+", metavar="CASE", help="only these cases")
    parser.add_argument("-channel", type=int, default=0, metavar="N", help="channel of the image to show, from 0")
    parser.add_argument(
        "--split", action="store_true", help="put every case into a file of its own (else only if all exceed 20 MB)"
    )
    parser.add_argument("--figures", action="store_true", help="also draw figures for papers, PNG and PDF")
    parser.add_argument(
        "-figure_slices", nargs="+", metavar="CASE=SLICE", help="what the figures show (default: cases from worst to "
        "best, the slice with the largest target)"
    )  # fmt: skip
    parser.add_argument(
        "-np", type=int, metavar="N", help="processes (default: one for four cases, at most one per core)"
    )
    add_prompt_reading(parser)
    return parser
