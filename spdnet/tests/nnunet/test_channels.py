"""nnU-Net's own commands on images with channels of points, trained for some steps.

pytest -m nnunet spdnet/tests/nnunet/test_channels.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spdnet.cli import point_channels, simulate_prompts
from spdnet.dataset import RawDataset, get_reader
from spdnet.tests.conftest import Workspace

TRAINERS = Path(__file__).parents[3] / "benchmarks" / "nnunet_trainers"
TRAINER = "nnUNetTrainerShort"
READER = get_reader("SimpleITKIO")

pytestmark = pytest.mark.nnunet


def nnunet(command: str, *arguments: object) -> None:
    """Run a command of nnU-Net; an error shows its output."""
    program = str(Path(sys.executable).parent / command)
    variables = {
        "nnUNet_extTrainer": str(TRAINERS),
        "nnUNet_compile": "f",
        "nnUNet_n_proc_DA": "0" if command == "nnUNetv2_train" else "1",  # planning cannot do without one
        "DROPIN_ITERATIONS": "2",
    }
    words = [program, *map(str, arguments)]
    done = subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"


def test_nnunet_trains_on_channels_of_points_and_its_masks_lose_lone_pieces(planned: Workspace) -> None:
    pytest.importorskip("nnunetv2")
    for subset in ("Tr", "Ts"):
        simulate_prompts.main(["-d", "507", "-s", subset, "--seed", "3"])
    images, with_points = planned.raw / "imagesTs", planned.root / "imagesTs_points"
    found, kept = planned.root / "preds_nnunet", planned.root / "preds_pieces"
    words = ["-d", "507", "-n_slices", "1", "-np", "1"]
    point_channels.main([*words, "-new", "608"])
    nnunet("nnUNetv2_plan_and_preprocess", "-d", 608, "-c", "2d", "-npfp", 1, "-np", 1, "--verify_dataset_integrity")
    plans = planned.preprocessed.with_name("Dataset608_BlobsPoints") / "nnUNetPlans.json"
    schemes = json.loads(plans.read_text(encoding="utf-8"))["configurations"]["2d"]["normalization_schemes"]
    assert schemes == ["ZScoreNormalization", *["NoNormalization"] * 6], "points as they are"
    nnunet("nnUNetv2_train", 608, "2d", "all", "-tr", TRAINER, "-device", "cpu")
    point_channels.main([*words, "-i", str(images), "-o", str(with_points)])
    options = ["-tr", TRAINER, "-c", "2d", "-f", "all", "-device", "cpu", "-npp", 1, "-nps", 1, "--disable_tta"]
    nnunet("nnUNetv2_predict", "-d", 608, "-i", with_points, "-o", found, *options)
    plant_lone_pieces(found)
    point_channels.drop_main(["-d", "507", "-i", str(images), "-pred", str(found), "-o", str(kept)])
    for case in RawDataset(planned.raw).cases("Ts"):
        before, geometry = READER.read_label(found / f"{case.case}.nii.gz")
        after, own = READER.read_label(kept / f"{case.case}.nii.gz")
        assert own.difference(geometry) is None
        assert (after == before)[after > 0].all(), "only taken away"
        assert before[0, 0, 0] == 1 and after[0, 0, 0] == 0


def plant_lone_pieces(folder: Path) -> None:
    """Give every segmentation a piece of the first class around a voxel with a point, and one in a corner without."""
    for file in folder.glob("*.nii.gz"):
        label_map, geometry = READER.read_label(file)
        label_map[:] = 0
        label_map[2:-1, 4:-4, 4:-4], label_map[0, 0, 0] = 1, 1
        READER.write_segmentation(file, label_map, geometry)
