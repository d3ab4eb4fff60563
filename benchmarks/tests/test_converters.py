"""The converters, on tiny files in the layout of FUMPE and KiTS23."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.io import savemat

from evidence.converters import fumpe, kits23, raw
from evidence.datasets import DATASETS
from evidence.jobs import Setting
from spdnet.dataset import RawDataset, verify_dataset_integrity
from spdnet.errors import DatasetError
from spdnet.tests.tiny import write_volume

SHAPE = (12, 8, 9)  # slices, rows, columns
SPACING_ZYX_MM = (2.5, 0.7, 0.7)
PERMUTED = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])  # slices are the fastest axis, as in KiTS


def chest(index: int) -> tuple[np.ndarray, np.ndarray]:
    """HU int16 and emboli bool (z, y, x), slices by position: lungs, an artery off every middle, a clot in a part."""
    hu = np.full(SHAPE, -800, dtype=np.int16)
    hu[:, 1:4, 5:8] = 300
    clot = np.zeros(SHAPE, dtype=bool)
    clot[1 + index % 3 : 5, 2, 5:7] = True
    clot[1, 3, 7] = True
    hu[clot] = 60
    return hu, clot


def write_dicom_series(folder: Path, hu: np.ndarray, name_of_position: list[int], uid: str = "1") -> None:
    """A file for every slice, D0001.dcm and so on; `name_of_position` has the number in the name, from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for position, number in enumerate(name_of_position):
        image = sitk.GetImageFromArray(hu[position])
        image.SetSpacing(SPACING_ZYX_MM[:0:-1])
        for tag, value in {
            "0008|0060": "CT",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0020|000d": "1.2.826.0.1.3680043.2.1",
            "0020|000e": f"1.2.826.0.1.3680043.2.1.{uid}",
            "0008|0018": f"1.2.826.0.1.3680043.2.1.{uid}.{number + 1}",
            "0020|0013": str(number + 1),
            "0020|0032": f"-10\\-20\\{100 + SPACING_ZYX_MM[0] * position}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": str(SPACING_ZYX_MM[0]),
            "0028|1052": "-1024",
            "0028|1053": "1",
        }.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"D{number + 1:04d}.dcm"))
        writer.Execute(image)


def write_fumpe(source: Path, n: int = 5) -> None:
    """Patients whose files are named up and down the position in turn; the last one has no emboli."""
    for index in range(n):
        hu, clot = chest(index)
        clot = clot if index < n - 1 else np.zeros_like(clot)
        order = list(range(SHAPE[0])) if index % 2 else list(range(SHAPE[0]))[::-1]
        write_dicom_series(source / "CT_scans" / f"PAT{index + 1:03d}", hu, order)
        write_mask(source / "GroundTruth" / f"PAT{index + 1:03d}.mat", clot[np.argsort(order)])


def write_mask(file: Path, slices_by_name: np.ndarray, key: str = "Mask") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {key: slices_by_name.transpose(1, 2, 0).astype(np.uint8)}, do_compression=True)


def converted_cases(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[float, ...]]]:
    """Image, label (z, y, x) and spacing of each case of a raw data set, which must be a whole one."""
    dataset = RawDataset(folder)
    verify_dataset_integrity(dataset)
    found = {}
    for case in [*dataset.cases("Tr"), *dataset.cases("Ts")]:
        assert case.label is not None
        (image,), geometry = dataset.reader.read_image(case.images)
        found[case.case] = image, dataset.reader.read_label(case.label)[0], geometry.spacing_zyx_mm
    return found


def test_fumpe_masks_follow_the_names_of_the_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write_fumpe(tmp_path / "fumpe")
    fumpe.main([str(tmp_path / "fumpe"), str(tmp_path / "raw")])
    found = converted_cases(tmp_path / "raw")
    assert sorted(found) == [f"PAT{i:03d}" for i in range(1, 6)]
    for index, (_, (image, label, spacing)) in enumerate(sorted(found.items())):
        hu, clot = chest(index)
        np.testing.assert_array_equal(image, hu)
        np.testing.assert_array_equal(label, clot if index < 4 else 0)
        assert spacing == pytest.approx(SPACING_ZYX_MM)
    assert "PAT005: no emboli" in caplog.text and "PAT001: 9 voxels of emboli, median 60 HU" in caplog.text
    assert "warning" not in caplog.text


