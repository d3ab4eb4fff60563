"""Our predictions under nnU-Net's own tools; needs the package nnunetv2 (extra `nnunet`)."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.dataset import Labels, RawDataset
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.evaluation import nnunet_summary
from spdnet.inference import SPDPredictor
from spdnet.prompts import Markup, write_markups
from spdnet.tests.conftest import Workspace

pytestmark = pytest.mark.nnunet
pytest.importorskip("nnunetv2")

REGIONS = {"labels": {"background": 0, "bright": [1, 2], "half": [2]}, "regions_class_order": [1, 2]}


def run(trained: Workspace, entry_point: str, *arguments: Any) -> None:
    """Run one of nnU-Net's commands as a command."""
    module, function = entry_point.split(":")
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    folders = {v: str(trained.root / v) for v in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment = {**folders, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_predictor_lacks_of_nnunets_is_what_the_page_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "python_api.md"
    if not page.is_file():
        pytest.skip("the documentation is not here")
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if "| not there" in line]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    theirs = importlib.import_module("nnunetv2.inference.predict_from_raw_data").nnUNetPredictor
    assert told == {name for name in vars(theirs) if name[0] != "_"} - set(vars(SPDPredictor))
    for name in {name for name in vars(theirs) if name[0] != "_"} & set(vars(SPDPredictor)) - {"manual_initialization"}:
        names = list(inspect.signature(getattr(theirs, name)).parameters)
        assert list(inspect.signature(getattr(SPDPredictor, name)).parameters)[: len(names)] == names


def read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def predict(trained: Workspace, folder: Path, changes: dict[str, Any]) -> SPDPredictor:
    """Predict the test cases with fold 0, of which one is stored flipped and oblique."""
    predictor = SPDPredictor(device="cpu", allow_tqdm=False, use_mirroring=False)
    predictor.initialize_from_trained_model_folder(trained.model(), [0])
    dataset_json = {**predictor.dataset_json, **changes}
    predictor.manual_initialization(predictor.networks, predictor.plans, dataset_json, "SPDTrainer", None)
    predictor.predict_from_files(trained.raw / "imagesTs", folder, True, prompts=trained.raw / "promptsTs")
    return predictor


@pytest.mark.parametrize("changes", [{}, REGIONS], ids=["labels", "regions"])
def test_an_ensemble_of_a_prediction_with_itself_is_the_prediction(
    trained: Workspace, tmp_path: Path, changes: dict[str, Any]
) -> None:
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    predict(trained, first, changes)
    predict(trained, second, changes)
    command = "nnunetv2.ensembling.ensemble:entry_point_ensemble_folders"
    run(trained, command, "-i", first, second, "-o", out, "-np", 1, "--save_npz")
    for case in ("blob_005", "blob_006"):
        ours, theirs = (sitk.ReadImage(str(folder / f"{case}.nii.gz")) for folder in (first, out))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
        assert ours.GetDirection() == pytest.approx(theirs.GetDirection(), abs=1e-6)
        assert ours.GetOrigin() == pytest.approx(theirs.GetOrigin(), abs=1e-5)
        assert set(np.unique(sitk.GetArrayFromImage(ours)).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("changes", [{}, REGIONS], ids=["labels", "regions"])
def test_nnunets_evaluation_of_our_predictions_is_ours(
    trained: Workspace, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = tmp_path / "out"
    predictor = predict(trained, folder, changes)
    run(
        trained, "nnunetv2.evaluation.evaluate_predictions:evaluate_folder_entry_point",
        trained.raw / "labelsTs", folder, "-djfile", folder / "dataset.json", "-pfile", folder / "plans.json",
        "-np", 1,
    )  # fmt: skip
    theirs = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    cases = ("blob_005", "blob_006")
    pairs = [(trained.raw / "labelsTs" / f"{c}.nii.gz", folder / f"{c}.nii.gz") for c in cases]
    ours = nnunet_summary(pairs, SimpleITKIO(), Labels.from_dataset_json(predictor.dataset_json))
    assert ours["foreground_mean"]["Dice"] == pytest.approx(theirs["foreground_mean"]["Dice"], abs=1e-6)
    assert ours["mean"].keys() == theirs["mean"].keys()
    for key, metrics in theirs["mean"].items():
        assert ours["mean"][key] == pytest.approx(metrics, abs=1e-6)


READERS = {
    "SimpleITKIO": "simpleitk_reader_writer",
    "SimpleITKIOWithReorient": "simpleitk_reader_writer",
    "NibabelIO": "nibabel_reader_writer",
    "NibabelIOWithReorient": "nibabel_reader_writer",
}


@pytest.mark.parametrize("name", READERS)
def test_arrays_as_nnunets_readers_give_them(trained: Workspace, tmp_path: Path, name: str) -> None:
    """Image, points, segmentation and probabilities of one reader: by arrays the same as by files."""
    theirs = getattr(importlib.import_module(f"nnunetv2.imageio.{READERS[name]}"), name)()
    predictor = SPDPredictor(device="cpu", allow_tqdm=False, use_mirroring=False)
    predictor.initialize_from_trained_model_folder(trained.model(), [0])
    plans = replace(predictor.plans, image_reader_writer=name)
    predictor.manual_initialization(predictor.networks, plans, predictor.dataset_json, "SPDTrainer", None)
    for case in RawDataset(trained.raw).cases("Ts"):
        _, geometry = predictor.reader.read_image(case.images)
        voxel = np.array([[3, 9, 20]])  # one point, as a markup, as a label file, and so as an index of their array
        write_markups(tmp_path / "p.mrk.json", [Markup("x", "points", geometry.voxel_to_world(voxel), ("x",))])
        marker = np.zeros(geometry.shape_zyx, dtype=np.uint8)
        marker[tuple(voxel[0])] = 1
        predictor.reader.write_segmentation(tmp_path / "marker.nii.gz", marker, geometry)
        seen = np.argwhere(theirs.read_seg(str(tmp_path / "marker.nii.gz"))[0][0])

        image, properties = theirs.read_images([str(f) for f in case.images])
        segmentation, probabilities = predictor.predict_single_npy_array(
            image, properties, save_or_return_probabilities=True, points_zyx=seen
        )
        target = tmp_path / f"{case.case}_{name}"
        predictor.predict_from_files([case.images], [target], True, prompts=[tmp_path / "p.mrk.json"])
        expected = theirs.read_seg(str(target) + ".nii.gz")[0][0]
        assert expected.any()
        np.testing.assert_array_equal(segmentation, expected)
        np.testing.assert_array_equal(probabilities, np.load(f"{target}.npz")["probabilities"])
        assert not np.array_equal(
            probabilities, predictor.predict_single_npy_array(image, properties, None, None, True)[1]
        )
        stored = pickle.loads(Path(f"{target}.pkl").read_bytes())
        theirs.write_seg(probabilities.argmax(0).astype(np.uint8), str(tmp_path / "back.nii.gz"), stored)
        np.testing.assert_array_equal(read(tmp_path / "back.nii.gz"), read(Path(f"{target}.nii.gz")))
