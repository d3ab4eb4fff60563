"""nnU-Net v2 2d from its own package, planned by its own planner: plain, and with the points as further channels.

A channel holds a Gaussian for every point of a class, raw or of SPD's consensus, and is named "noNorm", so that nnU-Net
takes it as it is; its augmentation of intensities acts on all channels alike. Consensus points of training volumes come
from a saliency that has seen their labels, as in SPD.

Every other time SPD draws points that imitate those of the training files instead of reading these. With imitated
points each training volume is there several times here, once with the points of its file and else with such draws. The
planner lets a batch hold at most a twentieth of the data set, for which the copies do not count.

It is trained on all training volumes and predicts with its last weights and its mirroring, its defaults.

    python -m evidence.methods.nnunet RAW -images FOLDER -prompts FOLDER -plans FILE -o FOLDER

writes the images of a folder with such channels: with `--around` a channel for each slice around, too, with
`-imitations N` also N copies of each with imitated points.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from evidence.case_prediction import prepared_cases
from evidence.consensus import CONSENSUS_ALONE, OWN_SLICE_ALONE, Distiller
from evidence.jobs import RunRecord
from evidence.lone_pieces import drop_lone_pieces
from evidence.methods.base import Method
from evidence.methods.spd import PLANS, STAGE1, device, plan, shared_stage1
from evidence.workspace import EXECUTABLES, Workspace
from spdnet.cli.common import entry_point
from spdnet.comparison.point_channels import CHANNEL_NAME, channel_file, point_channels, write_channel
from spdnet.dataset import RawDataset
from spdnet.files import make_folder, write_json
from spdnet.inference.steps import PreparedCase
from spdnet.network.precision import get_device
from spdnet.planning import SPDPlans, SPDSettings, StoredCase
from spdnet.prompts import SlicePrompts
from spdnet.training.prompt_source import draw_prompts

TRAINER, NNUNET_PLANS = "nnUNetTrainerBudget", "nnUNetPlans"
TRAINERS = Path(__file__).parents[2] / "nnunet_trainers"
PROCESSES = str(min(4, os.cpu_count() or 1))
DATASETS = {  # number and end of the name
    "raw": (998, "RawChannel"),
    "imitated": (997, "ImitatedChannel"),
    "consensus": (999, "ConsensusChannel"),
    "around": (996, "AroundChannel"),
}
IMITATED = "_imitated"  # between the names of a volume and of its copy
IMITATIONS = 3  # of each training volume, beside the volume with the points of its file
FILES_ALONE = (
    "in training it sees the points of the files alone; SPD and the other methods also imitations of them, unless these"
    " form lines"
)
LAST_SHARE = 0.25  # of the epochs, over which the slope of the pseudo-Dice is told
RISING = 0.001  # an epoch; a pseudo-Dice with a larger slope at the end was still rising


@dataclass(frozen=True)
class NNUNet(Method):
    """nnU-Net.

    Attributes:
        points: what its further channels show; "around": the raw points of each slice and, a channel each, of the
            slices around it, as far as SPD's dense prompt is given them.
        drops_lone_pieces: whether pieces of its masks without any of the given points are dropped, which SPD does where
            its training cases say so.
        sees_voxels: as nnU-Net plans for itself.
        model_of: name of the method that its model is one with; its own if empty.
    """

    sees_voxels: ClassVar[bool] = True
    points: Literal["none", "raw", "imitated", "consensus", "around"] = "none"
    drops_lone_pieces: bool = False
    model_of: str = ""

    @property
    def model_name(self) -> str:
        """Name of the method that its model is trained for."""
        return self.model_of or self.name

    def missing(self, workspace: Workspace) -> str | None:
        """Whether the package is there."""
        return "needs the package nnunetv2" if importlib.util.find_spec("nnunetv2") is None else None

    def notes(self, workspace: Workspace) -> list[str]:
        """Whether more epochs would have helped."""
        dices = pseudo_dices(self._model(workspace) / "fold_all")
        return [progress(dices, workspace.budget.nnunet_epochs)]

    def remarks(self, record: RunRecord) -> list[str]:
        """Whether the stored pseudo-Dice was still rising, and which points it did not get."""
        found = {
            "none": [],
            "raw": [FILES_ALONE, OWN_SLICE_ALONE],
            "around": [FILES_ALONE],
            "imitated": [OWN_SLICE_ALONE],
            "consensus": [CONSENSUS_ALONE, OWN_SLICE_ALONE],
        }[self.points]
        slopes = [float(m.group(1)) for note in record.notes for m in re.finditer(r"([+-][\d.]+) an epoch", note)]
        if any(slope > RISING for slope in slopes):
            found.append(f"its pseudo-Dice was still rising by more than {RISING} an epoch; longer training might help")
        return found

    def training_steps(self) -> list[str]:
        """Its own, and the shared stage 1 if that gives it its points."""
        return [f"{self.model_name}/train", *([STAGE1] if self.points == "consensus" else [])]

    def train(self, workspace: Workspace) -> None:
        """Make the channels, let nnU-Net plan and preprocess, and train, going on where it stopped."""
        folder = self._model(workspace) / "fold_all"
        if (folder / "checkpoint_final.pth").exists():
            return
        if self.points != "none":
            self._make_dataset(workspace)
        self._plan(workspace)
        command: list[str | Path] = ["nnUNetv2_train", self._dataset(workspace), "2d", "all", "-tr", TRAINER]
        command += _device(workspace)
        if (folder / "checkpoint_latest.pth").exists():
            command.append("--c")
        self._run(workspace, command, "train")

    def predict(self, workspace: Workspace, prompts: Path, output: Path) -> None:
        """Predict all test cases."""
        images = workspace.raw / "imagesTs"
        if self.points != "none":
            images = workspace.root / "channels" / self.name
            shutil.rmtree(images, ignore_errors=True)
            self._make_images(workspace, workspace.raw / "imagesTs", prompts, images, "predict")
        workers = _workers(workspace)
        command: list[str | Path] = ["nnUNetv2_predict", "-i", images, "-o", output, "-d", self._dataset(workspace)]
        command += ["-tr", TRAINER, "-c", "2d", "-f", "all", "-npp", workers, "-nps", workers, *_device(workspace)]
        self._run(workspace, command, "predict")
        if self.drops_lone_pieces:
            drop_lone_pieces(workspace.raw, prompts, output)

    def _plan(self, workspace: Workspace) -> None:
        dataset = self._dataset(workspace)
        done = workspace.preprocessed(dataset) / f"{NNUNET_PLANS}_2d.complete"  # beside: it must hold cases alone
        if done.exists():
            return
        number = str(int(dataset[len("Dataset") :][:3]))
        command: list[str | Path] = ["nnUNetv2_plan_and_preprocess", "-d", number, "-c", "2d"]
        self._run(workspace, [*command, "-npfp", PROCESSES, "-np", PROCESSES], "train")
        if self.points == "imitated":
            _divide_batch(workspace.preprocessed(dataset) / f"{NNUNET_PLANS}.json", 1 + IMITATIONS)
        done.touch()

    def _make_dataset(self, workspace: Workspace) -> None:
        """The raw data set with channels; whole or absent."""
        raw, target = RawDataset(workspace.raw), workspace.raw.with_name(self._dataset(workspace))
        if target.exists():
            return
        partial = workspace.root / f"{self.model_name}_in_the_making"
        shutil.rmtree(partial, ignore_errors=True)
        self._make_images(workspace, raw.folder / "imagesTr", raw.folder / "promptsTr", partial / "imagesTr", "train")
        make_folder(partial / "labelsTr")
        first_channel = _channel_files("", range(1), raw.file_ending)[0]
        for image in sorted((partial / "imagesTr").glob(f"*{first_channel}")):
            case = image.name.removesuffix(first_channel)
            label = f"{case.split(IMITATED)[0]}{raw.file_ending}"
            (partial / "labelsTr" / f"{case}{raw.file_ending}").symlink_to(raw.folder / "labelsTr" / label)
        n_cases = len(list((partial / "labelsTr").iterdir()))
        n_channels = len(list((partial / "imagesTr").iterdir())) // n_cases
        names = [*raw.channel_names, *[CHANNEL_NAME] * (n_channels - raw.n_channels)]
        channels = {str(index): name for index, name in enumerate(names)}
        write_json(partial / "dataset.json", {**raw.dataset_json, "channel_names": channels, "numTraining": n_cases})
        partial.rename(target)

    def _make_images(self, workspace: Workspace, images: Path, prompts: Path, output: Path, what: str) -> None:
        plan(workspace, workspace.raw.name)
        command: list[str | Path] = ["python", "-m", "evidence.methods.nnunet", workspace.raw, "-images", images]
        command += ["-prompts", prompts, "-plans", workspace.preprocessed() / f"{PLANS}.json", "-o", output]
        if self.points == "consensus":
            command += ["-stage1", shared_stage1(workspace)]
        if self.points == "around":
            command.append("--around")
        if self.points == "imitated" and what == "train":
            cases = workspace.preprocessed() / f"{PLANS}_2d"
            command += ["-imitations", str(IMITATIONS), "-cases", cases, "-seed", str(workspace.setting.seed)]
        self._measure(workspace, [*command, *device(workspace)], what)

    def _measure(self, workspace: Workspace, command: list[str | Path], what: str) -> None:
        """Run a part of "train" or "predict"."""
        name = self.model_name if what == "train" else self.name
        workspace.run(command, f"{name}_{what}", f"{name}/{what}")

    def _run(self, workspace: Workspace, command: list[str | Path], what: str) -> None:
        variables: dict[str, object] = {
            "nnUNet_extTrainer": TRAINERS,
            "nnUNet_compile": "f",  # what it computes is the same
            "nnUNet_def_n_proc": PROCESSES,
            "nnUNet_n_proc_DA": _workers(workspace),
            "NNUNET_EPOCHS": workspace.budget.nnunet_epochs,
            "NNUNET_SEED": workspace.setting.seed,
        }
        if command[0] == "nnUNetv2_plan_and_preprocess":  # it cannot do without a process
            variables["nnUNet_n_proc_DA"] = PROCESSES
        settings = [f"{name}={value}" for name, value in variables.items()]
        self._measure(workspace, ["env", *settings, EXECUTABLES / command[0], *command[1:]], what)

    def _dataset(self, workspace: Workspace) -> str:
        if self.points == "none":
            return workspace.raw.name
        number, ending = DATASETS[self.points]
        return f"Dataset{number}_{workspace.raw.name.split('_', 1)[1]}_{ending}"

    def _model(self, workspace: Workspace) -> Path:
        return workspace.results(self._dataset(workspace)) / f"{TRAINER}__{NNUNET_PLANS}__2d"


def pseudo_dices(folder: Path) -> np.ndarray:
    """Mean pseudo-Dice of every epoch, float64 (E,), from nnU-Net's logs of a training that may have been continued.

    An epoch that was done again counts as it was the last time.
    """
    by_epoch: dict[int, float] = {}
    epoch = -1
    for log in sorted(folder.glob("training_log_*.txt"), key=lambda f: f.stat().st_mtime):
        for line in log.read_text(encoding="utf-8").splitlines():
            if begun := re.search(r": Epoch (\d+) *$", line):
                epoch = int(begun[1])
            elif scores := re.search(r"Pseudo dice \[(.*)\]", line):
                values = re.findall(r"(?<![\w.])(nan|\d+(?:\.\d*)?(?:e-?\d+)?)(?![\w.])", scores[1])
                by_epoch[epoch] = float(np.nanmean([float(v) for v in values]))
    return np.array([by_epoch[e] for e in sorted(by_epoch)])


def progress(dices: np.ndarray, n_epochs: int) -> str:
    """Mean and slope of the pseudo-Dice at the end of a training, in words.

    Args:
        dices: of evenly spaced moments of the training.
        n_epochs: epochs of 250 steps of the whole training.
    """
    last = dices[-max(2, round(LAST_SHARE * len(dices))) :]
    epochs = np.arange(len(last)) * n_epochs / len(dices)
    slope = np.polyfit(epochs, last, 1)[0] if len(last) > 1 else float("nan")
    return (
        f"nnU-Net's pseudo-Dice of training volumes, last {len(last) * n_epochs / len(dices):g} of {n_epochs} epochs: "
        f"{last.mean():.3f}, {slope:+.4f} an epoch"
    )


def _divide_batch(plans_file: Path, divisor: int) -> None:
    """Make the batches of the 2d configuration so much smaller, but of two slices at least."""
    plans = json.loads(plans_file.read_text(encoding="utf-8"))
    configuration = plans["configurations"]["2d"]
    configuration["batch_size"] = max(2, round(configuration["batch_size"] / divisor))
    write_json(plans_file, plans)


def _workers(workspace: Workspace) -> str:
    """Processes that read and prepare beside the network; none where it has the same cores."""
    return "0" if "cpu" in _device(workspace) else PROCESSES


def _device(workspace: Workspace) -> list[str]:
    """nnU-Net's option, which knows no numbers of GPUs and would take CUDA where there is none."""
    name = workspace.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return ["-device", name.split(":")[0]]


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Write images with channels of points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="raw data set")
    parser.add_argument("-images", type=Path, required=True, help="folder of images")
    parser.add_argument("-prompts", type=Path, required=True, help="folder with a prompt file for each case")
    parser.add_argument("-plans", type=Path, required=True, help="SPD's plans file")
    parser.add_argument("-o", type=Path, required=True, help="folder for the images")
    parser.add_argument("-stage1", type=Path, help="checkpoint of SPD: consensus instead of raw points")
    parser.add_argument("--around", action="store_true", help="channels of the slices around, too, as far as SPD's")
    parser.add_argument("-imitations", type=int, default=0, help="copies of each image with imitated points")
    parser.add_argument("-cases", type=Path, help="preprocessed cases, for imitations")
    parser.add_argument("-seed", type=int, default=0, help="of imitations")
    parser.add_argument("-device", help="cuda or cpu (default: CUDA where present)")
    args = parser.parse_args(argv)
    dataset, settings = RawDataset(args.raw), SPDPlans.load(args.plans).settings
    distiller = None
    if args.stage1 is not None:
        distiller = Distiller(settings, len(dataset.labels), args.stage1, get_device(args.device))
    make_folder(args.o)
    for case, points in prepared_cases(args.raw, args.images, args.prompts, settings):
        network_case = case.network_case
        if distiller is not None:
            points = distiller.distill(network_case, points)
        further = _imitations(args, case.case, settings) if args.imitations else iter(())
        for name, shown in ((case.case, points), *further):
            _write_case(args, dataset, case, name, shown, settings.dense_prompt.n_slices if args.around else 0)