def test_fumpe_warns_where_emboli_lie_in_air(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hu, clot = chest(0)
    hu[6:] = -800  # the artery ends, so that slices in the wrong order show
    write_dicom_series(tmp_path / "PAT001", hu, list(range(SHAPE[0])))
    write_mask(tmp_path / "PAT001.mat", clot[::-1])
    fumpe.convert_patient(tmp_path / "PAT001", tmp_path / "PAT001.mat")
    assert "PAT001: 100 % of the emboli lie in air (0 % with the slices in reverse order)" in caplog.text


def test_fumpe_names_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    assert fumpe._ranks_by_name(["a/D10.dcm", "a/D2.dcm", "a/D1.dcm"]) == [2, 1, 0]
    assert fumpe._ranks_by_name(["D0001.dcm", "D0003.dcm", "D0002.dcm"]) == [0, 2, 1]


def test_fumpe_takes_the_series_with_the_mask_s_slices(tmp_path: Path) -> None:
    hu, clot = chest(0)
    write_dicom_series(tmp_path / "PAT001", hu, list(range(SHAPE[0])))
    write_dicom_series(tmp_path / "PAT001", hu[:2] - 7, [20, 21], uid="2")  # a scout
    write_mask(tmp_path / "PAT001.mat", clot)
    converted = fumpe.convert_patient(tmp_path / "PAT001", tmp_path / "PAT001.mat")
    np.testing.assert_array_equal(converted.label_map, clot)
    write_dicom_series(tmp_path / "PAT001", hu, list(range(40, 40 + SHAPE[0])), uid="3")
    with pytest.raises(DatasetError, match=r"one DICOM series of the mask's 12 slices; it holds 3 series"):
        fumpe.convert_patient(tmp_path / "PAT001", tmp_path / "PAT001.mat")


def test_fumpe_says_what_is_wrong_with_a_mask(tmp_path: Path) -> None:
    hu, clot = chest(0)
    folder, file = tmp_path / "PAT001", tmp_path / "PAT001.mat"
    write_dicom_series(folder, hu, list(range(SHAPE[0])))
    for mask, key, message in (
        (clot[:-1], "Mask", r"one DICOM series of the mask's 11 slices; it holds 1 series, of \[12\]"),
        (clot[:, :-1], "Mask", r"a mask of \(7, 9, 12\) rows, columns and slices is not on the image's grid.*12, 8, 9"),
        (clot, "GT", r"no array 'Mask' of three dimensions; it holds \{'GT': \(8, 9, 12\)\}"),
    ):
        write_mask(file, mask, key)
        with pytest.raises(DatasetError, match=message):
            fumpe.convert_patient(folder, file)
    file.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(100))
    with pytest.raises(DatasetError, match="cannot be read as a MATLAB file of version 7 or older"):
        fumpe.convert_patient(folder, file)


def test_fumpe_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fumpe(tmp_path / "fumpe", 2)
    (tmp_path / "fumpe" / "GroundTruth" / "PAT002.mat").unlink()
    for source, message in (
        (tmp_path / "fumpe", "lacks the masks of 1 patients: ['PAT002']"),
        (tmp_path / "fumpe" / "CT_scans", "SOURCE must be the folder above CT_scans"),
    ):
        with pytest.raises(SystemExit):
            fumpe.main([str(source), str(tmp_path / "raw")])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "raw").exists()


def write_kits(source: Path, n: int = 5) -> dict[str, np.ndarray]:
    """Cases with a kidney, a tumour and a cyst, stored as KiTS stores them; returns their labels (z, y, x)."""
    written = {}
    for index in range(n):
        label = np.zeros((9, 8, 12), dtype=np.uint8)
        label[2:7, 2:6, 3:9] = 1
        label[3:5, 3:5, 4 : 6 + index % 2] = 2
        label[5, 4, 7] = 3
        image = np.random.default_rng(index).normal(50, 20, label.shape).astype(np.float32) + 100 * label
        case = f"case_{index:05d}"
        write_volume(source / case / "imaging.nii.gz", image, PERMUTED, SPACING_ZYX_MM[::-1])
        write_volume(source / case / "segmentation.nii.gz", label, PERMUTED, SPACING_ZYX_MM[::-1])
        written[case] = label
    return written


