"""SPD beside nnU-Net v2 in the same three folders, and every tool of nnU-Net on what SPD wrote.

    pip install -e ".[nnunet]"
    python benchmarks/nnunet_dropin.py -data DATA -o WORK -case plain -first nnunet

DATA holds Dataset504_Hippocampus (Medical Segmentation Decathlon, Task04) in nnU-Net's raw format. From a few slices of
a few of its cases a data set of one kind is made (`-case`):

    plain         the two labels as they are
    regions       "whole" = anterior and posterior, "posterior", with regions_class_order
    ignore        a part of every label map is marked with the ignore label
    two_channels  the image and a smoothed copy of it
    png2d         one slice of each case, as 8-bit PNG

Starting from an empty folder WORK, both programs are planned and trained on five folds, tiny and on a CPU, the one
named by `-first` before the other. Then each of nnU-Net's tools runs on SPD's model and predictions, and spd_find_best
on both. A command that fails, or a result that is not what it must be, ends the script with an error. What was found
goes to WORK/dropin.json; the output of every command is in WORK/logs.

The Dice that it prints shows that the two can be compared. It says nothing about which is better: neither is trained.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

NAME = "Dataset504_Hippocampus"
KINDS = ("plain", "regions", "ignore", "two_channels", "png2d")
ORDERS = ("nnunet", "spd")
NNUNET = ("nnUNetTrainerShort", "nnUNetPlans")
SPD = ("SPDTrainer", "SPDPlans")
FOLDS = ("0", "1", "2", "3", "4")
IGNORE = 3
N_TEST = 2
BATCH_SIZE = 4
TOLERANCE = 1e-6


class DropInError(Exception):
    """A command failed, or its result is not what it must be."""


@dataclass
class DropIn:
    """One run: where it works, and what has been found so far.

    Attributes:
        work: folder, empty at the start.
        kind: of data set, one of KINDS.
        first: program that is run first, "nnunet" or "spd".
        n_cases: training cases.
        n_slices: of each case, around the target's centre, to save time.
        iterations: training steps per epoch, of either program.
        epochs: of SPD's two stages.
        seconds: of every command.
        found: what is reported.
    """

    work: Path
    kind: str = "plain"
    first: str = "nnunet"
    n_cases: int = 10
    n_slices: int = 12
    iterations: int = 10
    epochs: tuple[int, int] = (1, 1)
    seconds: dict[str, float] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def raw(self) -> Path:
        """The raw data set."""
        return self.work / "nnUNet_raw" / NAME

    @property
    def preprocessed(self) -> Path:
        """The data set in nnUNet_preprocessed."""
        return self.work / "nnUNet_preprocessed" / NAME

    @property
    def results(self) -> Path:
        """The data set in nnUNet_results."""
        return self.work / "nnUNet_results" / NAME

    @property
    def ending(self) -> str:
        """File ending of images and labels."""
        return ".png" if self.kind == "png2d" else ".nii.gz"

    def model(self, program: tuple[str, str]) -> Path:
        """Folder of a trained model, given trainer and plans."""
        return self.results / f"{program[0]}__{program[1]}__2d"

    def crossvalidation(self, program: tuple[str, str]) -> Path:
        """What nnU-Net collects from the five folds."""
        return self.model(program) / f"crossval_results_folds_{'_'.join(FOLDS)}"

    def environment(self, command: str, results: Path | None = None) -> dict[str, str]:
        """Environment of a command; another folder of results if given."""
        folders = {name: str(self.work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        if results is not None:
            folders["nnUNet_results"] = str(results)
        return {
            **os.environ,
            **folders,
            "nnUNet_extTrainer": str(Path(__file__).parent / "nnunet_trainers"),
            "nnUNet_compile": "f",
            "nnUNet_n_proc_DA": "0" if command == "nnUNetv2_train" else "1",  # planning cannot do with 0
            "nnUNet_def_n_proc": "1",
            "DROPIN_ITERATIONS": str(self.iterations),
        }

    def run(self, *arguments: str | Path, results: Path | None = None) -> str:
        """Run a command of the environment that this script runs in; returns what it printed.

        Raises:
            DropInError: its exit status is not 0.
        """
        words = [str(a) for a in arguments]
        program = shutil.which(words[0]) or shutil.which(words[0], path=str(Path(sys.executable).parent))
        if program is None:
            raise DropInError(f'{words[0]} is not installed; pip install -e ".[nnunet]"')
        start = time.perf_counter()
        done = subprocess.run(
            [program, *words[1:]], env=self.environment(words[0], results), text=True, capture_output=True, check=False
        )
        output = done.stdout + done.stderr
        key = f"{len(self.seconds):02d} {' '.join(words[:1] + [w for w in words[1:] if '/' not in w])}"
        self.seconds[key] = round(time.perf_counter() - start, 1)
        logs = self.work / "logs"
        logs.mkdir(exist_ok=True)
        (logs / f"{len(self.seconds) - 1:02d}_{words[0]}.txt").write_text(
            f"{' '.join(words)}\n\n{output}", encoding="utf-8"
        )
        print(f"{self.seconds[key]:6.1f} s  {' '.join(words)}", flush=True)
        if done.returncode:
            raise DropInError(f"{' '.join(words)}: exit status {done.returncode}\n{output[-4000:]}")
        return output

    def check(self, claim: str, holds: bool, details: object = "") -> None:
        """Note a claim that holds; raises `DropInError` if it does not."""
        if not holds:
            raise DropInError(f"{self.kind}, {self.first} first: not so: {claim}. {details}")
        self.found.setdefault("checked", []).append(claim)


# ---- the data set -----------------------------------------------------------------------------------------


def make_dataset(dropin: DropIn, source: Path) -> None:
    """Write a data set of the wanted kind, from the first cases of one with the labels 1 and 2.

    Args:
        source: raw data set of one channel in .nii.gz, with at least `n_cases` + 2 training cases.
    """
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": dropin.n_cases,
        "file_ending": dropin.ending,
    }
    if dropin.kind == "regions":
        description["labels"] = {"background": 0, "whole": [1, 2], "posterior": 2}
        description["regions_class_order"] = [1, 2]
    if dropin.kind == "ignore":
        description["labels"] = {"background": 0, "anterior": 1, "posterior": 2, "ignore": IGNORE}
    if dropin.kind == "two_channels":
        description["channel_names"] = {"0": "MRI", "1": "smoothed"}
    labels = sorted((source / "labelsTr").glob("*.nii.gz"))[: dropin.n_cases + N_TEST]
    if len(labels) < dropin.n_cases + N_TEST:
        raise DropInError(f"{source} has {len(labels)} training cases; {dropin.n_cases + N_TEST} are needed")
    for index, label_file in enumerate(labels):
        case = label_file.name.removesuffix(".nii.gz")
        subset = "Tr" if index < dropin.n_cases else "Ts"
        image = sitk.ReadImage(str(source / "imagesTr" / f"{case}_0000.nii.gz"), sitk.sitkFloat32)
        write_case(dropin, case, subset, image, sitk.ReadImage(str(label_file), sitk.sitkUInt8))
    (dropin.raw / "dataset.json").write_text(json.dumps(description, indent=4), encoding="utf-8")


def write_case(dropin: DropIn, case: str, subset: str, image: sitk.Image, label: sitk.Image) -> None:
    """Write one case as the kind of data set wants it."""
    for kind in ("images", "labels"):
        (dropin.raw / f"{kind}{subset}").mkdir(parents=True, exist_ok=True)
    images, labels = dropin.raw / f"images{subset}", dropin.raw / f"labels{subset}"
    centre = round(float(np.mean(np.nonzero(sitk.GetArrayFromImage(label))[0])))
    first = max(0, min(centre - dropin.n_slices // 2, label.GetDepth() - dropin.n_slices))
    image, label = (volume[:, :, first : first + dropin.n_slices] for volume in (image, label))
    channels = [image]
    if dropin.kind == "two_channels":
        channels.append(sitk.SmoothingRecursiveGaussian(image, 2.0))
    if dropin.kind == "ignore":
        label = with_ignored_part(label)
    if dropin.kind == "png2d":
        z = int(np.argmax([min((plane == 1).sum(), (plane == 2).sum()) for plane in sitk.GetArrayFromImage(label)]))
        channels = [eight_bit(image)[:, :, z]]
        label = label[:, :, z]
    for channel, content in enumerate(channels):
        sitk.WriteImage(content, str(images / f"{case}_{channel:04d}{dropin.ending}"))
    sitk.WriteImage(label, str(labels / f"{case}{dropin.ending}"))


def with_ignored_part(label: sitk.Image) -> sitk.Image:
    """The label map with the last third of its last axis marked as not annotated."""
    array = sitk.GetArrayFromImage(label)
    array[..., 2 * array.shape[-1] // 3 :] = IGNORE
    marked = sitk.GetImageFromArray(array)
    marked.CopyInformation(label)
    return marked


def eight_bit(image: sitk.Image) -> sitk.Image:
    """Intensities from the 1st to the 99th percentile as 0 to 255."""
    array = sitk.GetArrayFromImage(image)
    low, high = np.percentile(array, [1, 99])
    return sitk.GetImageFromArray(np.clip((array - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8))


# ---- both programs, as a user runs them -------------------------------------------------------------------


def plan(dropin: DropIn, program: tuple[str, str]) -> None:
    """Fingerprint, plans and preprocessing of one program; what the plans make long is shortened, by editing them."""
    if program == SPD:
        options = ["-sam", "lite", "-image_size", "56", "-device", "cpu", "-np", "1"]
        dropin.run("spd_plan_and_preprocess", "-d", "504", *options, "--verify_dataset_integrity")
    else:
        options = ["-c", "2d", "-np", "1", "-npfp", "1"]
        dropin.run("nnUNetv2_plan_and_preprocess", "-d", "504", *options, "--verify_dataset_integrity")
    file = dropin.preprocessed / f"{program[1]}.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    plans["configurations"]["2d"]["batch_size"] = BATCH_SIZE
    for stage in (plans["spd"]["stage1"], plans["spd"]["stage2"]) if program == SPD else ():
        stage |= {"batch_size": BATCH_SIZE, "iterations_per_epoch": dropin.iterations}
    file.write_text(json.dumps(plans, indent=4), encoding="utf-8")


def train(dropin: DropIn, program: tuple[str, str]) -> None:
    """All five folds of one program, with probabilities of the validation."""
    command = "spd_train" if program == SPD else "nnUNetv2_train"
    epochs = ["-epochs", *map(str, dropin.epochs)] if program == SPD else []
    trainer = ["-tr", program[0], "-p", program[1]]
    for fold in FOLDS:
        dropin.run(command, "504", "2d", fold, *trainer, *epochs, "--npz", "-device", "cpu")


def run_both(dropin: DropIn) -> None:
    """Plan and train both; neither may touch the other's files, and both must have the same splits."""
    order = (NNUNET, SPD) if dropin.first == "nnunet" else (SPD, NNUNET)
    before: dict[str, str] = {}
    for program in order:
        plan(dropin, program)
        train(dropin, program)
        after = dict(files_of(dropin))
        changed = [name for name, checksum in before.items() if after.get(name) != checksum]
        dropin.check(f"{program[0]} leaves all files that were there", not changed, changed)
        before = after
    check_splits(dropin)


