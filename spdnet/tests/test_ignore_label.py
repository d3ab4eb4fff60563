"""Data sets with an ignore label, from the label file to the scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from spdnet.cli import plan_and_preprocess, predict, simulate_prompts, train
from spdnet.planning import StoredCase
from spdnet.planning.plans import (
    AugmentationSettings,
    ConsistencySettings,
    DistillationSettings,
    PromptSettings,
    StageSettings,
)
from spdnet.tests.conftest import Workspace
from spdnet.tests.tiny import tiny_settings
from spdnet.training.prompt_stage import PromptStage
from spdnet.training.saliency_stage import SaliencyStage
from spdnet.training.stages import Stage

IGNORE = 3
PLAN = ["-d", "507", "-np", "1", "-sam", "tiny", "-image_size", "56", "-device", "cpu", "-gpu_memory_target", "0.6"]


@pytest.fixture
def ignoring(workspace: Workspace) -> Workspace:
    """The left third of every training label is the ignore label."""
    file = workspace.raw / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["labels"]["ignore"] = IGNORE
    file.write_text(json.dumps(content), encoding="utf-8")
    for label in (workspace.raw / "labelsTr").iterdir():
        image = sitk.ReadImage(str(label))
        array = sitk.GetArrayFromImage(image)
        array[:, :, :9] = IGNORE
        painted = sitk.GetImageFromArray(array)
        painted.CopyInformation(image)
        sitk.WriteImage(painted, str(label))
    plan_and_preprocess.main(PLAN)
    return workspace


def stored(workspace: Workspace) -> list[StoredCase]:
    folder = workspace.preprocessed / "SPDPlans_2d"
    return [StoredCase(folder, case) for case in StoredCase.list(folder)]


def test_ignored_pixels_are_kept_apart_from_the_classes(ignoring: Workspace) -> None:
    for case in stored(ignoring):
        assert case.ignored is not None
        ignored = np.asarray(case.ignored)
        assert ignored.shape == np.asarray(case.masks)[:, 0].shape
        (top, bottom), (left, right) = case.mapping.content_box
        share = ignored.sum() / (len(ignored) * (bottom - top) * (right - left))
        assert share == pytest.approx(9 / 28, abs=0.03)
        assert not (ignored.astype(bool) & np.asarray(case.masks).any(axis=1)).any()


def trained_weights(stage: Stage) -> torch.Tensor:
    stage.prepare()
    optimizer = torch.optim.Adam(stage.parameters(), lr=1e-3)
    for batch in stage.training_batches(0):
        optimizer.zero_grad()
        stage.training_loss(batch).backward()
        optimizer.step()
    with torch.no_grad():
        scores = [stage.validation_scores(b) for b in stage.validation_batches()]
    stage.finish()
    counts = [torch.from_numpy(np.stack([s["tp_hard"], s["fp_hard"], s["fn_hard"]])).flatten() for s in scores]
    return torch.cat([p.detach().flatten() for p in stage.parameters()] + counts)


@pytest.mark.parametrize("number", [1, 2])
def test_what_the_masks_say_there_changes_neither_training_nor_score(
    ignoring: Workspace, tmp_path: Path, number: int
) -> None:
    settings = tiny_settings(
        stage1=StageSettings(1, 2, 8, 1e-3),
        stage2=StageSettings(1, 2, 8, 1e-3),
        distillation=DistillationSettings(mode="raw"),  # every slice is decoded
        prompts=PromptSettings("files"),  # there are none, so nothing is drawn from the masks
        consistency=ConsistencySettings(0.0),
        augmentation=AugmentationSettings(0.0, (1.0, 1.0), False, False, False, 1),  # else borders bleed
    )

    def run(folder: Path) -> torch.Tensor:
        from spdnet.network import build_network

        torch.manual_seed(0)
        network = build_network("tiny", 1, 2, 56, 4, 4, 0.0)
        cases = stored(ignoring)
        arguments = (network, settings, cases[:2], cases[2:3], torch.device("cpu"), 0)
        return trained_weights(SaliencyStage(*arguments) if number == 1 else PromptStage(*arguments, folder))

    before = run(tmp_path / "a")
    for case in stored(ignoring):
        file = case.folder / f"{case.case}_seg.npy"
        masks = np.load(file)
        masks[np.broadcast_to(np.asarray(case.ignored)[:, None].astype(bool), masks.shape)] = 1
        np.save(file, masks)
    after = run(tmp_path / "b")
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def test_the_commands_run_and_never_predict_it(ignoring: Workspace) -> None:
    train.main(["507", "0", "-epochs", "1", "1", "-device", "cpu"])
    simulate_prompts.main(["-d", "507", "-s", "Ts"])
    predict.main(["-i", str(ignoring.raw / "imagesTs"), "-o", str(ignoring.root / "preds"), "-device", "cpu"])
    validation = ignoring.model() / "fold_0" / "validation"
    summary = json.loads((validation / "summary.json").read_text(encoding="utf-8"))
    assert summary["mean"].keys() == {"1", "2"}
    entry = summary["metric_per_case"][0]["metrics"]["1"]
    shape = sitk.GetArrayFromImage(sitk.ReadImage(summary["metric_per_case"][0]["prediction_file"])).shape
    counted = sum(entry[name] for name in ("TP", "FP", "FN", "TN"))
    assert counted == shape[0] * shape[1] * (shape[2] - 9), "ignored voxels do not count"
    for file in (*validation.glob("*.nii.gz"), *(ignoring.root / "preds").glob("*.nii.gz")):
        assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))) <= {0, 1, 2}
