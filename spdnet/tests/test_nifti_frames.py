"""NIfTI headers with two affines."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.dataset.image_io import NibabelIO, SimpleITKIO
from spdnet.errors import DatasetError

AFFINE = np.array([[-0.7, 0, 0, 20.0], [0, -0.9, 0, 31.0], [0, 0, 3.0, -40.0], [0, 0, 0, 1]])


def write(file: Path, s_affine: np.ndarray | None, s_code: int, q_affine: np.ndarray | None, q_code: int) -> Path:
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), None)
    image.header.set_zooms((0.7, 0.9, 3.0))
    image.header.set_sform(s_affine, s_code)
    image.header.set_qform(q_affine, q_code)
    nibabel.save(nibabel.Nifti1Image(image.dataobj, None, image.header), file)
    return file


def moved(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += mm
    return affine


@pytest.mark.parametrize(
    ("s_affine", "s_code", "q_affine", "q_code"),
    [
        (AFFINE, 1, AFFINE, 1),
        (AFFINE, 2, AFFINE, 1),
        (AFFINE, 1, None, 0),
        (None, 0, AFFINE, 1),
        (AFFINE, 1, moved(45), 1),  # ITK takes a scanner s-form, as nibabel does
        (AFFINE, 4, moved(0.005), 1),
        (None, 0, None, 0),
    ],
)
def test_frames_that_agree_or_are_not_stated_pass(
    tmp_path: Path, s_affine: np.ndarray | None, s_code: int, q_affine: np.ndarray | None, q_code: int
) -> None:
    file = write(tmp_path / "a.nii.gz", s_affine, s_code, q_affine, q_code)
    for reader in (SimpleITKIO(), NibabelIO()):
        array, geometry = reader.read_label(file)
        assert array.shape == geometry.shape_zyx == (5, 4, 3)
    read = sitk.ReadImage(str(file))
    np.testing.assert_allclose(SimpleITKIO().read_geometry(file).origin_lps_mm, read.GetOrigin(), atol=1e-6)


@pytest.mark.parametrize("s_code", [2, 3, 4])
def test_frames_that_differ_are_an_error_that_names_both(tmp_path: Path, s_code: int) -> None:
    file = write(tmp_path / "case_0000.nii.gz", AFFINE, s_code, moved(45), 1)
    assert sitk.ReadImage(str(file)).GetOrigin()[0] == pytest.approx(-65.0), "ITK takes the q-form here"
    for reader in (SimpleITKIO(), NibabelIO()):
        for read in (reader.read_geometry, reader.read_label, lambda f, c, r=reader: r.read_image([f], c)):
            with pytest.raises(DatasetError, match=rf"case TI_1: .*s-form \(code {s_code}\), q-form \(code 1\)") as e:
                read(file, "TI_1")
            assert "45 mm apart" in str(e.value)
            assert "(-65, -31, -40) LPS mm" in str(e.value)
            assert "nibabel at (-20, -31, -40)" in str(e.value)


def test_a_sheared_s_form_beside_a_q_form_is_an_error_and_alone_it_is_nibabel_s(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.4
    both = write(tmp_path / "both.nii.gz", sheared, 1, AFFINE, 1)
    for reader in (SimpleITKIO(), NibabelIO()):
        with pytest.raises(DatasetError, match="has two frames"):
            reader.read_geometry(both)
    alone = write(tmp_path / "alone.nii.gz", sheared, 1, None, 0)
    with pytest.raises(DatasetError, match="orthonormal"):
        SimpleITKIO().read_geometry(alone)
    np.testing.assert_allclose(NibabelIO().read_geometry(alone).affine_ras, sheared, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("field", "place", "named"),
    [
        ("srow_x", (0,), r"s-form \(srow_x\)"),
        ("srow_y", (3,), r"s-form \(srow_y\)"),
        ("pixdim", (2,), "pixdim"),
        ("qoffset_z", (), r"q-form \(qoffset_z\)"),
        ("quatern_b", (), r"q-form \(quatern_b\)"),
    ],
)
def test_numbers_that_are_not_finite_are_named_before_any_library_stumbles_on_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], field: str, place: tuple[int, ...], named: str, value: float
) -> None:
    file = write(tmp_path / "case_0000.nii", AFFINE, 1, AFFINE, 1)
    header = np.memmap(file, dtype=nibabel.Nifti1Header.template_dtype, mode="r+", shape=(1,))
    header[field][(0, *place)] = value
    header.flush()
    for reader in (SimpleITKIO(), NibabelIO()):
        for read in (reader.read_geometry, reader.read_label):
            with pytest.raises(
                DatasetError, match=rf"case TI_1: the {named} in the header of .* must be finite.*Export"
            ):
                read(file, "TI_1")
    assert capfd.readouterr() == ("", "")


def test_what_is_not_finite_in_a_form_that_is_not_set_is_no_error(tmp_path: Path) -> None:
    file = write(tmp_path / "case_0000.nii", AFFINE, 1, None, 0)
    header = np.memmap(file, dtype=nibabel.Nifti1Header.template_dtype, mode="r+", shape=(1,))
    header[0]["qoffset_x"] = np.nan
    header.flush()
    np.testing.assert_allclose(SimpleITKIO().read_geometry(file).affine_ras, AFFINE, atol=1e-5)


def test_a_spacing_that_only_one_program_uses_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "a.nii.gz", AFFINE, 1, None, 0)
    image = nibabel.load(file)
    image.header["pixdim"][1:4] = 1.0
    nibabel.save(nibabel.Nifti1Image(image.dataobj, None, image.header), file)
    with pytest.raises(DatasetError, match=r"with the spacing \(1, 1, 1\), nibabel at .* with \(0\.7, 0\.9, 3\)"):
        SimpleITKIO().read_geometry(file)