def files_of(dropin: DropIn) -> Iterator[tuple[str, str]]:
    """Every file in the data set's folders of preprocessed data and of results, with its checksum."""
    for folder in (dropin.preprocessed, dropin.results):
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            yield str(file.relative_to(dropin.work)), hashlib.sha256(file.read_bytes()).hexdigest()


def check_splits(dropin: DropIn) -> None:
    """`splits_final.json` is what nnU-Net would make, and both programs validated by it."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    splits = json.loads((dropin.preprocessed / "splits_final.json").read_text(encoding="utf-8"))
    cases = sorted(f.name.removesuffix(dropin.ending) for f in (dropin.raw / "labelsTr").iterdir())
    expected = [{k: list(v) for k, v in split.items()} for split in generate_crossval_split(cases)]
    dropin.check("splits_final.json is the one that nnU-Net makes", splits == expected, splits)
    for program in (NNUNET, SPD):
        for fold, split in enumerate(splits):
            folder = dropin.model(program) / f"fold_{fold}" / "validation"
            there = sorted(f.name.removesuffix(dropin.ending) for f in folder.glob(f"*{dropin.ending}"))
            dropin.check(f"{program[0]} fold {fold} validated the cases of the split", there == split["val"], there)
            for ending in (".npz", ".pkl"):
                names = sorted(f.name.removesuffix(ending) for f in folder.glob(f"*{ending}"))
                dropin.check(f"{program[0]} fold {fold} has a {ending} of each", names == there, names)


def check_clean(dropin: DropIn) -> None:
    """Planning again with --clean, by either program, leaves the other's files and the shared ones."""
    for program, owner, options in ((NNUNET, "nnunet", ["-c", "2d", "-npfp", "1"]), (SPD, "spd", ["-device", "cpu"])):
        before = {name: checksum for name, checksum in files_of(dropin) if owner_of(name) != owner}
        command = "spd_plan_and_preprocess" if program == SPD else "nnUNetv2_plan_and_preprocess"
        dropin.run(command, "-d", "504", "-np", "1", *options, "--clean")
        after = dict(files_of(dropin))
        changed = [name for name in before if after.get(name) != before[name]]
        dropin.check(f"{command} --clean leaves the other program's files", not changed, changed)


