"""Every wrong input: one clear message on stderr, exit status 1, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from spdnet.cli import evaluate, plan_and_preprocess, predict, simulate_prompts, train
from spdnet.prompts import Markup, write_markups
from spdnet.tests.conftest import VARIABLES, Workspace

PLAN = ["-d", "507", "-np", "1", "-device", "cpu"]
Command = Callable[[list[str]], None]


@dataclass
class Refusal:
    """Runs a command that must fail at once."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, command: Command, arguments: list[str], *parts: str) -> None:
        """Check exit status 1 and that stderr is one message with all `parts`, without a traceback."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            command(arguments)
        errors = self.capsys.readouterr().err
        assert caught.value.code == 1
        assert errors.count("error: ") == 1
        assert "Traceback" not in errors
        message = errors[errors.index("error: ") :]
        for part in parts:
            assert part in message


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refusal:
    return Refusal(capsys)


def tree(folder: Path) -> set[str]:
    """All files and folders below a folder."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


# ---- environment, data set, device ------------------------------------------------------------------------


def predict_arguments(workspace: Workspace, *more: str) -> list[str]:
    output = str(workspace.root / "out")
    return ["-i", str(workspace.raw / "imagesTs"), "-o", output, "-device", "cpu", *more]


@pytest.mark.parametrize(
    ("command", "arguments", "variable"),
    [
        (plan_and_preprocess.main, PLAN, "nnUNet_raw"),
        (plan_and_preprocess.extract_fingerprint_main, PLAN[:4], "nnUNet_raw"),
        (plan_and_preprocess.plan_experiment_main, ["-d", "507", "-device", "cpu"], "nnUNet_raw"),
        (plan_and_preprocess.preprocess_main, PLAN[:4], "nnUNet_raw"),
        (simulate_prompts.main, ["-d", "507"], "nnUNet_raw"),
        (train.main, ["507", "all", "-device", "cpu"], "nnUNet_preprocessed"),
        (predict.main, None, "nnUNet_results"),
    ],
)
def test_no_environment_variable(
    workspace: Workspace,
    refused: Refusal,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    arguments: list[str] | None,
    variable: str,
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name)
    before = tree(workspace.root)
    refused(command, arguments or predict_arguments(workspace), f"{variable} is not set", f"export {variable}=")
    assert tree(workspace.root) == before


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (plan_and_preprocess.main, ["-d", "999", "-np", "1"]),
        (plan_and_preprocess.main, ["-d", "507", "999", "-np", "1"]),
        (simulate_prompts.main, ["-d", "Dataset999_Gone"]),
        (train.main, ["999", "all"]),
    ],
)
def test_unknown_data_set(workspace: Workspace, refused: Refusal, command: Command, arguments: list[str]) -> None:
    before = tree(workspace.root)
    refused(command, arguments, "999", "was not found", "Data sets there: Dataset507_Blobs")
    assert tree(workspace.root) == before


def test_no_cuda_when_asked_for(trained: Workspace, refused: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shutil.rmtree(trained.preprocessed)
    before = tree(trained.root)
    said = "-device cuda: this machine offers 0 CUDA devices", "-device cpu"
    refused(plan_and_preprocess.main, ["-d", "507", "-device", "cuda"], *said)
    refused(train.main, ["507", "all", "-device", "cuda"], *said)
    refused(predict.main, [*predict_arguments(trained), "-device", "cuda"], *said)
    assert tree(trained.root) == before


def test_planning_for_a_gpu_elsewhere(
    planned: Workspace, refused: Refusal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command, data = plan_and_preprocess.plan_experiment_main, ["-d", "507"]
    refused(command, [*data, "-device", "cuda"], "-device cuda: this machine offers 0", "with -gpu_memory_target")
    refused(command, [*data, "-device", "gpu", "-gpu_memory_target", "24"], "-device gpu: not a device")
    command([*data, "-gpu_memory_target", "24"])
    out = capsys.readouterr().out
    assert "no GPU here: planning for a CPU with 24 GB; for a GPU elsewhere give -device cuda" in out and "lite" in out
    for device in ("cuda", "cuda:1"):
        command([*data, "-device", device, "-gpu_memory_target", "24"])
        plans = json.loads((planned.preprocessed / "SPDPlans.json").read_text(encoding="utf-8"))["spd"]
        assert plans["backbone"] == "vit_b" and plans["reasons"]["batch_size"].endswith("at most half of 24 GB")
    refused(train.main, ["507", "all", "-device", "cuda"], "-device cuda: this machine offers 0 CUDA devices")


# ---- planning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["-sam", "vit_x"], ["Unknown SAM backbone 'vit_x'", "lite, vit_b"]),
        (["-sam", "tiny", "-image_size", "100"], ["image size 100 is not a multiple of 8, as tiny needs"]),
        (["-sam", "tiny", "-image_size", "0"], ["-image_size 0 must be positive"]),
        (["-gpu_memory_target", "0"], ["-gpu_memory_target 0 must be positive"]),
        (["-device", "meta"], ["-device meta"]),
    ],
)
def test_impossible_plans(workspace: Workspace, refused: Refusal, options: list[str], parts: list[str]) -> None:
    before = tree(workspace.root)
    refused(plan_and_preprocess.main, [*PLAN, *options], *parts)
    assert tree(workspace.root) == before


