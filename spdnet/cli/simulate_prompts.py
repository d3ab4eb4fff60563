"""spd_simulate_prompts: write prompt files drawn from the labels of a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

import spdnet
from spdnet.cli.common import entry_point, planned_slicing_axis
from spdnet.dataset import RawDataset, choose_reader
from spdnet.errors import ConfigurationError
from spdnet.files import make_folder
from spdnet.paths import raw_root, resolve_dataset_name
from spdnet.prompts import PromptStatistics, check_can_simulate, simulate_case, write_markups
from spdnet.prompts.noise_modes import make_recipe
from spdnet.prompts.simulate_files import RECORD_FILE, Simulation, read_record, write_record

# Options of each mode, by the attribute of the recipe that they set.
_OPTIONS: dict[str, dict[str, str]] = {
    "recipe": {
        "inside": "inside_points",
        "random": "min_random_points max_random_points",
        "empty_slices": "empty_slices",
    },
    "true_points": {"true_points": "points_per_slice"},
    "centreline": {
        "uncovered": "uncovered",
        "overrun": "overrun_mm",
        "drift": "drift_mm",
        "drift_length": "drift_length_mm",
        "as_points": "",
    },
    "bad_points": {"bad": "bad", "points_per_slice": "points_per_slice", "empty_slices": "empty_slices"},
    "displaced": {"displacement": "displacement_mm", "points_per_slice": "points_per_slice"},
    "boxes": {"box_enlarge": "enlarge", "box_shift": "shift", "box_per_slice": "per_slice"},
}
_COMMON_OPTIONS = ("mode", "drop", "seed", "unnamed")
_SWITCHES = ("true_points", "as_points", "box_per_slice", "unnamed")


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write one prompt file per case."""
    args = _parser().parse_args(argv)
    name = resolve_dataset_name(args.d)
    simulation = _simulation(args, name)
    dataset = RawDataset(raw_root() / name)
    labels, cases = dataset.labels, dataset.cases(args.s)
    folder = Path(args.o) if args.o else dataset.folder / f"prompts{args.s}"
    check_can_simulate(cases, folder, args.overwrite, simulation)
    reader = choose_reader(dataset.dataset_json, cases[0].images[0])
    make_folder(folder)
    write_record(folder, simulation)
    statistics = PromptStatistics()
    for files in tqdm(cases, desc="simulating prompts", unit="case"):
        markups, counts = simulate_case(files, reader, labels, simulation)
        write_markups(folder / f"{files.case}.mrk.json", markups)
        statistics = statistics + counts
    axis_source = "largest spacing of each case" if simulation.slicing_axis is None else "the data set's plans"
    if args.replay:
        axis_source = "the replayed record"
    print(f"Wrote prompts of {len(cases)} cases to {folder} (slices by {axis_source}, seed {simulation.seed})")
    _print_statistics(statistics)
    print(f"  draw the same again with: -replay {folder / RECORD_FILE}")


def _simulation(args: argparse.Namespace, dataset_name: str) -> Simulation:
    """What to draw, from the options or the record to replay."""
    given = {name for name, value in vars(args).items() if value is not None and value is not False}
    if args.replay:
        options = {name for options in _OPTIONS.values() for name in options}
        if contradicting := sorted(given & (options | set(_COMMON_OPTIONS))):
            raise ConfigurationError(
                f"-replay draws by the record alone; leave out {', '.join(map(_flag, contradicting))}"
            )
        simulation, version = read_record(Path(args.replay))
        if version != spdnet.__version__:
            print(f"note: {args.replay} was drawn by spdnet {version}, this is {spdnet.__version__}; points may differ")
        return simulation
    seed = 1 if args.seed is None else args.seed
    if seed < 0 or (args.true_points is not None and args.true_points < 1):
        raise ConfigurationError("--seed must be 0 or more and --true_points 1 or more")
    mode = _mode(args)
    _check_options(given, mode)
    parameters = {**_parameters(args, mode), "named": not args.unnamed}
    recipe = make_recipe(mode, parameters, args.drop or 0.0)
    return Simulation(recipe, seed, planned_slicing_axis(dataset_name), args.as_points)


def _mode(args: argparse.Namespace) -> str:
    if args.true_points is None:
        return str(args.mode or "recipe")
    if args.mode is not None:
        raise ConfigurationError(f"--true_points and -mode {args.mode} draw different points; give one of them")
    return "true_points"


def _check_options(given: set[str], mode: str) -> None:
    """Refuse options of other modes, which would have no effect."""
    for other, options in _OPTIONS.items():
        for name in options:
            if name in given and name not in _OPTIONS[mode]:
                where = "--true_points" if mode == "true_points" else f"-mode {mode}"
                raise ConfigurationError(f"{_flag(name)} belongs to -mode {other} and has no effect with {where}")


def _flag(name: str) -> str:
    """An option as it is typed."""
    return f"--{name}" if name in _SWITCHES else f"-{name}"