def owner_of(name: str) -> str:
    """The program that a file of preprocessed data or results belongs to, or "both"."""
    part = Path(name).parts[2]
    if part.startswith(("SPD", "spd_")):
        return "spd"
    return "nnunet" if part.startswith(("nnUNet", "dataset_fingerprint")) else "both"


# ---- nnU-Net's tools on SPD's model -----------------------------------------------------------------------


def accumulate(dropin: DropIn) -> None:
    """nnU-Net's scores of SPD's predictions are the scores that SPD reported."""
    trainer, plans = SPD
    dropin.run("nnUNetv2_accumulate_crossval_results", "504", "-c", "2d", "-tr", trainer, "-p", plans)
    theirs = case_scores(dropin.crossvalidation(SPD) / "summary.json")
    ours: dict[str, Any] = {}
    for fold in FOLDS:
        ours |= case_scores(dropin.model(SPD) / f"fold_{fold}" / "validation" / "summary.json")
    dropin.check(
        "all training cases are scored", len(theirs) == dropin.n_cases and theirs.keys() == ours.keys(), theirs
    )
    worst = 0.0
    for case, classes in theirs.items():
        dropin.check(f"{case}: same classes in both summaries", classes.keys() == ours[case].keys(), ours[case].keys())
        for key, metrics in classes.items():
            for metric, value in metrics.items():
                own = ours[case][key][metric]
                worst = max(worst, 0.0 if np.isnan(value) and np.isnan(own) else abs(value - own))
    dropin.found["largest difference of any metric"] = worst
    dropin.check(f"every metric of every case agrees to {TOLERANCE}", worst <= TOLERANCE, worst)


