"""spd_simulate_prompts: write prompt files drawn from the labels of a data set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tqdm import tqdm

from spdnet.cli.common import entry_point
from spdnet.dataset import RawDataset, choose_reader
from spdnet.errors import ConfigurationError, PlansError
from spdnet.geometry.image_geometry import axis_from_name
from spdnet.paths import DEFAULT_PLANS_NAME, preprocessed_root, raw_root, resolve_dataset_name
from spdnet.prompts import NoiseRecipe, PromptStatistics, check_can_simulate, simulate_case, write_markups


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write one prompt file per case."""
    args = _parser().parse_args(argv)
    if args.seed < 0 or (args.true_points is not None and args.true_points < 1):
        raise ConfigurationError("--seed must be 0 or more and --true_points 1 or more")
    recipe = NoiseRecipe(args.inside, args.random[0], args.random[1], args.empty_slices, not args.unnamed)
    name = resolve_dataset_name(args.d)
    dataset = RawDataset(raw_root() / name)
    labels, cases = dataset.labels, dataset.cases(args.s)
    folder = Path(args.o) if args.o else dataset.folder / f"prompts{args.s}"
    check_can_simulate(cases, folder, args.overwrite)
    slicing_axis = _planned_slicing_axis(name)
    folder.mkdir(parents=True, exist_ok=True)
    reader = choose_reader(dataset.dataset_json, cases[0].images[0])
    statistics = PromptStatistics()
    for files in tqdm(cases, desc="simulating prompts", unit="case"):
        markups, counts = simulate_case(files, reader, labels, slicing_axis, args.seed, recipe, args.true_points)
        write_markups(folder / f"{files.case}.mrk.json", markups)
        statistics = statistics + counts
    axis_source = "largest spacing of each case" if slicing_axis is None else "the data set's plans"
    print(f"Wrote prompts of {len(cases)} cases to {folder} (slices by {axis_source}, seed {args.seed})")
    _print_statistics(statistics)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spd_simulate_prompts",
        description="Draw noisy point prompts from the labels of a data set and write them as 3D Slicer markups.",
    )
    parser.add_argument("-d", required=True, metavar="DATASET", help="data set, by number or name")
    parser.add_argument("-s", default="Ts", choices=("Tr", "Ts"), help="which cases: Tr or Ts (default)")
    parser.add_argument("-o", metavar="FOLDER", help="output folder, default promptsTr or promptsTs of the data set")
    parser.add_argument("--seed", "-seed", type=int, default=1, help="random seed, default 1")
    parser.add_argument(
        "-inside",
        type=int,
        default=1,
        metavar="N",
        help="points inside the target in each slice with target, default 1",
    )
    parser.add_argument(
        "-random", type=int, nargs=2, default=(2, 5), metavar=("MIN", "MAX"), help="points anywhere, default 2 5"
    )
    parser.add_argument(
        "-empty_slices",
        default="random",
        choices=("random", "none"),
        help="slices without target get the random points (default) or none",
    )
    parser.add_argument("--unnamed", action="store_true", help="one anonymous set of points for all classes")
    parser.add_argument(
        "--true_points",
        "-true_points",
        type=int,
        metavar="N",
        help="N points inside the target, no noise, for ceilings",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing prompt files")
    return parser


def _planned_slicing_axis(dataset_name: str) -> int | None:
    """Slicing axis of the default plans, or None if the data set has not been planned."""
    try:
        file = preprocessed_root() / dataset_name / f"{DEFAULT_PLANS_NAME}.json"
    except ConfigurationError:
        return None
    if not file.exists():
        return None
    try:
        return axis_from_name(json.loads(file.read_text())["spd"]["slicing_axis"])
    except (ValueError, KeyError, TypeError) as error:
        raise PlansError(
            f"{file} does not say a slicing axis S, P or L under spd, slicing_axis. Run spd_plan_experiment again"
        ) from error


def _print_statistics(statistics: PromptStatistics) -> None:
    rates = statistics.as_floats()
    print(
        f"  points per slice: {rates['points_per_slice']:.2f}\n"
        f"  slices with points: {rates['share_of_slices_with_points']:.1%}\n"
        f"  points inside the target: {rates['share_of_points_inside']:.1%}\n"
        f"  target slices with a point inside: {rates['share_of_target_slices_hit']:.1%}"
    )
    if not statistics.points:
        print("  no points at all: the labels of these cases are empty")


if __name__ == "__main__":
    main()
