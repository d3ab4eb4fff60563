"""`spd_train`: both stages on one fold, then the validation of its held-out cases."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from spdnet.cli.common import entry_point
from spdnet.dataset.raw_dataset import read_dataset_json
from spdnet.errors import ConfigurationError
from spdnet.network.precision import get_device
from spdnet.paths import CONFIGURATION, DEFAULT_PLANS_NAME, preprocessed_root, resolve_dataset_name
from spdnet.planning import SPDPlans
from spdnet.training.registry import TRAINERS, get_trainer
from spdnet.training.trainer import SPDTrainer, resume_checkpoint


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Train SPD on one fold of a data set, then validate the held-out cases."""
    args = _parser().parse_args(argv)
    configuration, fold = _configuration_and_fold(args.rest)
    device = get_device(args.device)
    trainer = _build_trainer(args, configuration, fold, device)
    _check_has_prior(args, trainer)
    continued = resume_checkpoint(trainer.output_folder) if args.c or args.val else None
    if args.val and continued is None:
        raise ConfigurationError(f"--val: {trainer.output_folder} holds no checkpoint to validate; train first")
    if not (args.c or args.val) and (trainer.output_folder / "checkpoint_final.pth").exists() and not args.overwrite:
        raise ConfigurationError(
            f"{trainer.output_folder} already holds a finished training. Give --c to only validate it again, or "
            "--overwrite to train anew and replace it."
        )
    trainer.initialize()
    if continued is not None:
        trainer.load_checkpoint(continued)
        trainer.print_to_log_file(f"continuing from {continued}")
    elif args.stage1_from is not None:
        trainer.start_from_stage1(args.stage1_from)
    if not args.val:
        trainer.run_training()
    trainer.perform_actual_validation()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("spd_train", description=main.__doc__)
    parser.add_argument("dataset", help="data set number or name")
    parser.add_argument("rest", nargs="+", metavar="[2d] FOLD", help="fold: 0 to 4, or all")
    parser.add_argument("-tr", default="SPDTrainer", metavar="NAME", help=f"trainer: {', '.join(TRAINERS)}")
    parser.add_argument("-p", default=DEFAULT_PLANS_NAME, metavar="NAME", help="name of the plans")
    parser.add_argument("-device", help="cuda, cuda:1, cpu, mps (default: CUDA where present, else cpu)")
    parser.add_argument("-epochs", nargs=2, type=int, metavar=("N1", "N2"), help="epochs of the stages, for trials")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--c", action="store_true", help="continue an interrupted training")
    parser.add_argument("--val", action="store_true", help="validate only")
    parser.add_argument("--overwrite", action="store_true", help="train anew over a finished training")
    parser.add_argument(
        "-stage1_from", type=Path, metavar="FILE", help="take stage 1 from this checkpoint and train stage 2 only"
    )
    parser.add_argument(
        "--keep_embeddings",
        action="store_true",
        help="keep stage 2's encoded slices in nnUNet_preprocessed, for other trainings on the same stage 1",
    )
    return parser


def _configuration_and_fold(rest: list[str]) -> tuple[str, int | str]:
    """Read `[2d] FOLD`; the configuration may be left out because there is only one."""
    if len(rest) == 2 and rest[0] != CONFIGURATION:
        raise ConfigurationError(f"configuration {rest[0]!r} does not exist; spdnet has only {CONFIGURATION}")
    if len(rest) > 2:
        raise ConfigurationError(f"too many arguments: {' '.join(rest)}; usage: spd_train DATASET [2d] FOLD")
    fold = rest[-1]
    if fold != "all" and not fold.isdigit():
        raise ConfigurationError(f"fold {fold!r} is neither a number from 0 nor 'all'")
    return CONFIGURATION, "all" if fold == "all" else int(fold)


def _check_has_prior(args: argparse.Namespace, trainer: SPDTrainer) -> None:
    """Raise ConfigurationError if points would be distilled by a saliency head that nothing has trained."""
    settings = trainer.settings
    continues = args.c or args.val or args.stage1_from is not None
    if settings.stage1.epochs == 0 and settings.distillation.mode == "consensus" and not continues:
        raise ConfigurationError(
            f"{args.tr} with 0 epochs of stage 1 has no saliency to judge points by; give at least 1, or a trained "
            "stage 1 with -stage1_from"
        )


def _build_trainer(args: argparse.Namespace, configuration: str, fold: int | str, device: object) -> SPDTrainer:
    folder = preprocessed_root() / resolve_dataset_name(args.dataset)
    plans = SPDPlans.load(folder / f"{args.p}.json")
    if args.epochs is not None:
        s = plans.settings
        first, second = args.epochs
        if min(first, second) < 0:
            raise ConfigurationError(f"-epochs {first} {second}: epochs must be 0 or more")
        settings = replace(s, stage1=replace(s.stage1, epochs=first), stage2=replace(s.stage2, epochs=second))
        reasons = {**plans.reasons, "epochs": f"-epochs {first} {second} on the command line"}
        plans = replace(plans, settings=settings, reasons=reasons)
    dataset_json = read_dataset_json(folder / "dataset.json")
    trainer_class = get_trainer(args.tr)
    return trainer_class(plans.to_dict(), configuration, fold, dataset_json, device, args.seed, args.keep_embeddings)  # type: ignore[arg-type]