def case_scores(summary: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics by case and class."""
    content = json.loads(summary.read_text(encoding="utf-8"))
    return {Path(c["prediction_file"]).name: c["metrics"] for c in content["metric_per_case"]}


def mean_dice(summary: Path) -> float:
    """`foreground_mean` Dice."""
    return float(json.loads(summary.read_text(encoding="utf-8"))["foreground_mean"]["Dice"])


def find_best_of_each(dropin: DropIn) -> None:
    """nnU-Net's own search, on either model alone."""
    for trainer, plans in (NNUNET, SPD):
        dropin.run("nnUNetv2_find_best_configuration", "504", "-c", "2d", "-tr", trainer, "-p", plans, "-np", "1")
        found = json.loads((dropin.results / "inference_information.json").read_text(encoding="utf-8"))
        name = f"{trainer}__{plans}__2d"
        score = mean_dice(dropin.crossvalidation((trainer, plans)) / "summary.json")
        dropin.check(f"nnU-Net finds the score of {trainer}", found["all_results"] == {name: score}, found)
        dropin.check(
            f"nnU-Net determined the postprocessing of {trainer}",
            (dropin.crossvalidation((trainer, plans)) / "postprocessed" / "summary.json").is_file(),
        )


def predict_test_images(dropin: DropIn) -> None:
    """The test images by SPD with simulated prompts, by nnU-Net, and by nnU-Net's program with SPD's model."""
    dropin.run("spd_simulate_prompts", "-d", "504", "-s", "Ts", "--seed", "1")
    images = dropin.raw / "imagesTs"
    folds = ["-f", *FOLDS, "-c", "2d", "-device", "cpu", "--disable_progress_bar"]
    spd = ["-d", "504", "-tr", SPD[0], "-p", SPD[1], *folds]
    sequential = ["-npp", "0", "-nps", "0", "--disable_tta"]
    dropin.run("spd_predict", "-i", images, "-o", dropin.work / "pred_spd", *spd, "--save_probabilities")
    nnunet = ["-d", "504", "-tr", NNUNET[0], "-p", NNUNET[1], *folds, *sequential, "--save_probabilities"]
    dropin.run("nnUNetv2_predict", "-i", images, "-o", dropin.work / "pred_nnunet", *nnunet)
    dropin.run("nnUNetv2_predict", "-i", images, "-o", dropin.work / "pred_spd_by_nnunet", *spd, *sequential)
    for name in ("pred_spd", "pred_nnunet", "pred_spd_by_nnunet"):
        check_segmentations(dropin, name)


def check_segmentations(dropin: DropIn, name: str) -> None:
    """A folder holds a segmentation of each test image, on its grid and with its labels."""
    folder = dropin.work / name
    for label_file in sorted((dropin.raw / "labelsTs").iterdir()):
        case = label_file.name
        dropin.check(f"{name}: {case} is there", (folder / case).is_file())
        predicted, label = sitk.ReadImage(str(folder / case)), sitk.ReadImage(str(label_file))
        same = predicted.GetSize() == label.GetSize() and all(
            np.allclose(getattr(predicted, f"Get{what}")(), getattr(label, f"Get{what}")(), atol=1e-4)
            for what in ("Spacing", "Origin", "Direction")
        )
        dropin.check(f"{name}: {case} is on the image's grid", same, (predicted.GetSize(), label.GetSize()))
        values = set(np.unique(sitk.GetArrayFromImage(predicted)).tolist())
        dropin.check(f"{name}: {case} has declared labels only", values <= {0, 1, 2}, values)


def evaluate_folder(dropin: DropIn, name: str) -> float:
    """nnU-Net's mean Dice of a folder of test predictions."""
    folder = dropin.work / name
    plans, dataset = dropin.model(SPD) / "plans.json", dropin.model(SPD) / "dataset.json"
    arguments = ["-djfile", dataset, "-pfile", plans, "-o", dropin.work / f"{name}.json", "-np", "1"]
    dropin.run("nnUNetv2_evaluate_folder", dropin.raw / "labelsTs", folder, *arguments)
    scores = case_scores(dropin.work / f"{name}.json")
    dropin.check(f"{name}: all test cases are scored", len(scores) == N_TEST, scores)
    return mean_dice(dropin.work / f"{name}.json")


def check_evaluation(dropin: DropIn) -> None:
    """nnU-Net's and SPD's scores of the test predictions agree."""
    from spdnet.dataset import Labels
    from spdnet.dataset.image_io import get_reader
    from spdnet.evaluation import nnunet_summary

    theirs = evaluate_folder(dropin, "pred_spd")
    content = json.loads((dropin.model(SPD) / "dataset.json").read_text(encoding="utf-8"))
    reader = get_reader(
        json.loads((dropin.model(SPD) / "plans.json").read_text(encoding="utf-8"))["image_reader_writer"]
    )
    pairs = [(f, dropin.work / "pred_spd" / f.name) for f in sorted((dropin.raw / "labelsTs").iterdir())]
    ours = nnunet_summary(pairs, reader, Labels.from_dataset_json(content))["foreground_mean"]["Dice"]
    same = abs(theirs - ours) <= TOLERANCE or (np.isnan(theirs) and np.isnan(ours))
    dropin.check("the Dice of SPD's test predictions agrees", bool(same), (theirs, ours))


def postprocess(dropin: DropIn) -> None:
    """Postprocessing is determined on SPD's cross-validation and applied to its test predictions."""
    folder, output = dropin.crossvalidation(SPD), dropin.work / "pred_spd_postprocessed"
    references = dropin.preprocessed / "gt_segmentations"
    for name in ("postprocessing.pkl", "postprocessing.json"):
        (folder / name).unlink(missing_ok=True)
    dropin.run("nnUNetv2_determine_postprocessing", "-i", folder, "-ref", references, "-np", "1")
    dropin.check("postprocessing of SPD is determined", (folder / "postprocessing.json").is_file())
    steps = ["-pp_pkl_file", folder / "postprocessing.pkl", "-np", "1"]
    dropin.run("nnUNetv2_apply_postprocessing", "-i", dropin.work / "pred_spd", "-o", output, *steps)
    for file in (dropin.work / "pred_spd").glob(f"*{dropin.ending}"):
        before, after = (sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in (file, output / file.name))
        dropin.check(f"{file.name}: postprocessing only removes", bool(((after == before) | (after == 0)).all()))


def ensemble(dropin: DropIn) -> None:
    """Test predictions of SPD and nnU-Net are averaged, in either order, with one result."""
    spd, nnunet = dropin.work / "pred_spd", dropin.work / "pred_nnunet"
    for name, folders in (("ensemble_spd_first", (spd, nnunet)), ("ensemble_nnunet_first", (nnunet, spd))):
        dropin.run("nnUNetv2_ensemble", "-i", *folders, "-o", dropin.work / name, "-np", "1")
        check_segmentations(dropin, name)
    for file in (dropin.work / "ensemble_spd_first").glob(f"*{dropin.ending}"):
        one, other = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(f)))
            for f in (file, dropin.work / "ensemble_nnunet_first" / file.name)
        )
        dropin.check(f"{file.name}: the order of an ensemble does not matter", bool((one == other).all()))


