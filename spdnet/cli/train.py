"""`spd_train`: both stages on one fold, then the validation of its held-out cases."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from spdnet.cli.common import entry_point
from spdnet.dataset.raw_dataset import read_dataset_json
from spdnet.errors import ConfigurationError
from spdnet.network.checkpoint import BEST, FINAL, LATEST, read_checkpoint
from spdnet.network.precision import get_device
from spdnet.paths import CONFIGURATION, DEFAULT_PLANS_NAME, preprocessed_root, resolve_dataset_name
from spdnet.planning import SPDPlans
from spdnet.training.determinism import make_deterministic
from spdnet.training.distributed import check_processes, run_in_processes, run_under_torchrun, started_by_torchrun
from spdnet.training.registry import TRAINERS, get_trainer
from spdnet.training.resume import resume_checkpoint
from spdnet.training.stopping import EXIT_STATUS, TrainingStoppedError
from spdnet.training.trackers import TENSORBOARD_FOLDER, TensorBoardTracker, Tracker, WandbTracker
from spdnet.training.trainer import SPDTrainer


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Train SPD on one fold of a data set, then validate the held-out cases."""
    args = _parser().parse_args(argv)
    _check_options(args)
    device = get_device(args.device)
    if started_by_torchrun():
        run_under_torchrun(device, _train, args)
        return
    check_processes(args.num_gpus, device)
    if args.num_gpus > 1:
        status = run_in_processes(args.num_gpus, device, _train, args)
        if status != 0:
            sys.exit(status)
        return
    _train(device, args)


