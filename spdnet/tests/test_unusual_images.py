"""Images of unusual shape, spacing and type go the whole way: planned, preprocessed, trained on and predicted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.cli import evaluate, plan_and_preprocess, predict, train
from spdnet.tests.conftest import VARIABLES

CASES = 3
Change = Callable[[sitk.Image, sitk.Image], tuple[sitk.Image, sitk.Image]]


@dataclass(frozen=True)
class Unusual:
    """What is unusual.

    Attributes:
        shape_zyx, spacing_zyx_mm: of every case.
        change: makes something of image and label.
    """

    shape_zyx: tuple[int, int, int] = (4, 24, 28)
    spacing_zyx_mm: tuple[float, float, float] = (4.0, 1.2, 1.0)
    change: Change = lambda image, label: (image, label)


def float_labels(image: sitk.Image, label: sitk.Image) -> tuple[sitk.Image, sitk.Image]:
    """Label values 0.0 and 1.0."""
    return image, sitk.Cast(label, sitk.sitkFloat64)


def of_four_dimensions(image: sitk.Image, label: sitk.Image) -> tuple[sitk.Image, sitk.Image]:
    """A fourth axis of one channel, as some converters leave it."""
    return sitk.JoinSeries([image]), label


QUICK = ("spacings of 50 to 1", "slices of 5 by 2000 pixels")
UNUSUAL = {
    "one slice": Unusual((1, 24, 28)),
    "spacings of 50 to 1": Unusual((4, 24, 28), (50.0, 1.0, 1.0)),
    "spacings of 50 to 1 in plane": Unusual((4, 6, 120), (50.0, 50.0, 1.0)),
    "slices of 5 by 2000 pixels": Unusual((3, 5, 2000), (4.0, 1.0, 1.0)),
    "slices of 2000 by 5 pixels": Unusual((3, 2000, 5), (4.0, 1.0, 1.0)),
    "a column of single voxels": Unusual((40, 1, 1), (4.0, 1.0, 1.0)),
    "labels of floating-point numbers": Unusual(change=float_labels),
    "a fourth axis of one channel": Unusual(change=of_four_dimensions),
}


def write_dataset(root: Path, unusual: Unusual) -> Path:
    """A data set of small cases, each with a bright target in the middle; returns its folder."""
    folder = root / "nnUNet_raw" / "Dataset512_Unusual"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(CASES):
        label = np.zeros(unusual.shape_zyx, np.uint8)
        middle = tuple(slice(n // 3, max(n - n // 3, 1)) for n in unusual.shape_zyx)
        label[middle] = 1
        if label.size == max(label.shape):
            label[: len(label) // 2] = 0
        voxels = (rng.normal(50, 5, label.shape) + 60 * label).astype(np.float32)
        image, target = sitk.GetImageFromArray(voxels), sitk.GetImageFromArray(label)
        for each in (image, target):
            each.SetSpacing(unusual.spacing_zyx_mm[::-1])
        image, target = unusual.change(image, target)
        sitk.WriteImage(image, str(folder / "imagesTr" / f"case_{number}_0000.nii.gz"))
        sitk.WriteImage(target, str(folder / "labelsTr" / f"case_{number}.nii.gz"))
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "target": 1},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in UNUSUAL])
def test_the_whole_way(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unusual = UNUSUAL[name]
    for variable in VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    raw = write_dataset(tmp_path, unusual)
    plan_and_preprocess.main(
        ["-d", "512", "-np", "1", "-sam", "tiny", "-image_size", "56", "-device", "cpu", "--verify_dataset_integrity"]
    )
    plans = tmp_path / "nnUNet_preprocessed" / raw.name / "SPDPlans.json"
    content = json.loads(plans.read_text(encoding="utf-8"))
    for stage in ("stage1", "stage2"):
        content["spd"][stage].update({"iterations_per_epoch": 2, "batch_size": 4})
    plans.write_text(json.dumps(content), encoding="utf-8")
    train.main(["512", "all", "-epochs", "1", "1", "-device", "cpu"])
    predict.main(["-i", str(raw / "imagesTr"), "-o", str(tmp_path / "out"), "--no_prompts", "-device", "cpu"])
    for number in range(CASES):
        label = sitk.ReadImage(str(raw / "labelsTr" / f"case_{number}.nii.gz"))
        found = sitk.ReadImage(str(tmp_path / "out" / f"case_{number}.nii.gz"))
        assert found.GetSize() == label.GetSize()
        np.testing.assert_allclose(found.GetSpacing(), label.GetSpacing(), rtol=1e-5)
        assert set(np.unique(sitk.GetArrayFromImage(found)).tolist()) <= {0, 1}
    evaluate.main(["-ref", str(raw / "labelsTr"), "-pred", str(tmp_path / "out"), "-djfile", str(raw / "dataset.json")])
