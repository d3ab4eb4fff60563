"""Real images through the real backbone; needs a folder of data sets in nnU-Net raw format.

    SPD_TEST_DATA=/path/to/data pytest -m real_data

The folder holds Dataset504_Hippocampus (Medical Segmentation Decathlon, Task04) in nnU-Net raw format.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.cli import evaluate, plan_and_preprocess, predict, simulate_prompts, train

NAME = "Dataset504_Hippocampus"


@pytest.fixture
def hippocampus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few cases of the data set, copied, with the three variables set."""
    source = Path(os.environ.get("SPD_TEST_DATA", "")) / NAME
    if not os.environ.get("SPD_TEST_DATA") or not source.is_dir():
        pytest.skip(f"SPD_TEST_DATA does not name a folder that holds {NAME}")
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    target = tmp_path / "raw" / NAME
    for subset, n in (("Tr", 6), ("Ts", 2)):
        for kind in ("images", "labels"):
            (target / f"{kind}{subset}").mkdir(parents=True)
            for file in sorted((source / f"{kind}{subset}").iterdir())[:n]:
                shutil.copyfile(file, target / f"{kind}{subset}" / file.name)
    description = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    (target / "dataset.json").write_text(json.dumps({**description, "numTraining": 6}), encoding="utf-8")
    return target


@pytest.mark.real_data
def test_the_three_commands_on_real_mri(hippocampus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan_and_preprocess.main(
        ["-d", "504", "-sam", "lite", "-image_size", "56", "--verify_dataset_integrity", "-np", "1"]
    )
    simulate_prompts.main(["-d", "504", "-s", "Ts", "--seed", "1"])
    train.main(["504", "all", "-epochs", "3", "2", "-device", "cpu"])
    monkeypatch.chdir(hippocampus)
    predict.main(["-i", "imagesTs", "-o", str(tmp_path / "preds"), "-device", "cpu"])
    evaluate.main(["-ref", "labelsTs", "-pred", str(tmp_path / "preds")])
    scores = json.loads((tmp_path / "preds" / "spd_evaluation.json").read_text(encoding="utf-8"))
    assert scores["mean"]["volume_dice"]["mean"] > 0.2  # far above chance after seconds of training
    for reference in (hippocampus / "labelsTs").iterdir():
        image = sitk.ReadImage(str(hippocampus / "imagesTs" / reference.name.replace(".nii.gz", "_0000.nii.gz")))
        predicted = sitk.ReadImage(str(tmp_path / "preds" / reference.name))
        assert predicted.GetSize() == image.GetSize()
        np.testing.assert_allclose(predicted.GetOrigin(), image.GetOrigin())
        np.testing.assert_allclose(predicted.GetDirection(), image.GetDirection())
        assert predicted.GetPixelID() == sitk.sitkUInt8
