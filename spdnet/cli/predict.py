"""`spd_predict`: a folder of images, with their prompts, to segmentations."""

from __future__ import annotations

import argparse
from pathlib import Path

from spdnet.cli.common import entry_point
from spdnet.errors import ConfigurationError, PromptFileError
from spdnet.files import write_json
from spdnet.inference import SPDPredictor, find_model
from spdnet.paths import resolve_dataset_name


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Segment all images of a folder with a trained model."""
    args = _parser().parse_args(argv)
    if not args.i.is_dir():
        raise ConfigurationError(f"-i {args.i}: no such folder")
    dataset_name = resolve_dataset_name(args.d) if args.d is not None else None
    model = find_model(args.i, dataset_name, args.tr, args.p)
    prompts = None if args.no_prompts else args.prompts or sibling_prompts(args.i)
    if prompts is not None and not prompts.is_dir():
        raise PromptFileError(f"prompts folder {prompts} does not exist; name one with -prompts or use --no_prompts")
    print(f"model: {model.path}")
    if prompts is None:
        print("prompts: none; predicting from the saliency prior alone")
    else:
        print(f"prompts: {prompts}")
    predictor = SPDPredictor(args.device, allow_tqdm=not args.disable_progress_bar)
    predictor.initialize_from_trained_model_folder(model.path, args.f, args.chk)
    predictor.predict_from_files(args.i, args.o, prompts, args.save_probabilities)
    arguments = {key: str(value) for key, value in vars(args).items()}
    write_json(
        args.o / "predict_from_raw_data_args.json", {**arguments, "model": str(model.path), "prompts": str(prompts)}
    )
    print(f"predictions written to {args.o}")


def sibling_prompts(input_folder: Path) -> Path:
    """`promptsTs` beside `imagesTs`.

    Raises:
        PromptFileError: there is no such folder; says how to give prompts.
    """
    folder = input_folder.absolute()
    sibling = folder.with_name(folder.name.replace("images", "prompts", 1))
    if sibling != folder and sibling.is_dir():
        return sibling
    raise PromptFileError(
        f"no prompts for {input_folder}: {sibling if sibling != folder else 'a folder beside it'} does not exist. Put "
        "Slicer markups CASE.mrk.json there, name their folder with -prompts FOLDER, make simulated ones from labels "
        "with spd_simulate_prompts, or run on the images alone with --no_prompts (the saliency prior of stage 1)."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("spd_predict", description=main.__doc__)
    parser.add_argument("-i", type=Path, required=True, help="folder of images, CASE_0000.nii.gz")
    parser.add_argument("-o", type=Path, required=True, help="folder for the predictions")
    parser.add_argument(
        "-d", metavar="ID", help="data set (default: the one that -i lies in, else the only one trained)"
    )
    parser.add_argument("-tr", metavar="NAME", help="trainer (default: the only one trained)")
    parser.add_argument("-p", metavar="NAME", help="plans (default: the only ones trained)")
    parser.add_argument("-c", default="2d", choices=["2d"], help="configuration")
    parser.add_argument("-f", nargs="+", metavar="FOLD", help="folds to average (default: all that are trained)")
    parser.add_argument(
        "-chk", default="checkpoint_final.pth", metavar="FILE", help="checkpoint (default: %(default)s)"
    )
    parser.add_argument(
        "-prompts", type=Path, metavar="FOLDER", help="prompt files (default: promptsTs beside imagesTs)"
    )
    parser.add_argument("--no_prompts", action="store_true", help="predict from the saliency prior alone")
    parser.add_argument("--save_probabilities", action="store_true", help="also write nnU-Net's CASE.npz")
    parser.add_argument("-device", help="cuda, cuda:1, cpu, mps (default: CUDA where present, else cpu)")
    parser.add_argument("--disable_progress_bar", action="store_true")
    return parser
