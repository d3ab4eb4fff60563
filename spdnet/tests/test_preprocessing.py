"""Raw cases to stored slices: one frame for image, masks and prompts, and files read slice by slice."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from spdnet.dataset import RawDataset
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.errors import DatasetError, PromptFileError
from spdnet.geometry import CaseMapping, ImageGeometry
from spdnet.planning import SPDPlans, SPDPreprocessor, SPDSettings, StoredCase, preprocess_image
from spdnet.planning.plans import NormalizationSettings, PromptSettings
from spdnet.planning.preprocessor import preprocess_training_case
from spdnet.planning.storage import CaseWriter
from spdnet.prompts import Markup, SlicePrompts, write_markups
from spdnet.tests.conftest import Workspace
from spdnet.tests.tiny import tiny_settings


def preprocess(workspace: Workspace, target: Path, settings: SPDSettings | None = None, n_processes: int = 1) -> Path:
    """Preprocess the training cases by settings into a folder of their own; returns the cases' folder."""
    settings = settings or tiny_settings()
    target.mkdir(exist_ok=True)
    SPDPreprocessor(RawDataset(workspace.raw), SPDPlans("Dataset507_Blobs", "P", "SimpleITKIO", settings), target).run(
        n_processes
    )
    return target / "P_2d"


def write_inside_prompts(workspace: Workspace) -> None:
    """Prompt files with every voxel inside the blobs that does not touch their rim, in world coordinates."""
    (workspace.raw / "promptsTr").mkdir()
    for case in RawDataset(workspace.raw).training_cases():
        assert case.label is not None
        label, geometry = SimpleITKIO().read_label(case.label)
        markups = []
        for name, value in (("bright", 1), ("half", 2)):
            core = np.stack([ndimage.binary_erosion(m) for m in label == value])
            points = geometry.voxel_to_world(np.argwhere(core))
            markups.append(Markup(name, "points", points, tuple(str(i) for i in range(len(points)))))
        write_markups(workspace.raw / "promptsTr" / f"{case.case}.mrk.json", markups)


@pytest.mark.parametrize("crop", [False, True])
def test_image_masks_and_prompts_share_one_frame_in_any_orientation(
    workspace: Workspace, tmp_path: Path, crop: bool
) -> None:
    if crop:
        for file in (workspace.raw / "imagesTr").iterdir():
            image = sitk.ReadImage(str(file))
            array = sitk.GetArrayFromImage(image)
            array[:, :2] = array[:, :, 26:] = 0
            zeroed = sitk.GetImageFromArray(array)
            zeroed.CopyInformation(image)
            sitk.WriteImage(zeroed, str(file))
    write_inside_prompts(workspace)
    settings = tiny_settings(prompts=PromptSettings("files"), crop_to_nonzero=crop)
    folder = preprocess(workspace, tmp_path / "out", settings)
    assert StoredCase.list(folder) == [f"blob_{i:03d}" for i in range(5)]
    for name in StoredCase.list(folder):
        case = StoredCase(folder, name)
        slices, masks = np.asarray(case.slices, dtype=np.float32)[:, 0], np.asarray(case.masks).astype(bool)
        assert slices.shape[1:] == (56, 56)
        assert slices.min() >= 0
        assert slices.max() <= 1
        prompts = case.prompts
        assert len(prompts) > 50
        s, y, x = np.floor(prompts.points_syx + 0.5).astype(int).T
        assert masks[s, prompts.class_index, y, x].all()
        assert slices[masks[:, 0]].mean() > 0.8 > slices[masks[:, 1]].mean() > 0.3
        (top, bottom), (left, right) = case.mapping.content_box
        content = np.zeros((56, 56), dtype=bool)
        content[top:bottom, left:right] = True
        assert not slices[:, ~content].any()
        assert slices[:, content].mean() > 0.01
        label, geometry = SimpleITKIO().read_label(workspace.raw / "labelsTr" / f"{name}.nii.gz")
        assert case.geometry.difference(geometry) is None
        back = case.mapping.probabilities_to_raw(masks.astype(np.float32)) > 0.5
        for k, value in enumerate((1, 2)):
            truth = label == value
            assert 2 * (back[k] & truth).sum() / (back[k].sum() + truth.sum()) > 0.9
        assert case.target_slices.tolist() == masks.any(axis=(1, 2, 3)).tolist()
        assert 0 < case.target_slices.sum() < len(slices)
        image, _ = SimpleITKIO().read_image([workspace.raw / "imagesTr" / f"{name}_0000.nii.gz"])
        oriented = case.mapping.orient(image[0]) != 0
        kept = np.zeros_like(oriented)
        kept[tuple(slice(lo, hi) for lo, hi in case.mapping.crop_box)] = True
        np.testing.assert_array_equal(oriented, kept)
        sides = [hi - lo for lo, hi in case.mapping.crop_box[1:]]
        assert sides == ([22, 26] if crop else [24, 28])
        assert case.mapping.n_slices == len(slices) == len(label)


