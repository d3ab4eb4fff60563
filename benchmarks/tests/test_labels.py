"""The labels as the networks' slices can hold them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from stage1_file import write_plans

from evidence.collection import LABELS
from evidence.methods import METHODS
from evidence.methods.labels import main
from spdnet.tests.tiny import tiny_settings, write_blob_dataset


def dices(raw: Path, image_size: int) -> list[float]:
    """Dice of each test case's label with itself, brought to slices of a size and back on the label's grid."""
    settings = replace(tiny_settings(), image_size=image_size, pixel_spacing_mm=1e-3)  # the slices fill the square
    plans, output = write_plans(raw.parent / f"plans_{image_size}.json", settings), raw.parent / f"labels_{image_size}"
    main([str(raw), "-plans", str(plans), "-o", str(output)])
    found = []
    for file in sorted((raw / "labelsTs").glob("*.nii.gz")):
        label, again = (sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in (file, output / file.name))
        assert label.any() and label.shape == again.shape
        found.append(2 * np.sum((label == again) & (label > 0)) / (np.sum(label > 0) + np.sum(again > 0)))
    assert found
    return found


def test_fine_slices_keep_them_and_coarse_ones_do_not(tmp_path: Path) -> None:
    raw = write_blob_dataset(tmp_path, n_train=1)
    fine, coarse = dices(raw, 448), dices(raw, 8)
    assert min(fine) > 0.99
    assert max(coarse) < 0.98 and min(coarse) > 0.5


def test_a_case_without_label_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_blob_dataset(tmp_path, n_train=1)
    file = min((raw / "labelsTs").glob("*.nii.gz"))
    file.unlink()
    with pytest.raises(SystemExit):
        dices(raw, 56)
    assert f"case {file.name.removesuffix('.nii.gz')}: {raw} has no label of it" in capsys.readouterr().err


def test_they_are_a_bound_and_no_rival() -> None:
    assert METHODS[LABELS].group == METHODS["ceiling"].group
    assert getattr(METHODS[LABELS], "true_prompts", False) and not METHODS[LABELS].uses_prompts
