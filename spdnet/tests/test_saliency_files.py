"""The saliency of stage 1 as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spdnet.cli import predict
from spdnet.dataset import RawDataset, get_reader
from spdnet.geometry.case_mapping import plan_case_mapping
from spdnet.inference import SPDPredictor
from spdnet.inference.export import probabilities_on_raw_grid
from spdnet.inference.saliency_files import saliency_file, write_saliency
from spdnet.tests.conftest import Workspace


def test_each_class_has_a_file_in_per_cent(tmp_path: Path, raw_workspace: Workspace) -> None:
    reader = get_reader("SimpleITKIO")
    geometry = reader.read_geometry(raw_workspace.raw / "imagesTr" / "blob_001_0000.nii.gz")
    mapping = plan_case_mapping(geometry, 0, 56, 0.6)
    saliency = np.stack([np.full((mapping.n_slices, 56, 56), v, dtype=np.float32) for v in (0.25, 1.0)], axis=1)
    write_saliency(tmp_path, "c", ".nii.gz", saliency, mapping, geometry, reader)
    assert sorted(f.name for f in (tmp_path / "saliency").iterdir()) == ["c_0000.nii.gz", "c_0001.nii.gz"]
    for k, expected in ((0, 25), (1, 100)):
        values, grid = reader.read_label(saliency_file(tmp_path, "c", k, ".nii.gz"))
        assert (values == expected).all() and geometry.difference(grid) is None


def test_prediction_writes_it_when_asked(trained: Workspace) -> None:
    folder = trained.root / "preds"
    arguments = ["-i", str(trained.raw / "imagesTs"), "-o", str(folder), "-device", "cpu", "-f", "0"]
    predict.main(arguments)
    assert not (folder / "saliency").exists()
    predict.main([*arguments, "--save_saliency"])
    predictor = SPDPredictor(device="cpu")
    predictor.initialize_from_trained_model_folder(trained.model(), (0,))
    for case in RawDataset(trained.raw).cases("Ts"):
        prediction, _ = predictor.predict_case(case)
        expected = probabilities_on_raw_grid(prediction.volumes[0].saliency, prediction.network_case.mapping)
        for k in (0, 1):
            values, _ = predictor.reader.read_label(saliency_file(folder, case.case, k, ".nii.gz"))
            assert values / 100 == pytest.approx(expected[k], abs=0.006)


def test_validation_writes_it_with_the_fates(trained: Workspace) -> None:
    validation = trained.model() / "fold_0" / "validation"
    cases = sorted(f.name.removesuffix(".nii.gz") for f in validation.glob("*.nii.gz"))
    assert cases
    for case in cases:
        assert saliency_file(validation, case, 1, ".nii.gz").exists()
        assert (validation / "prompts" / f"{case}.csv").exists()
