"""Options that the planning commands share, and the three steps they run."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
import shutil
import time
from pathlib import Path

import torch

from spdnet.cli.common import add_prompt_reading, prompt_reading
from spdnet.dataset import RawDataset, verify_dataset_integrity
from spdnet.dataset.raw_dataset import check_prompt_endings
from spdnet.errors import ConfigurationError, DatasetError, SPDError
from spdnet.files import copy_file, make_folder
from spdnet.network.backbones import get_backbone
from spdnet.network.precision import get_device
from spdnet.parallel import default_processes
from spdnet.paths import (
    CONFIGURATION,
    DEFAULT_PLANS_NAME,
    FINGERPRINT_FILE,
    preprocessed_root,
    raw_root,
    resolve_dataset_name,
)
from spdnet.planning import PLANNERS, Fingerprint, SPDPlans, SPDPreprocessor, extract_fingerprint
from spdnet.planning.plans import was_edited
from spdnet.planning.raw_files import RawFiles

CPU_MEMORY_GB = 8.0  # what training on a CPU may use


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """`-d`."""
    parser.add_argument("-d", nargs="+", required=True, metavar="ID", help="data set numbers or names, one or more")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """`-np`, `-frame` and `--outside`, and `-c` for nnU-Net's habit."""
    add_prompt_reading(parser)
    parser.add_argument(
        "-np",
        type=number_of_processes,
        default="",
        metavar="N",
        help="processes (default: nnUNet_def_n_proc, at most one per core)",
    )
    parser.add_argument("-c", nargs="+", default=[CONFIGURATION], choices=[CONFIGURATION], help="there is only 2d")


def number_of_processes(text: str) -> int:
    """A number of processes; the default, of the environment, for the empty text."""
    return int(text) if text else default_processes()


def add_fingerprint_options(parser: argparse.ArgumentParser) -> None:
    """Options of the fingerprint step, which measures again if a raw file is new, gone or changed."""
    parser.add_argument(
        "--verify_dataset_integrity", action="store_true", help="also check counts and the test cases; measure again"
    )
    parser.add_argument("--clean", action="store_true", help="measure again even if no file has changed")


def add_planner_options(parser: argparse.ArgumentParser) -> None:
    """Options of the planning step."""
    parser.add_argument("-pl", default="SPDPlanner", choices=list(PLANNERS), help="planner class")
    parser.add_argument("-sam", metavar="NAME", help="SAM backbone: lite, vit_b, vit_l, vit_h (default: by the device)")
    parser.add_argument(
        "-image_size",
        type=int,
        help="side of the network's input, pixels: whole tokens, 4 px each (lite) or 16 (vit_*) (default: by the data)",
    )
    parser.add_argument(
        "-device",
        help="where training will run: cuda or cpu (default: CUDA where present; cuda on another machine needs "
        "-gpu_memory_target)",
    )
    parser.add_argument(
        "-overwrite_target_spacing",
        nargs="+",
        type=float,
        metavar="MM",
        help="side of the network's pixels, mm: one number, or two equal ones (slices are never resampled)",
    )
    parser.add_argument(
        "-gpu_memory_target",
        type=float,
        metavar="GB",
        help=f"memory to plan for (default: the GPU's, or {CPU_MEMORY_GB:g} on a CPU)",
    )
    parser.add_argument("-overwrite_plans_name", default=DEFAULT_PLANS_NAME, metavar="NAME", help="name of the plans")


def raw_dataset(dataset: str) -> RawDataset:
    """The raw data set of a number or name.

    Raises:
        DatasetError: it has no folder in nnUNet_raw.
    """
    name = resolve_dataset_name(dataset)
    folder = raw_root() / name
    if not folder.is_dir():
        raise DatasetError(f"{folder} does not exist; {name} is known from nnU-Net's other folders only")
    return RawDataset(folder)


def preprocessed_folder(dataset: RawDataset) -> Path:
    """The data set's folder in nnUNet_preprocessed, made if need be."""
    folder = preprocessed_root() / dataset.folder.name
    make_folder(folder)
    return folder


def run_fingerprint(dataset: RawDataset, args: argparse.Namespace) -> tuple[Fingerprint, bool]:
    """Measure the data set, or read the fingerprint that is there if it was measured from the same files.

    Returns:
        The fingerprint, and whether it is new: all cases are checked then.
    """
    check_prompt_endings(dataset.folder / "promptsTr")
    if args.verify_dataset_integrity:
        verify_dataset_integrity(dataset)
    file = preprocessed_folder(dataset) / FINGERPRINT_FILE
    if file.exists() and not args.clean and not args.verify_dataset_integrity:
        fingerprint = Fingerprint.load(file)
        why = fingerprint.out_of_date(RawFiles.of(dataset.folder, dataset.training_cases(), prompt_reading(args)))
        if why is None:
            print(f"{dataset.folder.name}: using the fingerprint {file} of the same files (measure again with --clean)")
            return fingerprint, False
        print(f"{dataset.folder.name}: measuring again, as the fingerprint {file} is out of date ({why})")
    fingerprint = extract_fingerprint(dataset, args.np, prompt_reading(args))
    fingerprint.save(file)
    print(f"{dataset.folder.name}: fingerprint of {len(fingerprint.cases)} cases written to {file}")
    return fingerprint, True