@pytest.mark.parametrize(("target", "values"), [("kidney_and_mass", (1, 2, 3)), ("mass", (2, 3)), ("tumor", (2,))])
def test_kits_target_is_a_hierarchical_class(tmp_path: Path, target: str, values: tuple[int, ...]) -> None:
    labels = write_kits(tmp_path / "dataset")
    kits23.main([str(tmp_path / "dataset"), str(tmp_path / "raw"), "-target", target])
    found = converted_cases(tmp_path / "raw")
    assert found.keys() == labels.keys()
    for case, (_, label, spacing) in found.items():
        np.testing.assert_array_equal(label, np.isin(labels[case], values))
        assert spacing == pytest.approx(SPACING_ZYX_MM[::-1])
    dataset = RawDataset(tmp_path / "raw")
    assert dataset.labels.names == (target,)
    for case in dataset.cases("Tr"):
        assert case.images[0].samefile(tmp_path / "dataset" / case.case / "imaging.nii.gz")


def test_kits_is_the_whole_kidney_by_default(tmp_path: Path) -> None:
    write_kits(tmp_path / "dataset")
    kits23.main([str(tmp_path / "dataset"), str(tmp_path / "raw")])
    assert RawDataset(tmp_path / "raw").labels.names == ("kidney_and_mass",)


def test_kits_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "dataset"
    labels = write_kits(source, 3)

    def error(folder: Path = source) -> str:
        with pytest.raises(SystemExit):
            kits23.main([str(folder), str(tmp_path / "raw")])
        return str(capsys.readouterr().err)

    assert "SOURCE must be the challenge's folder dataset" in error(tmp_path)
    file = source / "case_00001" / "imaging.nii.gz"
    content = file.read_bytes()
    file.unlink()
    assert "lacks 1 files, the first of them ['case_00001/imaging.nii.gz']; the challenge's command kits23_d" in error()
    file.write_bytes(content)
    segmentation = source / "case_00002" / "segmentation.nii.gz"
    write_volume(segmentation, labels["case_00002"][:-1], PERMUTED, SPACING_ZYX_MM[::-1])
    assert "case case_00002: imaging.nii.gz and segmentation.nii.gz are on different grids: shape" in error()
    write_volume(segmentation, labels["case_00002"] * 2, PERMUTED, SPACING_ZYX_MM[::-1])
    assert "case case_00002: segmentation.nii.gz holds [4, 6]; KiTS23's labels are 0 to 3" in error()


def test_an_interrupted_conversion_goes_on_and_is_not_mixed_with_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_kits(tmp_path / "dataset")
    broken = tmp_path / "dataset" / "case_00003" / "segmentation.nii.gz"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    command = [str(tmp_path / "dataset"), str(tmp_path / "raw")]
    with pytest.raises(SystemExit):
        kits23.main(command)
    assert not (tmp_path / "raw" / "dataset.json").exists()
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "raw").glob("labels*/*")}
    assert len(before) == 3
    broken.write_bytes(content)
    with pytest.raises(SystemExit):
        kits23.main([*command, "-target", "mass"])
    assert "holds another conversion" in capsys.readouterr().err
    kits23.main(command)
    assert converted_cases(tmp_path / "raw").keys() == labels.keys()
    assert {f: f.stat().st_mtime_ns for f in before} == before
    with pytest.raises(SystemExit):
        kits23.main(command)


def test_a_fifth_is_the_test_part() -> None:
    names = [f"case_{i:05d}" for i in range(489)]
    parts = raw.split(names)
    assert sorted(parts) == names and list(parts.values()).count("Ts") == 98
    assert raw.split(names[::-1]) == parts
    assert list(raw.split([f"PAT{i:03d}" for i in range(1, 36)]).values()).count("Ts") == 7


def test_converted_data_are_a_source_of_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_kits(tmp_path / "dataset", 10)
    kits23.main([str(tmp_path / "dataset"), str(tmp_path / "raw")])
    monkeypatch.setenv("SPD_BENCHMARK_KITS23", str(tmp_path / "raw"))
    DATASETS["kits23"].write(Setting("kits23", "recipe", profile="trial"), tmp_path / "nnUNet_raw")
    (written,) = (tmp_path / "nnUNet_raw").iterdir()
    assert len(RawDataset(written).cases("Tr")) == 5 and len(RawDataset(written).cases("Ts")) == 2