def share(dropin: DropIn) -> None:
    """Each program packs the model and each installs it; what is installed predicts identically."""
    model = ["-d", "504", "-c", "2d", "-tr", SPD[0], "-p", SPD[1]]
    for packer in ("nnUNetv2", "spd"):
        file = dropin.work / f"packed_by_{packer}.zip"
        dropin.run(f"{packer}_export_model_to_zip", *model, "-o", file)
        for installer in ("nnUNetv2", "spd"):
            results = dropin.work / f"results_{packer}_{installer}"
            results.mkdir()
            dropin.run(f"{installer}_install_pretrained_model_from_zip", file, results=results)
            check_installed(dropin, results)


def check_installed(dropin: DropIn, results: Path) -> None:
    """An installed model predicts what the one predicts that was packed."""
    output = dropin.work / f"pred_{results.name}"
    images = dropin.raw / "imagesTs"
    options = ["-d", "504", "-f", *FOLDS, "-device", "cpu", "--disable_progress_bar"]
    dropin.run("spd_predict", "-i", images, "-o", output, *options, results=results)
    for file in (dropin.work / "pred_spd").glob(f"*{dropin.ending}"):
        dropin.check(
            f"{results.name}: {file.name} is predicted identically",
            bool((read(output / file.name) == read(file)).all()),
        )