def warn_if_out_of_date(fingerprint: Fingerprint) -> None:
    """Warn if the raw files are at hand and not those that a fingerprint was measured from."""
    folder = Path(os.environ.get("nnUNet_raw") or "/nowhere") / fingerprint.dataset_name
    before = fingerprint.measured_from
    if before is None or not (folder / "dataset.json").is_file():
        return
    try:
        now = RawFiles.of(folder, RawDataset(folder).training_cases(), before.reading)
    except SPDError as error:
        print(f"warning: {fingerprint.dataset_name}: whether the fingerprint is out of date cannot be told: {error}")
        return
    if why := before.difference(now):
        print(
            f"warning: {fingerprint.dataset_name}: the fingerprint is out of date ({why}). Run spd_extract_fingerprint "
            "first, which measures again"
        )


def check_planner_options(args: argparse.Namespace) -> None:
    """Check the options of the planning step before any work.

    Raises:
        ConfigurationError: the device is not there, the backbone unknown, or a number impossible.
    """
    planned_device(args)
    if args.sam is not None:
        get_backbone(args.sam)
    if args.image_size is not None and args.image_size < 1:
        raise ConfigurationError(f"-image_size {args.image_size} must be positive")
    target_spacing(args)
    if "__" in args.overwrite_plans_name or "/" in args.overwrite_plans_name:
        raise ConfigurationError(
            f"-overwrite_plans_name {args.overwrite_plans_name}: names must not hold __ or /, which divide the parts "
            "of a model folder's name"
        )
    if args.gpu_memory_target is not None and not 0 < args.gpu_memory_target < math.inf:
        raise ConfigurationError(f"-gpu_memory_target {args.gpu_memory_target:g} must be positive")
    if args.image_size is not None and args.sam is not None:
        get_backbone(args.sam).check_image_size(args.image_size)


def planned_device(args: argparse.Namespace) -> str:
    """Where training will run, "cuda" or "cpu"; with `-device cuda` and the memory of a GPU it may be elsewhere.

    Raises:
        ConfigurationError: the device is not there, and not known well enough to plan for it elsewhere.
    """
    is_gpu = args.device is not None and re.fullmatch(r"cuda(:\d+)?", args.device) is not None
    if is_gpu and args.gpu_memory_target is not None:
        return "cuda"
    try:
        return "cuda" if get_device(args.device).type == "cuda" else "cpu"
    except ConfigurationError as error:
        if not is_gpu:
            raise
        raise ConfigurationError(
            f"{error}. To plan for a GPU of another machine, give its memory as well, with -gpu_memory_target"
        ) from error


def target_spacing(args: argparse.Namespace) -> float | None:
    """The one spacing that `-overwrite_target_spacing` asks for, mm, or None.

    Raises:
        ConfigurationError: it is not one positive number or two equal ones.
    """
    given = args.overwrite_target_spacing
    if given is None:
        return None
    if len(given) > 2 or len(set(given)) > 1 or not 0 < given[0] < math.inf:
        raise ConfigurationError(
            f"-overwrite_target_spacing {' '.join(f'{v:g}' for v in given)}: give the side of a pixel in mm, one "
            "positive number or two equal ones. The network's pixels are square, and the distance of slices is kept"
        )
    return float(given[0])


def run_planner(fingerprint: Fingerprint, args: argparse.Namespace) -> SPDPlans:
    """Plan, print every decision with its rule, and write the plans."""
    kind = planned_device(args)
    memory = args.gpu_memory_target
    if memory is not None and kind == "cpu" and args.device is None:
        print(f"no GPU here: planning for a CPU with {memory:g} GB; for a GPU elsewhere give -device cuda as well")
    if memory is None and kind == "cuda":
        memory = torch.cuda.get_device_properties(get_device(args.device)).total_memory / 2**30
    elif memory is None:
        memory = CPU_MEMORY_GB
    planner = PLANNERS[args.pl](
        fingerprint,
        kind,
        memory,
        args.sam,
        args.image_size,
        target_spacing(args),
        args.overwrite_plans_name,
        _free_disk_gb(),
    )
    plans = planner.plan()
    file = preprocessed_root() / fingerprint.dataset_name / f"{plans.plans_name}.json"
    if file.exists() and was_edited(file):
        print(f"{fingerprint.dataset_name}: {file} was edited since it was planned; it is kept as {_keep(file)}")
    plans.save(file)
    print(f"{fingerprint.dataset_name}: plans written to {file}")
    for decision, reason in plans.reasons.items():
        print(f"  {decision}: {reason}")
    return plans


def _keep(file: Path) -> Path:
    """Copy a file to a name beside it that tells the time; never over another."""
    start = f"{file.stem}_before_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    names = itertools.chain([start], (f"{start}_{number}" for number in itertools.count(2)))
    copy = next(c for c in (file.with_name(f"{name}.json") for name in names) if not c.exists())
    copy_file(file, copy)
    return copy


def _free_disk_gb() -> float:
    """Free space where trainings are going to write: nnUNet_results, or nnUNet_preprocessed while that is not there."""
    results = Path(os.environ.get("nnUNet_results") or preprocessed_root())
    return shutil.disk_usage(results if results.is_dir() else preprocessed_root()).free / 2**30


def run_preprocessing(
    dataset: RawDataset, plans: SPDPlans, args: argparse.Namespace, cases_checked: bool = False
) -> None:
    """Preprocess all training cases."""
    folder = preprocessed_folder(dataset)
    SPDPreprocessor(dataset, plans, folder).run(args.np, prompt_reading(args), cases_checked)
    print(f"{dataset.folder.name}: preprocessed cases written to {folder / plans.data_identifier}")
