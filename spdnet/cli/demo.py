"""`spd_demo`: the whole pipeline on a phantom that it makes itself, ending in a table and a picture.

It runs the same entry points that users run and shows their command lines.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from spdnet.cli import evaluate, plan_and_preprocess, predict, train
from spdnet.cli.common import entry_point
from spdnet.dataset import RawDataset
from spdnet.demo.explain import draw_case
from spdnet.demo.phantom import DATASET_NAME, write_tube_phantom
from spdnet.errors import ConfigurationError

IMAGE_SIZE = "56"  # small, so that two CPU cores finish in minutes; the planner would choose 112
METHODS = {
    "SPD": "SPDTrainer",
    "raw points": "SPDTrainerRawPrompts",
}


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Make a tube phantom, then plan, train, predict and evaluate on it with the lite backbone."""
    args = _parser().parse_args(argv)
    start = time.perf_counter()
    folder = _new_folder(args.o)
    for name in ("raw", "preprocessed", "results"):
        (folder / f"nnUNet_{name}").mkdir()
        os.environ[f"nnUNet_{name}"] = str(folder / f"nnUNet_{name}")
    print(f"Everything goes to {folder}\nTo go on working there:")
    print("".join(f"  export nnUNet_{n}={folder / f'nnUNet_{n}'}\n" for n in ("raw", "preprocessed", "results")))
    raw = write_tube_phantom(folder / "nnUNet_raw", args.n_train, args.n_test, args.seed)
    print(f"phantom: {args.n_train} training and {args.n_test} test volumes in {raw}")
    if args.data_only:
        return
    predictions = _run_pipeline(args, folder, raw)
    _print_table(predictions)
    picture = folder / "demo.png"
    _draw_picture(picture, raw, folder, predictions, args.device)
    print(f"\npicture: {picture}\n{(time.perf_counter() - start) / 60:.1f} minutes in all")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("spd_demo", description=main.__doc__)
    parser.add_argument("-o", type=Path, help="folder to make (default: spd_demo, spd_demo_2, ... here)")
    parser.add_argument("-n_train", type=int, default=24, help="training volumes (default: %(default)s)")
    parser.add_argument("-n_test", type=int, default=6, help="test volumes (default: %(default)s)")
    parser.add_argument(
        "-epochs", nargs=2, default=["8", "6"], metavar=("N1", "N2"), help="of the stages (default: 8 6)"
    )
    parser.add_argument("-device", default=None, help="cuda or cpu (default: CUDA where present)")
    parser.add_argument("--seed", type=int, default=0, help="of phantom and training (default: 0)")
    parser.add_argument("--data_only", action="store_true", help="only make the data set")
    return parser


def _new_folder(wanted: Path | None) -> Path:
    """Make a folder that did not exist; raises ConfigurationError if the one asked for does."""
    if wanted is not None:
        if wanted.exists():
            raise ConfigurationError(f"-o {wanted} exists already; the demo only writes into a new folder")
        folder = wanted.absolute()
    else:
        candidates = [Path(f"spd_demo{f'_{i}' if i > 1 else ''}").absolute() for i in range(1, 1000)]
        folder = next(c for c in candidates if not c.exists())
    folder.mkdir(parents=True)
    return folder


def _run_pipeline(args: argparse.Namespace, folder: Path, raw: Path) -> dict[str, Path]:
    """Run every command; returns the folder of predictions of each method."""
    device = ["-device", args.device] if args.device else []
    seed = ["--seed", str(args.seed)]
    _command(
        "spd_plan_and_preprocess",
        plan_and_preprocess.main,
        ["-d", "501", "-sam", "lite", "-image_size", IMAGE_SIZE, *device],
    )
    _command("spd_train", train.main, ["501", "all", "-epochs", *args.epochs, *seed, *device])
    results = folder / "nnUNet_results" / DATASET_NAME
    stage1 = results / "SPDTrainer__SPDPlans__2d" / "fold_all" / "checkpoint_final.pth"
    other = ["-tr", METHODS["raw points"], "-stage1_from", str(stage1)]
    _command("spd_train", train.main, ["501", "all", *other, "-epochs", *args.epochs, *seed, *device])
    images = ["-i", str(raw / "imagesTs")]
    predictions = {}
    for method, trainer in METHODS.items():
        predictions[method] = folder / f"predictions_{trainer}"
        arguments = [*images, "-o", str(predictions[method]), "-tr", trainer, *device]
        _command("spd_predict", predict.main, arguments)
    predictions["saliency alone"] = folder / "predictions_saliency"
    arguments = [*images, "-o", str(predictions["saliency alone"]), "-tr", "SPDTrainer", "--no_prompts", *device]
    _command("spd_predict", predict.main, arguments)
    for method in predictions:
        _command("spd_evaluate", evaluate.main, ["-ref", str(raw / "labelsTs"), "-pred", str(predictions[method])])
    return predictions


def _command(name: str, function: Callable[[list[str]], None], arguments: list[str]) -> None:
    print(f"\n$ {name} {' '.join(arguments)}")
    function(arguments)


def _print_table(predictions: dict[str, Path]) -> None:
    """Mean over the test volumes, with 95 % intervals, as spd_evaluate left them."""
    print(f"\n{'method':<16} {'slice DSC':>10} {'95 % interval':>18} {'volume Dice':>12} {'95 % interval':>18}")
    for method, folder in predictions.items():
        scores = json.loads((folder / evaluate.RESULT_FILE).read_text(encoding="utf-8"))["mean"]
        cells = []
        for metric, width in (("dsc", 10), ("volume_dice", 12)):
            mean, low, high = (100 * (scores[metric][key] or 0.0) for key in ("mean", "low", "high"))
            interval = f"{low:.1f} to {high:.1f}"
            cells.append(f"{mean:>{width}.1f} {interval:>18}")
        print(f"{method:<16} {' '.join(cells)}")


def _draw_picture(file: Path, raw: Path, folder: Path, predictions: dict[str, Path], device: str | None) -> None:
    """Slices of the first test volume, in its network frame."""
    dataset = RawDataset(raw)
    case = dataset.cases("Ts")[0]
    model = folder / "nnUNet_results" / DATASET_NAME / "SPDTrainer__SPDPlans__2d"
    assert case.label is not None
    label_maps = {m: dataset.reader.read_label(p / case.label.name, case.case)[0] for m, p in predictions.items()}
    draw_case(file, case, model, label_maps, device)