def _train(device: torch.device, args: argparse.Namespace) -> None:
    """Train in this process, alone or as one of a team."""
    if args.deterministic:
        make_deterministic()
    trainer = _build_trainer(args, *_configuration_and_fold(args.rest), device)
    _check_has_prior(args, trainer, may_have=any(_starting_points(args).values()))
    start = _checkpoint_to_load(args, trainer)
    trainer.initialize()
    if start is not None:
        trainer.load_checkpoint(start)
        _check_seed(args, trainer)
        trainer.print_to_log_file(f"using {start}" if args.val else f"continuing from {start}")
    elif args.c:
        trainer.print_to_log_file(f"nothing to continue in {trainer.fold_folder}: training from the beginning")
    elif args.stage1_from is not None:
        trainer.start_from_stage1(args.stage1_from)
    elif args.pretrained_weights is not None:
        trainer.load_pretrained_weights(args.pretrained_weights)
    if not args.val:
        _check_has_prior(args, trainer, may_have=trainer.has_saliency)
        trainer.trackers = _trackers(args, trainer, start is not None) if trainer.team.is_main else []
        try:
            trainer.run_training()
        except TrainingStoppedError:
            sys.exit(EXIT_STATUS)
        if args.val_best:
            trainer.load_checkpoint(trainer.fold_folder / BEST)
    trainer.perform_actual_validation(args.npz)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("spd_train", description=main.__doc__)
    parser.add_argument("dataset", help="data set number or name")
    parser.add_argument("rest", nargs="+", metavar="[2d] FOLD", help="fold: 0 to 4, or all")
    parser.add_argument(
        "-tr", default="SPDTrainer", metavar="NAME", help=f"trainer: one of {', '.join(TRAINERS)}, or your own"
    )
    parser.add_argument("-p", default=DEFAULT_PLANS_NAME, metavar="NAME", help="name of the plans")
    parser.add_argument("-device", help="cuda, cuda:1, cpu, mps (default: CUDA where present, else cpu)")
    parser.add_argument("-epochs", nargs=2, type=int, metavar=("N1", "N2"), help="epochs of the stages, for trials")
    parser.add_argument(
        "-batch_size",
        type=int,
        metavar="N",
        help="slices per batch of both stages (default: the plans'), all GPUs together",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of everything random (default: 0; with --c: as before)")
    parser.add_argument(
        "--deterministic", action="store_true", help="on CUDA: the same result from the same seed, but slower"
    )
    parser.add_argument("--c", action="store_true", help="continue an interrupted training")
    parser.add_argument("--val", action="store_true", help="only validate a finished training")
    parser.add_argument("--val_best", action="store_true", help="validate with the best checkpoint, not the final one")
    parser.add_argument("--npz", action="store_true", help="also save the validation's probabilities, for ensembles")
    parser.add_argument(
        "-pretrained_weights", type=Path, metavar="FILE", help="start from the weights of this checkpoint of spdnet"
    )
    parser.add_argument(
        "-num_gpus", type=int, default=1, metavar="N", help="GPUs that share every batch (with -device cpu: processes)"
    )
    parser.add_argument(
        "--disable_checkpointing",
        action="store_true",
        help="a trial: write no checkpoints, and all else to fold_X/trial",
    )
    parser.add_argument("--overwrite", action="store_true", help="train anew over a finished or interrupted training")
    parser.add_argument("--tensorboard", action="store_true", help="also write the curves for TensorBoard")
    parser.add_argument(
        "--wandb", action="store_true", help="also log to Weights & Biases (WANDB_MODE=offline: without connection)"
    )
    parser.add_argument(
        "-stage1_from", type=Path, metavar="FILE", help="take stage 1 from this checkpoint and train stage 2 only"
    )
    parser.add_argument(
        "--keep_embeddings",
        action="store_true",
        help="keep what stage 2 stores of the slices in nnUNet_preprocessed, for other trainings on the same stage 1",
    )
    return parser


def _configuration_and_fold(rest: list[str]) -> tuple[str, int | str]:
    """Read `[2d] FOLD`; the configuration may be left out because there is only one."""
    if len(rest) == 2 and rest[0] != CONFIGURATION:
        raise ConfigurationError(f"configuration {rest[0]!r} does not exist; spdnet has only {CONFIGURATION}")
    if len(rest) > 2:
        raise ConfigurationError(f"too many arguments: {' '.join(rest)}; usage: spd_train DATASET [2d] FOLD")
    fold = rest[-1]
    if fold != "all" and not (fold.isascii() and fold.isdigit()):
        raise ConfigurationError(f"fold {fold!r} is neither a number from 0 nor 'all'")
    return CONFIGURATION, "all" if fold == "all" else int(fold)


def _check_options(args: argparse.Namespace) -> None:
    """Raise ConfigurationError for options that exclude each other, as nnU-Net does."""
    if args.c and args.val:
        raise ConfigurationError("--c continues a training, --val only validates one; give one of them")
    starts = [option for option, given in _starting_points(args).items() if given]
    if len(starts) > 1:
        raise ConfigurationError(f"{' and '.join(starts)} exclude each other: a training has one starting point")
    if args.val_best and args.disable_checkpointing:
        raise ConfigurationError("--val_best needs a checkpoint that --disable_checkpointing would not write")
    if args.num_gpus != 1 and started_by_torchrun():
        raise ConfigurationError(f"-num_gpus {args.num_gpus}: under torchrun --nproc_per_node says how many")
    if args.batch_size is not None and args.batch_size < 1:
        raise ConfigurationError(f"-batch_size {args.batch_size}: give 1 or more")
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise ConfigurationError(f"--seed {args.seed}: give a whole number from 0, below 2^63")
    _configuration_and_fold(args.rest)


def _starting_points(args: argparse.Namespace) -> dict[str, bool]:
    return {
        "--c": args.c,
        "--val": args.val,
        "-stage1_from": args.stage1_from is not None,
        "-pretrained_weights": args.pretrained_weights is not None,
    }


def _checkpoint_to_load(args: argparse.Namespace, trainer: SPDTrainer) -> Path | None:
    """The checkpoint that the training continues from or that is validated; None to train anew.

    Raises:
        ConfigurationError: it is not there, or a finished training would be lost.
    """
    folder = trainer.fold_folder
    if args.val:
        wanted = folder / (BEST if args.val_best else FINAL)
        if not wanted.exists():
            there = resume_checkpoint(folder)
            hint = f"it has {there.name}; finish the training with --c" if there is not None else "train first"
            raise ConfigurationError(f"--val: {folder} holds no {wanted.name}; {hint}")
        return wanted
    if args.c:
        return resume_checkpoint(folder)
    if args.disable_checkpointing:
        return None
    if (folder / FINAL).exists() and not args.overwrite:
        raise ConfigurationError(
            f"{folder} already holds a finished training. Give --val to only validate it again, or --overwrite to "
            "train anew and replace it."
        )
    if (folder / LATEST).exists() and not args.overwrite:
        _check_nothing_is_lost(folder / LATEST)
    return None


def _check_nothing_is_lost(latest: Path) -> None:
    """Raise ConfigurationError if a checkpoint has epochs that a new training would destroy."""
    epochs = read_checkpoint(latest)["current_epoch"]
    if epochs > 0:
        raise ConfigurationError(
            f"{latest.parent} holds a training that was interrupted after {epochs} epochs. Give --c to continue it, or "
            "--overwrite to train anew and replace it."
        )


def _check_seed(args: argparse.Namespace, trainer: SPDTrainer) -> None:
    """Raise ConfigurationError if a training is to be continued with another seed."""
    if args.c and args.seed is not None and args.seed != trainer.seed:
        raise ConfigurationError(
            f"--seed {args.seed}: the training to continue was begun with seed {trainer.seed}; leave the option out"
        )


def _trackers(args: argparse.Namespace, trainer: SPDTrainer, resumed: bool) -> list[Tracker]:
    """The services that the options ask for.

    Raises:
        ConfigurationError: the package of one is not installed.
    """
    trackers: list[Tracker] = []
    folder = trainer.output_folder
    if args.tensorboard:
        trackers.append(TensorBoardTracker(folder / TENSORBOARD_FOLDER, len(trainer.log.records)))
    if args.wandb:
        name = f"{trainer.plans.dataset_name} {folder.parent.name} {folder.name}"
        trackers.append(WandbTracker(folder, "spdnet", name, trainer.plans.to_dict()["spd"], resumed))
    return trackers


def _check_has_prior(args: argparse.Namespace, trainer: SPDTrainer, may_have: bool) -> None:
    """Raise ConfigurationError if points would be judged by a saliency head that nothing has trained.

    Args:
        args, trainer: of the command.
        may_have: whether an earlier training may have trained it.
    """
    settings = trainer.settings
    judges = settings.distillation.mode != "raw" or settings.dense_prompt.mode == "maps"
    if settings.stage1.epochs == 0 and judges and not may_have:
        raise ConfigurationError(
            f"{args.tr} with 0 epochs of stage 1 has no saliency to judge points by; give at least 1, or a trained "
            "stage 1 with -stage1_from"
        )


def _build_trainer(args: argparse.Namespace, configuration: str, fold: int | str, device: torch.device) -> SPDTrainer:
    folder = preprocessed_root() / resolve_dataset_name(args.dataset)
    plans = SPDPlans.load_named(folder, args.p)
    if args.epochs is not None:
        s = plans.settings
        first, second = args.epochs
        if min(first, second) < 0:
            raise ConfigurationError(f"-epochs {first} {second}: epochs must be 0 or more")
        settings = replace(s, stage1=replace(s.stage1, epochs=first), stage2=replace(s.stage2, epochs=second))
        reasons = {**plans.reasons, "epochs": f"-epochs {first} {second} on the command line"}
        plans = replace(plans, settings=settings, reasons=reasons)
    if args.batch_size is not None:
        s, n = plans.settings, args.batch_size
        settings = replace(s, stage1=replace(s.stage1, batch_size=n), stage2=replace(s.stage2, batch_size=n))
        reasons = {**plans.reasons, "batch_size": f"-batch_size {n} on the command line"}
        plans = replace(plans, settings=settings, reasons=reasons)
    dataset_json = read_dataset_json(folder / "dataset.json")
    trainer_class = get_trainer(args.tr)
    seed = 0 if args.seed is None else args.seed
    trainer = trainer_class(plans.to_dict(), configuration, fold, dataset_json, device, seed, args.keep_embeddings)
    trainer.disable_checkpointing = args.disable_checkpointing
    return trainer
