"""`spd_find_best`: SPD and nnU-Net on the same folds, and which of them or which pair is best."""

from __future__ import annotations

import argparse

from spdnet.cli.common import entry_point
from spdnet.comparison import Comparison, choose_models, find_best
from spdnet.errors import ConfigurationError
from spdnet.parallel import default_processes
from spdnet.paths import resolve_dataset_name


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Compare trained models of spdnet and nnU-Net, and their ensembles, by nnU-Net's own function."""
    args = _parser().parse_args(argv)
    if len(set(args.f)) < len(args.f) or min(args.f) < 0:
        raise ConfigurationError(f"-f {' '.join(map(str, args.f))}: give each fold once, numbers from 0")
    dataset_name = resolve_dataset_name(args.dataset)
    models, left_out = choose_models(dataset_name, args.m, args.f)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    n_processes = default_processes() if args.np is None else args.np
    comparison = find_best(
        dataset_name, models, args.f, n_processes, not args.disable_ensembling, not args.no_overwrite
    )
    print(f"\n{format_table(comparison)}\n\nHow to predict with it: {comparison.instructions_file}")


def format_table(comparison: Comparison) -> str:
    """A line per model and ensemble, the best first."""
    width = max(len(name) for name in comparison.mean_dice)
    lines = [f"{'model':{width}}  mean Dice"]
    for name, dice in sorted(comparison.mean_dice.items(), key=lambda item: (item[0] != comparison.best, -item[1])):
        lines.append(f"{name:{width}}  {dice:9.4f}")
    lines.append(f"best: {comparison.best}, {comparison.mean_dice_postprocessed:.4f} with postprocessing")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("spd_find_best", description=main.__doc__)
    parser.add_argument("dataset", help="data set number or name")
    parser.add_argument(
        "-m",
        nargs="+",
        metavar="MODEL",
        help="models, TRAINER__PLANS__CONFIGURATION (default: all that have the folds)",
    )
    parser.add_argument("-f", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="FOLD", help="folds (default: 0-4)")
    parser.add_argument("-np", type=int, metavar="N", help="processes")
    parser.add_argument("--disable_ensembling", action="store_true", help="compare single models only")
    parser.add_argument("--no_overwrite", action="store_true", help="keep what an earlier comparison made")
    return parser