def test_points_outside_the_crop_are_dropped_and_reported(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = workspace.raw / "imagesTr" / "blob_000_0000.nii.gz"
    image, geometry = SimpleITKIO().read_image([file])
    image[:, :, 18:] = 0
    array = sitk.GetImageFromArray(image[0])
    array.CopyInformation(sitk.ReadImage(str(file)))
    sitk.WriteImage(array, str(file))
    (workspace.raw / "promptsTr").mkdir()
    points = geometry.voxel_to_world(np.array([[2, 10, 10], [2, 20, 10]]))
    for case in RawDataset(workspace.raw).training_cases():
        own = SimpleITKIO().read_image(case.images)[1].voxel_to_world(np.array([[2, 10, 10], [2, 20, 10]]))
        markup = Markup("", "points", points if case.case == "blob_000" else own, ("a", "b"))
        write_markups(workspace.raw / "promptsTr" / f"{case.case}.mrk.json", [markup])
    settings = tiny_settings(prompts=PromptSettings("files"), crop_to_nonzero=True)
    with caplog.at_level(logging.INFO):
        folder = preprocess(workspace, tmp_path / "out", settings)
    assert len(StoredCase(folder, "blob_000").prompts) == 1
    assert len(StoredCase(folder, "blob_001").prompts) == 2
    assert "case blob_000: 1 of 2 points lie outside the cropped region" in caplog.text


def digests(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*.*")}


def test_preprocessing_twice_gives_identical_files(workspace: Workspace, tmp_path: Path) -> None:
    first, second = preprocess(workspace, tmp_path / "a"), preprocess(workspace, tmp_path / "b")
    assert digests(first) == digests(second)
    preprocess(workspace, tmp_path / "a")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    names = {f"blob_{i:03d}{ending}" for i in range(5) for ending in (".npy", "_seg.npy", ".json")}
    assert {f.name for f in first.iterdir()} == names | {".made_with.json"}


@pytest.mark.slow
def test_processes_do_not_change_the_result(workspace: Workspace, tmp_path: Path) -> None:
    preprocess(workspace, tmp_path / "a", n_processes=1)
    preprocess(workspace, tmp_path / "b", n_processes=2)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_what_nnunet_shares_is_copied_and_foreign_cases_go(workspace: Workspace, tmp_path: Path) -> None:
    folder = preprocess(workspace, tmp_path / "out")
    for number in range(5):
        name = f"blob_{number:03d}.nii.gz"
        original = (workspace.raw / "labelsTr" / name).read_bytes()
        assert (tmp_path / "out" / "gt_segmentations" / name).read_bytes() == original
    assert (tmp_path / "out" / "dataset.json").exists()
    for kind, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (workspace.raw / kind / f"blob_004{ending}").unlink()
    preprocess(workspace, tmp_path / "out")
    assert StoredCase.list(folder) == [f"blob_{i:03d}" for i in range(4)]
    assert not list(folder.glob("blob_004*"))


# ---- storage ----------------------------------------------------------------------------------------------


def write_case(folder: Path, slices: np.ndarray, masks: np.ndarray, name: str = "a") -> StoredCase:
    mapping = CaseMapping((3, 8, 8), (0, 1, 2), (False,) * 3, ((0, 3), (0, 8), (0, 8)), (8, 8), (0, 0), 8)
    geometry = ImageGeometry((3, 8, 8), (5.0, 0.1 + 0.2, 1.0), (1 / 3, 2.0, 3.0))
    prompts = SlicePrompts(np.array([[1.0, 1 / 3, 2.5]]), np.array([-1]))
    CaseWriter(folder, name).write(slices, masks, None, mapping, geometry, prompts)
    return StoredCase(folder, name)


def some_arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    masks = (rng.random((3, 2, 8, 8)) > 0.5).astype(np.uint8)
    masks[1] = 0
    return rng.random((3, 1, 8, 8), dtype=np.float32), masks


def test_a_case_survives_storage(tmp_path: Path) -> None:
    slices, masks = some_arrays()
    case = write_case(tmp_path, slices, masks)
    assert case.slices.dtype == np.float16
    np.testing.assert_allclose(case.slices, slices, atol=5e-4)
    assert case.masks.dtype == np.uint8
    np.testing.assert_array_equal(case.masks, masks)
    assert case.mapping.crop_box == ((0, 3), (0, 8), (0, 8))
    assert case.geometry == ImageGeometry((3, 8, 8), (5.0, 0.1 + 0.2, 1.0), (1 / 3, 2.0, 3.0))
    assert case.prompts.points_syx.tolist() == [[1.0, 1 / 3, 2.5]]
    assert case.target_slices.tolist() == [True, False, True]


def test_slices_are_read_one_at_a_time(tmp_path: Path) -> None:
    case = write_case(tmp_path, *some_arrays())
    for array in (case.slices, case.masks):
        assert isinstance(array, np.memmap)
        assert array.mode == "r"
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    slice_1 = case.slices[1]
    assert isinstance(slice_1, np.memmap), "a view of the file, not a copy"
    np.testing.assert_array_equal(slice_1, np.load(tmp_path / "a.npy")[1])


def test_a_case_without_its_last_file_is_not_there(tmp_path: Path) -> None:
    slices, masks = some_arrays()
    for name in ("b", "a", "c"):
        write_case(tmp_path, slices, masks, name)
    assert StoredCase.list(tmp_path) == ["a", "b", "c"]
    (tmp_path / "b.json").unlink()
    (tmp_path / ".partial_d.json").write_text("", encoding="utf-8")
    assert StoredCase.list(tmp_path) == ["a", "c"]
    with pytest.raises(ValueError, match="could not convert"):
        write_case(tmp_path, np.array([["x"]]), masks, "c")  # cut off while being replaced
    assert StoredCase.list(tmp_path) == ["a"]
    StoredCase(tmp_path, "a").remove()
    assert not list(tmp_path.glob("a*"))
    with pytest.raises(DatasetError, match=r"a\.json is missing. Run spd_preprocess"):
        _ = StoredCase(tmp_path, "a").mapping
    with pytest.raises(DatasetError, match=r"case a: preprocessed file .*a\.npy is missing or damaged"):
        _ = StoredCase(tmp_path, "a").slices
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DatasetError, match=r"case a: .*missing or damaged"):
        _ = StoredCase(tmp_path, "a").slices


# ---- intensities and errors -------------------------------------------------------------------------------


def normalized(array: np.ndarray, *settings: NormalizationSettings) -> np.ndarray:
    """Network slices of an image (c, z, y, x) whose pixels stay as they are."""
    geometry = ImageGeometry(array.shape[1:], (5.0, 1.0, 1.0))  # type: ignore[arg-type]
    plans = tiny_settings(normalization=settings, image_size=array.shape[-1], pixel_spacing_mm=1.0)
    return preprocess_image(array, geometry, plans, "a").slices


PERCENTILE = NormalizationSettings("percentile", 0.5, 99.5)


def test_intensities_become_zero_to_one() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(300, 50, (2, 3, 16, 16)).astype(np.float32)
    window = NormalizationSettings("window", 200.0, 350.0)
    found = normalized(array, PERCENTILE, window)
    low, high = np.percentile(array[0], [0.5, 99.5])
    expected = [np.clip((array[0] - low) / (high - low), 0, 1), np.clip((array[1] - 200) / 150, 0, 1)]
    # canonical axes: superior, posterior, left, as the identity direction stores them
    np.testing.assert_allclose(found.swapaxes(0, 1), expected, atol=1e-5)


def test_a_nearly_constant_image_uses_its_whole_range_and_a_constant_one_is_an_error() -> None:
    array = np.zeros((1, 2, 20, 20), dtype=np.float32)
    array[0, 1, 3, 4] = 8.0  # less than half a percent of the voxels
    found = normalized(array, PERCENTILE)
    assert found.max() == 1
    assert (found > 0).sum() == 1
    with pytest.raises(DatasetError, match=r"case a: the image is constant \(5 everywhere\)"):
        normalized(np.full((1, 2, 8, 8), 5.0, dtype=np.float32), PERCENTILE)


def test_channels_must_be_those_of_the_plans() -> None:
    with pytest.raises(DatasetError, match="case a: 1 channels; the plans are for 2"):
        normalized(np.zeros((1, 2, 8, 8), dtype=np.float32), PERCENTILE, PERCENTILE)


def first_case_error(workspace: Workspace, tmp_path: Path, settings: SPDSettings | None = None) -> None:
    case = RawDataset(workspace.raw).training_cases()[0]
    plans = SPDPlans("Dataset507_Blobs", "P", "SimpleITKIO", settings or tiny_settings())
    preprocess_training_case(case, SimpleITKIO(), plans, RawDataset(workspace.raw).labels, tmp_path)


def test_faulty_cases_are_named_and_leave_nothing(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    files = replace(tiny_settings(), prompts=PromptSettings("files"))
    with pytest.raises(DatasetError, match=r"case blob_000: the plans say prompts come from files.*promptsTr"):
        first_case_error(workspace, tmp_path / "out", files)
    (workspace.raw / "promptsTr").mkdir()
    far = Markup("", "points", np.array([[0.0, 0, 999]]), ("far",))
    write_markups(workspace.raw / "promptsTr" / "blob_000.mrk.json", [far])
    with pytest.raises(PromptFileError, match="case blob_000: point 'far'"):
        first_case_error(workspace, tmp_path / "out", files)
    file = str(workspace.raw / "labelsTr" / "blob_000.nii.gz")
    label = sitk.ReadImage(file)
    label[0, 0, 0] = 9
    sitk.WriteImage(label, file)
    with pytest.raises(DatasetError, match=r"case blob_000: label .* holds values \[9\].*\(declared: \[0, 1, 2\]\)"):
        first_case_error(workspace, tmp_path / "out")
    label.SetSpacing((1.0, 1.3, 4.0))
    sitk.WriteImage(label, file)
    with pytest.raises(DatasetError, match=r"case blob_000: image .* label .* are not on the same grid: .*Resample"):
        first_case_error(workspace, tmp_path / "out")
    sitk.WriteImage(label[:, :, :4], file)
    with pytest.raises(DatasetError, match=r"not on the same grid: shape \(z, y, x\) \(6, 24, 28\) against"):
        first_case_error(workspace, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
