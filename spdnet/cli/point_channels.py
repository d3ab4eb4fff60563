"""`spd_points_to_channels` and `spd_drop_lone_pieces`: points for programs that read no prompt files, as nnU-Net."""

from __future__ import annotations

import argparse
from pathlib import Path

from spdnet.cli.common import add_prompt_reading, entry_point, prompt_reading, prompts_beside
from spdnet.cli.planning_options import number_of_processes, raw_dataset
from spdnet.comparison.lone_pieces import drop_lone_pieces
from spdnet.comparison.point_channels import with_prompt_files, write_dataset_with_points, write_images_with_points
from spdnet.dataset import RawDataset
from spdnet.dataset.raw_dataset import find_cases
from spdnet.errors import ConfigurationError
from spdnet.inference.steps import CaseTools
from spdnet.inference.work_list import FileCase
from spdnet.paths import DEFAULT_PLANS_NAME, known_dataset_names, preprocessed_root, raw_root
from spdnet.planning import SPDPlans


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Copy images with their points as further channels: a data set's training cases, or a folder of images."""
    parser = argparse.ArgumentParser("spd_points_to_channels", description=main.__doc__)
    _add_common(parser)
    parser.add_argument("-new", type=int, metavar="ID", help="number of the data set to make, of the training cases")
    parser.add_argument("-i", type=Path, metavar="FOLDER", help="instead of -new: images to copy, CASE_0000.nii.gz")
    parser.add_argument("-o", type=Path, metavar="FOLDER", help="with -i: folder to make")
    parser.add_argument(
        "-n_slices", type=int, metavar="N", help="slices to either side whose points are shown, too (default: SPD's)"
    )
    parser.add_argument("-np", type=number_of_processes, default="", metavar="N", help="processes")
    args = parser.parse_args(argv)
    if (args.new is None) == (args.i is None) or (args.i is None) != (args.o is None):
        raise ConfigurationError(
            "give either -new ID for a data set, or -i FOLDER and -o FOLDER for a folder of images"
        )
    if args.n_slices is not None and args.n_slices < 0:
        raise ConfigurationError(f"-n_slices {args.n_slices} must be 0 or more")
    dataset = raw_dataset(args.d)
    target = _new_dataset(args.new, dataset) if args.i is None else args.o
    tools = _tools(dataset, args)
    n_slices = tools.settings.dense_prompt.n_slices if args.n_slices is None else args.n_slices
    if args.i is None:
        cases = with_prompt_files(dataset.training_cases(), args.prompts or dataset.folder / "promptsTr")
        write_dataset_with_points(dataset, cases, tools, n_slices, target, args.np)
    else:
        write_images_with_points(dataset, _cases(args.i, args, dataset), tools, n_slices, target, args.np)
    n_channels = len(tools.labels) * (2 * n_slices + 1)
    print(f"{target}: images with {n_channels} channels of points behind their own {dataset.n_channels}")


@entry_point
def drop_main(argv: list[str] | None = None) -> None:
    """Copy segmentations without the pieces in which no point of their class lies.

    Right where nearly every piece of the targets holds a point, which spd_train finds out for SPD's own and this does
    not. A class keeps all its pieces where none holds a point.
    """
    parser = argparse.ArgumentParser("spd_drop_lone_pieces", description=drop_main.__doc__)
    _add_common(parser)
    parser.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="images that were segmented")
    parser.add_argument("-pred", type=Path, required=True, metavar="FOLDER", help="segmentations, CASE.nii.gz")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where to")
    args = parser.parse_args(argv)
    dataset = raw_dataset(args.d)
    tools = _tools(dataset, args)
    changed = drop_lone_pieces(_cases(args.i, args, dataset), tools, args.pred, args.o)
    lost = [n for n in changed.values() if n]
    what = f"{sum(lost)} voxels in {len(lost)} of them" if lost else "nothing"
    print(f"{args.o}: {len(changed)} segmentations; dropped: {what}")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, metavar="ID", help="data set, number or name, that SPD has plans for")
    parser.add_argument("-p", default=DEFAULT_PLANS_NAME, metavar="NAME", help="plans (default: %(default)s)")
    parser.add_argument(
        "-prompts",
        type=Path,
        metavar="FOLDER",
        help="prompt files (default: promptsTr with -new, else promptsTs beside imagesTs)",
    )
    add_prompt_reading(parser)


def _tools(dataset: RawDataset, args: argparse.Namespace) -> CaseTools:
    plans = SPDPlans.load_named(preprocessed_root() / dataset.folder.name, args.p)
    return CaseTools(plans.settings, dataset.labels, dataset.reader, dataset.file_ending, prompt_reading(args))


def _cases(images: Path, args: argparse.Namespace, dataset: RawDataset) -> list[FileCase]:
    """The cases of a folder of images, with the prompt files of the folder that is named or stands beside it."""
    prompts = args.prompts or prompts_beside(images) or images
    return with_prompt_files(find_cases(images, dataset.file_ending, dataset.n_channels), prompts)


def _new_dataset(number: int, dataset: RawDataset) -> Path:
    """Folder of a data set that is to be made; its number must be free."""
    if not 0 < number < 1000:
        raise ConfigurationError(f"-new {number}: numbers of data sets are from 1 to 999")
    taken = [name for name in known_dataset_names() if int(name[7:10]) == number]
    if taken:
        raise ConfigurationError(f"-new {number} is the number of {', '.join(taken)}; choose a free one")
    return raw_root() / f"Dataset{number:03d}_{dataset.folder.name[11:]}Points"