def _parameters(args: argparse.Namespace, mode: str) -> dict[str, Any]:
    """Values of the recipe's attributes that were given."""
    parameters: dict[str, Any] = {}
    for option, attributes in _OPTIONS[mode].items():
        value = getattr(args, option)
        if value is None or not attributes:
            continue
        names = attributes.split()
        parameters.update(zip(names, value if len(names) > 1 else [value], strict=True))
    return parameters


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spd_simulate_prompts",
        description="Draw noisy prompts from the labels of a data set and write them as 3D Slicer markups, with a "
        f"record of how, {RECORD_FILE}, beside them.",
    )
    parser.add_argument("-d", required=True, metavar="DATASET", help="data set, by number or name")
    parser.add_argument("-s", default="Ts", choices=("Tr", "Ts"), help="which cases: Tr or Ts (default)")
    parser.add_argument("-o", metavar="FOLDER", help="output folder, default promptsTr or promptsTs of the data set")
    parser.add_argument("--overwrite", action="store_true", help="replace existing prompt files")
    parser.add_argument("--seed", "-seed", type=int, help="random seed, default 1")
    parser.add_argument(
        "-mode",
        choices=[mode for mode in _OPTIONS if mode != "true_points"],
        help="recipe (default): the paper's, true points and points anywhere; centreline: a smooth curve that drifts, "
        "runs on beyond the target and leaves part of it uncovered; bad_points: a share of points outside; displaced: "
        "true points moved; boxes: coarse boxes",
    )
    parser.add_argument("-drop", type=float, metavar="SHARE", help="any mode: share of target slices without prompts")
    parser.add_argument("--unnamed", action="store_true", help="one anonymous set of prompts for all classes")
    parser.add_argument("-replay", metavar="FILE", help=f"draw as a {RECORD_FILE} says, with all its parameters")
    _add_point_options(parser)
    _add_curve_and_box_options(parser)
    return parser


def _add_point_options(parser: argparse.ArgumentParser) -> None:
    points = parser.add_argument_group("points (-mode recipe, bad_points, displaced)")
    points.add_argument(
        "-inside", type=int, metavar="N", help="recipe: points inside the target in each slice with target, default 1"
    )
    points.add_argument(
        "-random", type=int, nargs=2, metavar=("MIN", "MAX"), help="recipe: points anywhere, default 2 5"
    )
    points.add_argument(
        "-empty_slices",
        choices=("random", "none"),
        help="recipe, bad_points: slices without target get points too (random, default) or not (none)",
    )
    points.add_argument(
        "--true_points",
        "-true_points",
        type=int,
        metavar="N",
        help="instead of a mode: N points inside the target in each of its slices, no noise, for ceilings",
    )
    points.add_argument("-bad", type=float, metavar="SHARE", help="bad_points: share outside the target, default 0.5")
    points.add_argument(
        "-points_per_slice", type=int, metavar="N", help="bad_points (default 4), displaced (default 1)"
    )
    points.add_argument("-displacement", type=float, metavar="MM", help="displaced: mean distance, default 5")


def _add_curve_and_box_options(parser: argparse.ArgumentParser) -> None:
    curves = parser.add_argument_group("drifting centrelines (-mode centreline)")
    curves.add_argument(
        "-uncovered", type=float, metavar="SHARE", help="share of target slices that the curve misses, default 0.2"
    )
    curves.add_argument(
        "-overrun", type=float, metavar="MM", help="how far it runs on beyond either end of the target, default 20"
    )
    curves.add_argument("-drift", type=float, metavar="MM", help="root mean square distance off the axis, default 3")
    curves.add_argument("-drift_length", type=float, metavar="MM", help="distance over which it drifts, default 30")
    curves.add_argument("--as_points", action="store_true", help="write point lists instead of curves")
    boxes = parser.add_argument_group("coarse boxes (-mode boxes)")
    boxes.add_argument(
        "-box_enlarge",
        type=float,
        metavar="SHARE",
        help="each edge moves outward by up to this share of the target's size, default 0.5",
    )
    boxes.add_argument(
        "-box_shift", type=float, metavar="SHARE", help="the box moves by up to this share of its size, default 0.2"
    )
    boxes.add_argument(
        "--box_per_slice", action="store_true", default=None, help="a box in each slice, not one for the volume"
    )


def _print_statistics(statistics: PromptStatistics) -> None:
    if statistics.is_unnamed and statistics.together is not None:  # they speak for all classes, not for each
        statistics = statistics.together
    rates = statistics.as_floats()
    if statistics.boxes:
        print(
            f"  target slices with a box: {rates['share_of_target_slices_with_box']:.1%}\n"
            f"  overlap (IoU) of boxes with the target's own, mean: {rates['mean_box_iou']:.2f}"
        )
        return
    print(
        f"  points per slice: {rates['points_per_slice']:.2f}\n"
        f"  slices with points: {rates['share_of_slices_with_points']:.1%}\n"
        f"  points inside the target: {rates['share_of_points_inside']:.1%}\n"
        f"  target slices with a point inside: {rates['share_of_target_slices_hit']:.1%}"
    )
    if statistics.median_outside_mm is not None:
        print(f"  distance of outside points from the target, median: {statistics.median_outside_mm:.1f} mm")
    if not statistics.points:
        print("  no points at all: the labels of these cases are empty")


if __name__ == "__main__":
    main()