def test_an_image_size_that_the_chosen_backbone_cannot_take(workspace: Workspace, refused: Refusal) -> None:
    refused(plan_and_preprocess.main, [*PLAN, "-image_size", "102"], "102 is not a multiple of 4, as lite needs")
    assert not list(workspace.preprocessed.glob("SPDPlans*"))


def image_of(workspace: Workspace, name: str) -> tuple[Path, sitk.Image]:
    file = workspace.raw / name
    return file, sitk.ReadImage(str(file))


def break_label_missing(workspace: Workspace) -> None:
    (workspace.raw / "labelsTr" / "blob_002.nii.gz").unlink()


def break_geometry(workspace: Workspace) -> None:
    file, label = image_of(workspace, "labelsTr/blob_002.nii.gz")
    label.SetOrigin((0.0, 0.0, 0.0))
    sitk.WriteImage(label, str(file))


def break_label_value(workspace: Workspace) -> None:
    file, label = image_of(workspace, "labelsTr/blob_002.nii.gz")
    label[0, 0, 0] = 7
    sitk.WriteImage(label, str(file))


def break_labels_empty(workspace: Workspace) -> None:
    for number in range(5):
        file, label = image_of(workspace, f"labelsTr/blob_{number:03d}.nii.gz")
        sitk.WriteImage(label * 0, str(file))


def break_image(workspace: Workspace) -> None:
    (workspace.raw / "imagesTr" / "blob_002_0000.nii.gz").write_bytes(b"no image")


def break_prompts(workspace: Workspace) -> None:
    (workspace.raw / "promptsTr").mkdir()
    far = Markup("bright", "points", np.array([[0.0, 0, 900.0]]), ("C-7",))
    write_markups(workspace.raw / "promptsTr" / "blob_002.mrk.json", [far])


def break_dataset_json(workspace: Workspace) -> None:
    file = workspace.raw / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["labels"]
    file.write_text(json.dumps(content), encoding="utf-8")


def break_images_folder(workspace: Workspace) -> None:
    shutil.rmtree(workspace.raw / "imagesTr")


@pytest.mark.parametrize(
    ("break_it", "parts"),
    [
        (break_label_missing, ["case blob_002", "label file", "labelsTr/blob_002.nii.gz is missing"]),
        (break_geometry, ["case blob_002", "not on the same grid", "origin", "Resample"]),
        (break_label_value, ["case blob_002", "holds values [7]", "declared: [0, 1, 2]"]),
        (break_labels_empty, ["the labels of all 5 training cases are empty"]),
        (break_image, ["case blob_002", "cannot read", "blob_002_0000.nii.gz"]),
        (break_prompts, ["case blob_002", "point 'C-7'", "outside the image", "blob_002.mrk.json"]),
        (break_dataset_json, ["dataset.json lacks labels"]),
        (break_images_folder, ["imagesTr does not exist"]),
    ],
)
def test_faulty_training_data(
    workspace: Workspace, refused: Refusal, break_it: Callable[[Workspace], None], parts: list[str]
) -> None:
    break_it(workspace)
    refused(plan_and_preprocess.main, PLAN, *parts)
    assert not [p for p in workspace.preprocessed.rglob("*") if p.is_file()]