def read(file: Path) -> np.ndarray:
    """The voxels of a label map."""
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))


def plot_overlays(dropin: DropIn) -> None:
    """nnU-Net's pictures of the labels, with SPD's plans."""
    output = dropin.work / "overlays"
    dropin.run("nnUNetv2_plot_overlay_pngs", "-d", "504", "-o", output, "-p", SPD[1], "--use_raw", "-np", "1")
    dropin.check("there is a picture of each case", len(list(output.glob("*.png"))) == dropin.n_cases)


# ---- SPD beside nnU-Net -----------------------------------------------------------------------------------


def find_best(dropin: DropIn) -> None:
    """spd_find_best compares both and their ensemble; the instructions that it writes are carried out."""
    printed = dropin.run("spd_find_best", "504", "-np", "1")
    instructions = (dropin.results / "inference_instructions.txt").read_text(encoding="utf-8")
    found = json.loads((dropin.results / "inference_information.json").read_text(encoding="utf-8"))["all_results"]
    names = {key: dropin.model(program).name for key, program in (("SPD", SPD), ("nnU-Net", NNUNET))}
    together = [name for name in found if name.startswith("ensemble___")]
    dropin.check(
        "both and their ensemble are compared", {*found} == {*names.values(), *together} and len(together) == 1
    )
    dropin.found["mean Dice"] = {key: found[name] for key, name in names.items()} | {"ensemble": found[together[0]]}
    for text, where in ((instructions, "instructions"), (printed, "output")):
        wrong = [line for line in text.splitlines() if line.startswith("nnUNetv2_predict") and SPD[0] in line]
        dropin.check(f"no command of nnU-Net predicts with SPD in the {where}", not wrong, wrong)
    follow(dropin, instructions, "best")
    trainer_alone = dropin.run("spd_find_best", "504", "-np", "1", "-m", names["SPD"])
    dropin.check("a single model of SPD gets its own command", "spd_predict -d" in trainer_alone, trainer_alone[-2000:])
    follow(dropin, (dropin.results / "inference_instructions.txt").read_text(encoding="utf-8"), "spd_alone")


