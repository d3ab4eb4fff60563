"""`spd_predict` and `spd_predict_from_modelfolder`: a folder of images, with their prompts, to segmentations."""

from __future__ import annotations

import argparse
from pathlib import Path

from spdnet.cli.common import add_prompt_reading, entry_point, prompt_reading, prompts_beside
from spdnet.errors import ConfigurationError, PromptFileError
from spdnet.inference import ModelFolder, SPDPredictor, find_model
from spdnet.network.precision import get_device
from spdnet.paths import resolve_dataset_name


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Segment all images of a folder with a trained model, found in nnUNet_results."""
    args = _parser().parse_args(argv)
    _check(args)
    dataset_name = resolve_dataset_name(args.d) if args.d is not None else None
    _predict(find_model(args.i, dataset_name, args.tr, args.p), args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("spd_predict", description=main.__doc__)
    _add_folders(parser)
    parser.add_argument(
        "-d",
        metavar="ID",
        help="data set, number or name (default: the one that -i lies in, else the only one trained)",
    )
    parser.add_argument("-tr", metavar="NAME", help="trainer (default: the only one trained)")
    parser.add_argument("-p", metavar="NAME", help="plans (default: the only ones trained)")
    parser.add_argument("-c", default="2d", choices=["2d"], help="configuration")
    parser.add_argument("--continue_prediction", action="store_true", help="skip cases whose files are complete")
    _add_options(parser)
    return parser


@entry_point
def modelfolder_main(argv: list[str] | None = None) -> None:
    """Segment all images of a folder with the trained model of a given folder; needs no environment variables."""
    parser = argparse.ArgumentParser("spd_predict_from_modelfolder", description=modelfolder_main.__doc__)
    _add_folders(parser)
    parser.add_argument("-m", type=Path, required=True, help="model folder, with its folders fold_X")
    parser.add_argument("--continue_prediction", "--c", action="store_true", help="skip cases whose files are complete")
    _add_options(parser)
    args = parser.parse_args(argv)
    _check(args)
    _predict(ModelFolder(args.m), args)


def sibling_prompts(input_folder: Path) -> Path:
    """`promptsTs` beside `imagesTs`.

    Raises:
        PromptFileError: there is no such folder; says how to give prompts.
    """
    sibling = prompts_beside(input_folder)
    if sibling is not None and sibling.is_dir():
        return sibling
    raise PromptFileError(
        f"no prompts for {input_folder}: {sibling or 'a folder beside it'} does not exist. Put "
        "Slicer markups CASE.mrk.json there, name their folder with -prompts FOLDER, make simulated ones from labels "
        "with spd_simulate_prompts, or run on the images alone with --no_prompts."
    )


def _check(args: argparse.Namespace) -> None:
    """Checks that need no model."""
    if not args.i.is_dir():
        raise ConfigurationError(f"-i {args.i}: no such folder")
    if args.prompts is not None and args.no_prompts:
        raise ConfigurationError("-prompts and --no_prompts contradict each other")
    if args.save_prompts and args.no_prompts:
        raise ConfigurationError("--save_prompts needs prompts, which --no_prompts does without")
    get_device(args.device)


def _predict(model: ModelFolder, args: argparse.Namespace) -> None:
    prompts = None if args.no_prompts else args.prompts or sibling_prompts(args.i)
    if prompts is not None and not prompts.is_dir():
        raise PromptFileError(f"prompts folder {prompts} does not exist; name one with -prompts or use --no_prompts")
    print(f"model: {model.path}")
    if prompts is None:
        print("prompts: none; predicting from the images alone")
    else:
        print(f"prompts: {prompts}")
    predictor = SPDPredictor(
        use_mirroring=args.tta,
        device=args.device,
        verbose=args.verbose,
        verbose_preprocessing=args.verbose,
        allow_tqdm=not args.disable_progress_bar,
        prompt_reading=prompt_reading(args),
    )
    predictor.initialize_from_trained_model_folder(model.path, args.f, args.chk)
    predictor.predict_from_files(
        args.i,
        args.o,
        args.save_probabilities,
        overwrite=not args.continue_prediction,
        num_processes_preprocessing=args.npp,
        num_processes_segmentation_export=args.nps,
        num_parts=args.num_parts,
        part_id=args.part_id,
        prompts=prompts,
        save_prompts=args.save_prompts,
        save_saliency=args.save_saliency,
    )
    print(f"predictions written to {args.o}")


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", type=Path, required=True, help="folder of images, CASE_0000.nii.gz")
    parser.add_argument("-o", type=Path, required=True, help="folder for the predictions")


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Options of both commands."""
    parser.add_argument("-f", nargs="+", metavar="FOLD", help="folds to average (default: all that are trained)")
    parser.add_argument(
        "-chk", default="checkpoint_final.pth", metavar="FILE", help="checkpoint (default: %(default)s)"
    )
    parser.add_argument(
        "-prompts", type=Path, metavar="FOLDER", help="prompt files (default: promptsTs beside imagesTs)"
    )
    add_prompt_reading(parser)
    parser.add_argument("--no_prompts", action="store_true", help="predict from the images alone")
    parser.add_argument("--save_probabilities", action="store_true", help="also write nnU-Net's CASE.npz and CASE.pkl")
    parser.add_argument(
        "--save_prompts", action="store_true", help="also write what became of every point, for 3D Slicer and as CSV"
    )
    parser.add_argument(
        "--save_saliency", action="store_true", help="also write the saliency of stage 1, in per cent, for spd_report"
    )
    mirroring = parser.add_mutually_exclusive_group()
    mirroring.add_argument(
        "--tta", action="store_true", help="average over mirrored copies: twice the time, not better where measured"
    )
    mirroring.add_argument("--disable_tta", action="store_true", help="nnU-Net's option; without --tta the default")
    for option, variable, work in (("-npp", "nnUNet_npp", "read images"), ("-nps", "nnUNet_nps", "write predictions")):
        parser.add_argument(
            option,
            type=int,
            metavar="N",
            help=f"processes that {work} beside the network, 0 for none (default: {variable}, else 3 on CUDA and a "
            "thread on a CPU, where the network itself uses all cores)",
        )
    parser.add_argument("-num_parts", type=int, default=1, metavar="N", help="share the cases among N calls")
    parser.add_argument("-part_id", type=int, default=0, metavar="I", help="which of them this is, 0 to N - 1")
    parser.add_argument("-device", help="cuda, cuda:1, cpu, mps (default: CUDA where present, else cpu)")
    parser.add_argument("--verbose", action="store_true", help="say more about each case")
    parser.add_argument("--disable_progress_bar", action="store_true")