def test_integrity_covers_counts_prompts_and_test_images(workspace: Workspace, refused: Refusal) -> None:
    check = [*PLAN[:4], "--verify_dataset_integrity"]
    extract = plan_and_preprocess.extract_fingerprint_main
    (workspace.raw / "imagesTs" / "blob_005_0001.nii.gz").write_text("", encoding="utf-8")
    (workspace.raw / "imagesTs" / "blob_005_0000.nii.gz").unlink()
    refused(extract, check, "case blob_005: blob_005_0000.nii.gz is missing in", "imagesTs")
    prompts = workspace.raw / "promptsTr"
    prompts.mkdir()
    inside = [Markup("bright", "points", np.zeros((0, 3)), ())]
    write_markups(prompts / "blob_000.mrk.json", inside)
    refused(extract, check, "4 training cases have no prompts", "blob_001, blob_002")
    write_markups(prompts / "blob_099.mrk.json", inside)
    refused(extract, check, "prompts of cases that imagesTr does not", "blob_099.mrk.json")
    for name in ("imagesTr/blob_000_0000.nii.gz", "labelsTr/blob_000.nii.gz"):
        (workspace.raw / name).unlink()
    refused(extract, check, "numTraining 5, imagesTr holds 4 cases")
    assert not [p for p in workspace.preprocessed.rglob("*") if p.is_file()]


def test_steps_in_the_wrong_order(workspace: Workspace, refused: Refusal) -> None:
    refused(plan_and_preprocess.plan_experiment_main, ["-d", "507", "-device", "cpu"], "Run spd_extract_fingerprint")
    refused(plan_and_preprocess.preprocess_main, PLAN[:4], "SPDPlans.json is missing", "Run spd_plan_and_preprocess")
    refused(train.main, ["507", "all"], "SPDPlans.json is missing", "Run spd_plan_and_preprocess first")


def change_plans(workspace: Workspace, **changes: Any) -> None:
    file = workspace.preprocessed / "SPDPlans.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["spd"] |= changes
    file.write_text(json.dumps(content), encoding="utf-8")


def test_damaged_plans(planned: Workspace, refused: Refusal) -> None:
    change_plans(planned, learning_rate=1)
    for command, arguments in ((train.main, ["507", "all"]), (plan_and_preprocess.preprocess_main, PLAN[:4])):
        refused(command, arguments, "SPDPlans.json: spd: unknown key learning_rate")
    (planned.preprocessed / "SPDPlans.json").write_text("{", encoding="utf-8")
    refused(train.main, ["507", "all"], "SPDPlans.json is not valid JSON")
    assert not planned.results.exists()


def test_copied_plans_need_their_own_name(planned: Workspace, refused: Refusal) -> None:
    shutil.copy(planned.preprocessed / "SPDPlans.json", planned.preprocessed / "Small.json")
    said = "Small.json: \"plans_name\" is 'SPDPlans'; it must be 'Small', the file's name", "Set it in the file"
    refused(plan_and_preprocess.preprocess_main, [*PLAN[:4], "-plans_name", "Small"], *said)
    refused(train.main, ["507", "all", "-p", "Small", "-device", "cpu"], *said)
    assert not planned.results.exists() and not (planned.preprocessed / "Small_2d").exists()
    other = planned.preprocessed.with_name("Dataset508_Other")
    other.mkdir()
    shutil.copy(planned.preprocessed / "SPDPlans.json", other)
    refused(
        train.main, ["508", "all", "-device", "cpu"], "\"dataset_name\" is 'Dataset507_Blobs'; it must be 'Dataset508"
    )


# ---- training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["507", "x"], ["fold 'x' is neither a number from 0 nor 'all'"]),
        (["507", "3d_fullres", "0"], ["configuration '3d_fullres' does not exist; spdnet has only 2d"]),
        (["507", "2d", "0", "1"], ["too many arguments: 2d 0 1"]),
        (["507", "all", "-tr", "nnUNetTrainer"], ["Unknown trainer 'nnUNetTrainer'", "SPDTrainerNoPSC"]),
        (["507", "all", "-p", "Fine"], ["Fine.json is missing"]),
        (["507", "all", "--val"], ["holds no checkpoint_final.pth; train first"]),
        (["507", "all", "--val", "--val_best"], ["holds no checkpoint_best.pth; train first"]),
        (["507", "all", "--val", "--c"], ["--c continues a training, --val only validates one"]),
        (["507", "all", "--c", "-pretrained_weights", "x.pth"], ["--c and -pretrained_weights exclude each other"]),
        (["507", "all", "-pretrained_weights", "/nowhere/x.pth"], ["checkpoint /nowhere/x.pth is missing"]),
        (["507", "all", "--val_best", "--disable_checkpointing"], ["--val_best needs a checkpoint"]),
        (["507", "all", "-num_gpus", "0"], ["-num_gpus 0: give 1 or more"]),
        (["507", "all", "-stage1_from", "/nowhere/checkpoint_final.pth"], ["checkpoint_final.pth is missing"]),
        (["507", "all", "-epochs", "-1", "2"], ["-epochs -1 2: epochs must be 0 or more"]),
        (["507", "all", "-epochs", "0", "2"], ["0 epochs of stage 1", "-stage1_from"]),
    ],
)
def test_impossible_trainings(planned: Workspace, refused: Refusal, arguments: list[str], parts: list[str]) -> None:
    refused(train.main, [*arguments, "-device", "cpu"], *parts)
    assert not planned.results.exists()