def follow(dropin: DropIn, instructions: str, name: str) -> None:
    """Run every command of the instructions on the test images, then check the last result."""
    outputs = {o: dropin.work / f"{name}_{o}" for o in re.findall(r"OUTPUT_FOLDER\w*", instructions)}
    folders = {"INPUT_FOLDER": dropin.raw / "imagesTs", "PROMPTS_FOLDER": dropin.raw / "promptsTs", **outputs}
    for line in instructions.splitlines():
        if line.startswith(("spd_", "nnUNetv2_")):
            words = [str(folders.get(word, word)) for word in line.split()]
            device = ["-device", "cpu", "--disable_progress_bar"] if "_predict" in words[0] else []
            dropin.run(*words, *device)
    check_segmentations(dropin, f"{name}_OUTPUT_FOLDER_PP")


# ---- all of it --------------------------------------------------------------------------------------------

TOOLS: tuple[Callable[[DropIn], None], ...] = (
    accumulate,
    find_best_of_each,
    predict_test_images,
    check_evaluation,
    postprocess,
    ensemble,
    plot_overlays,
    share,
    find_best,
    check_clean,
)


def run_all(dropin: DropIn, source: Path) -> dict[str, Any]:
    """The whole comparison; returns what was found and writes it to `dropin.json`.

    Raises:
        DropInError: a command failed or a claim does not hold.
    """
    if dropin.work.exists() and any(dropin.work.iterdir()):
        raise DropInError(f"{dropin.work} is not empty")
    for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (dropin.work / folder).mkdir(parents=True)
    make_dataset(dropin, source)
    run_both(dropin)
    for tool in TOOLS:
        tool(dropin)
    dropin.found["test Dice"] = {
        name: evaluate_folder(dropin, folder)
        for name, folder in (
            ("SPD", "pred_spd"),
            ("SPD without prompts, by nnUNetv2_predict", "pred_spd_by_nnunet"),
            ("nnU-Net", "pred_nnunet"),
            ("ensemble", "ensemble_spd_first"),
        )
    }
    report = {
        "case": dropin.kind,
        "first": dropin.first,
        "training cases": dropin.n_cases,
        "versions": {package: version(package) for package in ("spdnet", "nnunetv2", "torch")},
        **dropin.found,
        "seconds": dropin.seconds,
    }
    (dropin.work / "dropin.json").write_text(json.dumps(report, indent=4), encoding="utf-8")
    return report


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-data", type=Path, required=True, help=f"folder that holds {NAME}")
    parser.add_argument("-o", type=Path, required=True, metavar="WORK", help="folder to work in, empty or new")
    parser.add_argument("-case", choices=KINDS, default="plain")
    parser.add_argument("-first", choices=ORDERS, default="nnunet")
    parser.add_argument("--n_cases", type=int, default=10, help="training cases")
    parser.add_argument("--n_slices", type=int, default=12, help="slices of each case")
    parser.add_argument("--iterations", type=int, default=10, help="training steps per epoch")
    args = parser.parse_args()
    dropin = DropIn(args.o.absolute(), args.case, args.first, args.n_cases, args.n_slices, args.iterations)
    try:
        report = run_all(dropin, args.data / NAME)
    except DropInError as error:
        sys.exit(f"error: {error}")
    print(f"\n{args.case}, {args.first} first: {len(report['checked'])} claims checked, {len(dropin.seconds)} commands")
    for what in ("mean Dice", "test Dice"):
        print(f"{what} ({'cross-validation' if what == 'mean Dice' else 'test images'}):")
        for name, value in report[what].items():
            print(f"  {name:42} {value:.4f}")


if __name__ == "__main__":
    main()
