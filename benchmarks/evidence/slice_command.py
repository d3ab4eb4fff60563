"""The command that trains a model of single slices on a preprocessed data set, or predicts the test cases with it.

    python -m evidence.slice_command train unet -raw RAW -preprocessed FOLDER -model MODEL -steps 1500 -seed 0
    python -m evidence.slice_command predict unet -raw RAW -preprocessed FOLDER -model MODEL -prompts FOLDER -o OUT

A training that SIGTERM has ended goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from evidence.case_prediction import predict_test_cases
from evidence.consensus import Distiller
from evidence.methods import medsam, sam_adapter, unets
from evidence.methods.spd import PLANS
from evidence.slice_method import SliceMethod
from evidence.slice_models import predict_slices
from evidence.slice_training import load_trained, train_slices
from evidence.slices import DrawPoints, PromptedSlices
from evidence.training_points import ConsensusPoints, RawPoints, no_points, stored_saliency
from spdnet.cli.common import entry_point
from spdnet.dataset import RawDataset
from spdnet.errors import ConfigurationError
from spdnet.inference.pieces import drop_where_others_are_confirmed
from spdnet.inference.prompting import points_of_classes
from spdnet.network.precision import get_device
from spdnet.planning import NetworkCase, SPDPlans, SPDSettings, StoredCase
from spdnet.prompts import SlicePrompts
from spdnet.training.stopping import EXIT_STATUS, TrainingStoppedError

METHODS: dict[str, SliceMethod] = {**unets.METHODS, **medsam.METHODS, **sam_adapter.METHODS}


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Train or predict."""
    args = _parser().parse_args(argv)
    (train if args.what == "train" else predict)(args)


def train(args: argparse.Namespace) -> None:
    """Train on all preprocessed cases; exits with SIGTERM's status if that has ended it."""
    method, device = METHODS[args.method], get_device(args.device)
    plans, n_classes = SPDPlans.load(args.preprocessed / f"{PLANS}.json"), len(RawDataset(args.raw).labels)
    folder, settings = args.preprocessed / plans.data_identifier, plans.settings
    cases = [StoredCase(folder, case) for case in StoredCase.list(folder)]
    points = training_points(method, cases, settings, _distiller(args, settings, n_classes), args.model)
    batch_size, reach = settings.stage1.batch_size, method.reach(settings)
    data = PromptedSlices(cases, points, settings.augmentation, batch_size, args.seed, reach)
    torch.manual_seed(args.seed)
    model = method.build(settings, n_classes)
    try:
        train_slices(model, data, args.steps, args.model, device)
    except TrainingStoppedError:
        sys.exit(EXIT_STATUS)


def predict(args: argparse.Namespace) -> None:
    """Predict all test cases."""
    method, device = METHODS[args.method], get_device(args.device)
    settings, n_classes = SPDPlans.load(args.preprocessed / f"{PLANS}.json").settings, len(RawDataset(args.raw).labels)
    distiller = _distiller(args, settings, n_classes)
    model = method.build(settings, n_classes)
    load_trained(model, args.model, device)

    def segment(name: str, case: NetworkCase, prompts: SlicePrompts) -> np.ndarray:
        given = prompts if distiller is None else distiller.distill(case, prompts)
        found = predict_slices(model, case.slices, given, settings.stage1.batch_size, device)
        if method.drops_lone_pieces:
            _drop_lone_pieces(found, points_of_classes(prompts, found, settings.image_size))
        return found

    predict_test_cases(args.raw, args.prompts, args.o, settings, segment)


def _drop_lone_pieces(probabilities: np.ndarray, points_syx: list[np.ndarray]) -> None:
    """Set pieces (S, k, M, M) without a point of their class to 0, in place, in classes where some piece holds one."""
    for k, points in enumerate(points_syx):
        drop_where_others_are_confirmed(probabilities[:, k], points)


def training_points(
    method: SliceMethod, cases: list[StoredCase], settings: SPDSettings, distiller: Distiller | None, model_folder: Path
) -> DrawPoints:
    """Where a method's training points come from; the saliency behind a consensus is kept in the model's folder."""
    if method.points == "none":
        return no_points
    raw = RawPoints(cases, settings)
    if distiller is None:
        return raw
    return ConsensusPoints(raw, stored_saliency(distiller, cases, model_folder / "saliency"))


def _distiller(args: argparse.Namespace, settings: SPDSettings, n_classes: int) -> Distiller | None:
    if METHODS[args.method].points != "consensus":
        return None
    if args.stage1 is None:
        raise ConfigurationError(f"{args.method} needs -stage1, which makes its consensus points")
    return Distiller(settings, n_classes, args.stage1, get_device(args.device))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("train", "predict"):
        command = commands.add_parser(name)
        command.add_argument("method", choices=METHODS)
        command.add_argument("-raw", type=Path, required=True, help="raw data set")
        command.add_argument("-preprocessed", type=Path, required=True, help="its folder in nnUNet_preprocessed")
        command.add_argument("-model", type=Path, required=True, help="folder of the model")
        command.add_argument("-stage1", type=Path, help="checkpoint of SPD, for consensus points")
        command.add_argument("-device", help="cuda or cpu (default: CUDA where present)")
        if name == "train":
            command.add_argument("-steps", type=int, required=True, help="of the optimiser")
            command.add_argument("-seed", type=int, required=True)
        else:
            command.add_argument("-o", type=Path, required=True, help="folder of the predictions")
            command.add_argument("-prompts", type=Path, help="folder with a prompt file for each test case")
    return parser


if __name__ == "__main__":
    main()