def _imitations(args: argparse.Namespace, case: str, settings: SPDSettings) -> Iterator[tuple[str, SlicePrompts]]:
    """Names and points of the copies of a training volume."""
    imitating = replace(settings.prompts, imitated_share=1.0)
    for number in range(args.imitations):
        rng = np.random.default_rng([args.seed, number, zlib.crc32(case.encode())])
        yield f"{case}{IMITATED}{number}", draw_prompts(StoredCase(args.cases, case), imitating, rng)


def _write_case(
    args: argparse.Namespace, dataset: RawDataset, case: PreparedCase, name: str, points: SlicePrompts, reach: int
) -> None:
    """Link the channels of an image under a name, and write those of its points, of `reach` slices to either side."""
    images = range(dataset.n_channels)
    of_case, of_name = (_channel_files(n, images, dataset.file_ending) for n in (case.case, name))
    for source, link in zip(of_case, of_name, strict=True):
        (args.o / link).symlink_to((args.images / source).resolve())
    channels = list(point_channels(points, case.network_case.mapping, len(dataset.labels), reach))
    further = range(dataset.n_channels, dataset.n_channels + len(channels))
    for channel, file in zip(channels, _channel_files(name, further, dataset.file_ending), strict=True):
        write_channel(args.o / file, channel, case.network_case.geometry)