def test_missing_sam_weights(planned: Workspace, refused: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_connection(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    change_plans(planned, backbone="vit_b", image_size=64)
    plan_and_preprocess.preprocess_main(PLAN[:4])
    monkeypatch.setenv("SPD_checkpoints", str(planned.root / "checkpoints"))
    monkeypatch.setattr(urllib.request, "urlopen", no_connection)
    parts = ["sam_vit_b_01ec64.pth", str(planned.root / "checkpoints"), "https://dl.fbaipublicfiles.com", "no route"]
    refused(train.main, ["507", "all", "-device", "cpu"], *parts)
    assert not planned.results.exists()


def test_plans_whose_slices_are_not_whole_tokens(planned: Workspace, refused: Refusal) -> None:
    change_plans(planned, backbone="vit_b")
    parts = ["image size 56 is not a multiple of 16, as vit_b needs"]
    refused(plan_and_preprocess.preprocess_main, PLAN[:4], *parts)
    refused(train.main, ["507", "all", "-device", "cpu"], *parts)
    assert not planned.results.exists()


def test_too_few_cases_for_folds(planned: Workspace, refused: Refusal) -> None:
    (planned.preprocessed / "splits_final.json").unlink()
    for file in (planned.preprocessed / "SPDPlans_2d").glob("blob_004*"):
        file.unlink()
    refused(train.main, ["507", "0", "-device", "cpu"], "4 training cases are too few for 5 folds", "spd_train ID all")
    assert not planned.results.exists()


def test_a_finished_training_is_not_replaced_by_accident(trained: Workspace, refused: Refusal) -> None:
    before = tree(trained.results)
    refused(train.main, ["507", "0", "-device", "cpu"], "already holds a finished training", "--overwrite")
    assert tree(trained.results) == before


def test_continuing_with_other_plans_changes_nothing(trained: Workspace, refused: Refusal) -> None:
    normalization = [{"scheme": "percentile", "low": 2.0, "high": 98.0}]
    change_plans(trained, normalization=normalization)
    plan_and_preprocess.preprocess_main(PLAN[:4])
    before = (trained.model() / "plans.json").read_bytes(), tree(trained.results)
    refused(train.main, ["507", "0", "--c", "-device", "cpu"], "was trained with other plans: normalization")
    refused(train.main, ["507", "0", "--val", "-device", "cpu"], "was trained with other plans: normalization")
    assert ((trained.model() / "plans.json").read_bytes(), tree(trained.results)) == before


# ---- prediction -------------------------------------------------------------------------------------------


def test_wrong_inputs_of_a_prediction(trained: Workspace, refused: Refusal) -> None:
    out = trained.root / "out"
    arguments = predict_arguments(trained)
    refused(predict.main, ["-i", str(trained.raw / "imagesTx"), "-o", str(out)], "imagesTx: no such folder")
    refused(predict.main, [*arguments, "-d", "508"], "'508' was not found")
    refused(
        predict.main, [*arguments, "-tr", "X"], "No trained model fits", "trainer X", "Dataset507_Blobs/SPDTrainer__"
    )
    refused(predict.main, [*arguments, "-p", "X"], "No trained model fits", "plans X")
    refused(predict.main, [*arguments, "-f", "4"], "fold 4 has no checkpoint_final.pth", "have: 0, 1")
    refused(predict.main, [*arguments, "-chk", "x.pth"], "no fold has x.pth", "checkpoint_best.pth")
    refused(predict.main, [*arguments, "-prompts", "/nowhere"], "prompts folder /nowhere does not exist")
    (trained.model() / "fold_1" / "checkpoint_final.pth").write_bytes(b"damaged")
    refused(predict.main, arguments, "fold_1/checkpoint_final.pth is damaged")
    assert not out.exists()


def test_missing_and_wrong_prompts(trained: Workspace, refused: Refusal) -> None:
    out, arguments = trained.root / "out", predict_arguments(trained)
    prompts = trained.raw / "promptsTs"
    (prompts / "blob_005.mrk.json").rename(trained.root / "kept.mrk.json")
    others = "1 of 2 cases failed, the others are predicted"
    refused(predict.main, arguments, others, "case blob_005 has no prompt file", "-prompts", "--no_prompts")
    far = Markup("", "points", np.array([[0.0, 900.0, 0.0]]), ("F-1",))
    write_markups(prompts / "blob_005.mrk.json", [far])
    refused(predict.main, arguments, others, "case blob_005: point 'F-1'", "outside the image")
    (prompts / "blob_005.mrk.json").write_text("{}", encoding="utf-8")
    refused(predict.main, arguments, others, "blob_005.mrk.json")
    assert (out / "blob_006.nii.gz").exists() and not (out / "blob_005.nii.gz").exists()
    shutil.rmtree(prompts)
    refused(predict.main, arguments, "no prompts for", "promptsTs does not exist", "-prompts FOLDER", "--no_prompts")


def test_several_models_and_no_model(trained: Workspace, refused: Refusal) -> None:
    shutil.copytree(trained.model(), trained.model("SPDTrainerNoPSC"))
    arguments = predict_arguments(trained)
    refused(predict.main, arguments, "Several trained models fit", "SPDTrainerNoPSC__SPDPlans__2d", "-tr (trainer)")
    shutil.rmtree(trained.results)
    refused(predict.main, arguments, "No trained model fits", "none", "spd_train")
    assert not (trained.root / "out").exists()


def test_plans_and_checkpoint_that_do_not_belong_together(trained: Workspace, refused: Refusal) -> None:
    file = trained.model() / "plans.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["spd"]["image_size"] = 112
    file.write_text(json.dumps(content), encoding="utf-8")
    refused(predict.main, predict_arguments(trained), "do not belong together", "image_size was 56")
    assert not (trained.root / "out").exists()


# ---- evaluation and simulation ----------------------------------------------------------------------------


def test_evaluation_of_missing_predictions(workspace: Workspace, refused: Refusal) -> None:
    (workspace.root / "preds").mkdir()
    arguments = ["-ref", str(workspace.raw / "labelsTs"), "-pred", str(workspace.root / "preds"), "-np", "1"]
    refused(evaluate.main, arguments, "2 of 2 cases", "have no prediction", "blob_005, blob_006")
    assert not list((workspace.root / "preds").iterdir())


def test_simulation_without_labels(workspace: Workspace, refused: Refusal) -> None:
    (workspace.raw / "labelsTs" / "blob_006.nii.gz").unlink()
    refused(simulate_prompts.main, ["-d", "507"], "1 of 2 cases have no label file", "blob_006")
    assert not (workspace.raw / "promptsTs").exists()


# ---- output that nobody reads -----------------------------------------------------------------------------

PROGRAM = """
import sys
from spdnet.cli.common import entry_point
from spdnet.errors import SPDError

@entry_point
def main(argv):
    print('a line', flush=True)
    sys.stdin.readline()
    {body}

main([])
"""


def run_unread(body: str, leaves: bool = True) -> tuple[int, str]:
    """Exit status and stderr of a command; what it does after its first line it does when the reader has left."""
    arguments = [sys.executable, "-c", PROGRAM.format(body=body)]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, text=True, env=buffered, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "a line\n"
        if leaves:
            process.stdout.close()
        process.stdin.close()
        return process.wait(), process.stderr.read()


@pytest.mark.parametrize("body", ["[print('a line') for _ in range(100000)]", "print('one more')"])
def test_reader_of_the_output_leaves(body: str) -> None:
    assert run_unread(body) == (141, "")


def test_an_error_is_told_though_nobody_reads_the_output() -> None:
    found = run_unread("print('one more'); raise SPDError('something is wrong')")
    assert found == (1, "error: something is wrong\n")


def test_broken_pipe_to_another_process_is_not_hidden() -> None:
    status, errors = run_unread("raise BrokenPipeError('a worker has gone')", leaves=False)
    assert status == 1
    assert "Traceback" in errors and "a worker has gone" in errors


def test_output_that_the_shell_has_closed() -> None:
    program = "from spdnet.cli.common import entry_point; entry_point(lambda argv: print('a line'))([])"
    command = ["sh", "-c", '"$@" >&-', "sh", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (train.main, ["507", "0", "--seed", "-1"], "--seed -1: give a whole number from 0"),
        (train.main, ["507", "\u00b2"], "\u00b2"),
        (plan_and_preprocess.main, [*PLAN, "-gpu_memory_target", "nan"], "-gpu_memory_target nan must be positive"),
        (plan_and_preprocess.main, [*PLAN, "-overwrite_target_spacing", "nan"], "-overwrite_target_spacing nan"),
    ],
)
def test_numbers_that_are_none(
    command: Command, arguments: list[str], message: str, planned: Workspace, refused: Refusal
) -> None:
    refused(command, arguments, message)
