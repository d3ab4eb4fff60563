"""The same scan in any of the 48 axis orders and flips, with the same world prompts, gives the same prediction."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.dataset import CaseFiles
from spdnet.inference import SPDPredictor
from spdnet.tests.conftest import Workspace

AXES = (("R", "L"), ("A", "P"), ("S", "I"))
CODES = ["".join(code) for order in itertools.permutations(AXES) for code in itertools.product(*order)]


def in_orientation(image: sitk.Image, code: str, file: Path) -> Path:
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(file))
    return file


def test_all_48_stored_orientations_give_one_prediction(trained: Workspace, tmp_path: Path) -> None:
    assert len(set(CODES)) == 48
    source = sitk.ReadImage(str(trained.raw / "imagesTs" / "blob_005_0000.nii.gz"))  # oblique
    prompts = trained.raw / "promptsTs" / "blob_005.mrk.json"
    predictor = SPDPredictor(device="cpu", use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trained.model(), (0,))
    reference: np.ndarray | None = None
    disagreement = {}
    for code in CODES:
        file = in_orientation(source, code, tmp_path / f"{code}_0000.nii.gz")
        prediction, geometry = predictor.predict_case(CaseFiles(code, (file,), None, prompts))
        assert prediction.segmentation.shape == geometry.shape_zyx
        stored = sitk.GetImageFromArray(prediction.segmentation)
        geometry.apply_to_sitk(stored)
        in_lps = sitk.DICOMOrient(stored, "LPS")
        found = sitk.GetArrayFromImage(in_lps)
        if reference is None:
            reference, grid = found, in_lps
            assert set(np.unique(found).tolist()) == {0, 1, 2}
            continue
        np.testing.assert_allclose(in_lps.GetOrigin(), grid.GetOrigin(), atol=1e-3)
        assert found.shape == reference.shape
        disagreement[code] = float((found != reference).mean())
    assert len(disagreement) == 47
    assert max(disagreement.values()) <= 1e-3, "all that differs is rounding at the threshold"


@pytest.mark.parametrize("code", ["RAS", "PIR"])
def test_a_test_that_sees_orientation(trained: Workspace, tmp_path: Path, code: str) -> None:
    """Prompts that are not turned with the image would be seen by the test above."""
    source = sitk.ReadImage(str(trained.raw / "imagesTs" / "blob_005_0000.nii.gz"))
    mirrored = sitk.Flip(source, (True, False, False))
    mirrored.CopyInformation(source)
    predictor = SPDPredictor(device="cpu", use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trained.model(), (0,))
    prompts = trained.raw / "promptsTs" / "blob_005.mrk.json"
    results = []
    for name, image in (("a", source), ("b", mirrored)):
        file = in_orientation(image, code, tmp_path / f"{name}_0000.nii.gz")
        results.append(predictor.predict_case(CaseFiles(name, (file,), None, prompts))[0].segmentation)
    assert (results[0] != results[1]).mean() > 0.01