def _channel_files(case: str, channels: range, file_ending: str) -> list[str]:
    return [channel_file(case, channel, file_ending) for channel in channels]


_GROUP = "nnU-Net"
METHODS: dict[str, NNUNet] = {
    m.name: m
    for m in (
        NNUNet("nnunet", "nnU-Net v2, 2d", _GROUP, uses_prompts=False),
        NNUNet("nnunet_raw_points", "nnU-Net v2, 2d, raw points as channel", _GROUP, points="raw"),
        NNUNet(
            "nnunet_raw_points_pieces",
            "nnU-Net v2, 2d, raw points as channel, pieces without points dropped",
            _GROUP,
            points="raw",
            drops_lone_pieces=True,
            model_of="nnunet_raw_points",
        ),
        NNUNet(
            "nnunet_points_around", "nnU-Net v2, 2d, raw points of nine slices as channels", _GROUP, points="around"
        ),
        NNUNet(
            "nnunet_points_around_pieces",
            "nnU-Net v2, 2d, raw points of nine slices as channels, pieces without points dropped",
            _GROUP,
            points="around",
            drops_lone_pieces=True,
            model_of="nnunet_points_around",
        ),
        NNUNet(
            "nnunet_imitated_points", "nnU-Net v2, 2d, raw and imitated points as channel", _GROUP, points="imitated"
        ),
        NNUNet("nnunet_consensus_points", "nnU-Net v2, 2d, consensus points as channel", _GROUP, points="consensus"),
    )
}


if __name__ == "__main__":
    main()
