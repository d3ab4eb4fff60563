"""Data set: labels and regions, image files, the raw folder, splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.dataset import Labels, RawDataset, check_channels, load_or_create_splits
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.dataset.raw_dataset import find_cases, read_dataset_json
from spdnet.dataset.splits import create_splits
from spdnet.errors import ConfigurationError, DatasetError
from spdnet.geometry import ImageGeometry

REGIONS = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
    "regions_class_order": [1, 2, 3],
}


def write_array(file: Path, array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 3.0)) -> Path:
    """Write an array with a spacing (x first)."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[: array.ndim])
    sitk.WriteImage(image, str(file))
    return file


# labels


def test_labels_are_sorted_by_value_with_summary_keys() -> None:
    labels = Labels.from_dataset_json({"labels": {"background": 0, "posterior": 2, "anterior": 1}})
    assert labels.names == ("anterior", "posterior")
    assert labels.summary_keys == ("1", "2")
    assert not labels.is_regions
    assert labels.declared_values == {0, 1, 2}
    assert len(labels) == 2


def test_regions_keep_their_order_and_ignore_is_no_class() -> None:
    content = {**REGIONS, "labels": {**REGIONS["labels"], "ignore": 4}}  # type: ignore[dict-item]
    labels = Labels.from_dataset_json(content)
    assert labels.names == ("whole", "core", "enhancing")
    assert labels.summary_keys == ("(1, 2, 3)", "(2, 3)", "3")
    assert labels.is_regions
    assert labels.ignore_value == 4
    assert labels.declared_values == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "background"),
        ({"labels": {"0": "background", "1": "a"}}, "background"),
        ({"labels": {"background": [0], "a": 1}}, "background"),
        ({"labels": {"background": False, "a": 1}}, "background"),
        ({"labels": {"background": 0, "a": 1, "b": [1]}}, '"a" and "b" both have the value 1'),
        ({"labels": {"background": 0, "a": 1, "ignore": 3}}, "ignore.*3; it must be 2"),
        ({"labels": {"background": 0, "a": 1, "ignore": 0}}, "it must be 2"),
        ({"labels": {"background": 0, "a": 1, "ignore": [2]}}, "it must be 2"),
        ({"labels": {"background": 0, "a": [1, 2], "ignore": 2}, "regions_class_order": [1]}, "it must be 3"),
        ({"labels": {"background": 0, "a": [1, 2], "ignore": 3}, "regions_class_order": [3]}, "never predicted"),
        ({"labels": {"background": 0, "a": [1, 2]}, "regions_class_order": ["1"]}, "an integer"),
        ({"labels": {"background": 0, "a": [1, 2]}, "regions_class_order": [True]}, "an integer"),
        ({"labels": {"background": 0, "a": [1, 2]}, "regions_class_order": 1}, "1 regions"),
        ({"labels": {"background": 0, "a": -1}}, "-1"),
        ({"labels": {"background": 1, "a": 2}}, "background"),
        ({"labels": {"background": 0}}, "no foreground"),
        ({"labels": {"background": 0, "a": "1"}}, "'1'"),
        ({"labels": {"background": 0, "a": True}}, "True"),
        ({"labels": {"background": 0, "a": []}}, r"\[\]"),
        ({"labels": {"background": 0, "a": [1, 2]}}, "regions_class_order"),
        ({"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [1]}, "2 regions"),
    ],
)
def test_wrong_labels_are_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Labels.from_dataset_json(content, "my/dataset.json")


def test_a_list_of_one_is_a_label_unless_there_are_regions() -> None:
    labels = Labels.from_dataset_json({"labels": {"background": 0, "a": [1], "b": 2}})
    assert not labels.is_regions and labels.summary_keys == ("1", "2") and labels.n_heads == 3
    content = {"labels": {"background": 0, "a": [1, 2], "b": [2], "c": 1}, "regions_class_order": [1, 2, 1]}
    labels = Labels.from_dataset_json(content)
    assert labels.summary_keys == ("(1, 2)", "(2,)", "1") and labels.n_heads == 3
    assert labels.labels_or_regions == ((1, 2), (2,), 1)


def test_further_names_of_0_are_background_and_a_null_ignore_label_is_none() -> None:
    labels = Labels.from_dataset_json({"labels": {"background": 0, "air": 0, "a": 1, "bed": [0], "ignore": None}})
    assert labels.names == ("a",) and labels.ignore_value is None and labels.all_values == (0, 1)


def test_ignore_label_counts_as_declared_but_not_as_class() -> None:
    labels = Labels.from_dataset_json({"labels": {"background": 0, "a": 1, "ignore": 2}})
    assert labels.declared_values == {0, 1, 2} and labels.all_values == (0, 1) and labels.n_heads == 2
    assert labels.merge(np.array([[0.9, 0.1]])).tolist() == [1, 0]
    labels.check_consecutive()


@pytest.mark.parametrize("values", [{"a": 2}, {"a": 1, "b": 3}, {"a": 1, "b": [2], "c": 5}])
def test_gaps_in_label_values_are_named(values: dict[str, Any]) -> None:
    labels = Labels.from_dataset_json({"labels": {"background": 0, **values}})
    with pytest.raises(DatasetError, match=r"my/dataset.json: .*consecutive.*without \["):
        labels.check_consecutive("my/dataset.json")


@pytest.mark.nnunet
@pytest.mark.parametrize(
    "content",
    [
        {"labels": {"background": 0, "posterior": 2, "anterior": 1}},
        {"labels": {"background": 0, "a": [1], "b": [2], "ignore": 3}},
        {"labels": {"background": 0, "air": 0, "b": 2, "a": 1}},
        REGIONS,
        {"labels": {**REGIONS["labels"], "ignore": 4}, "regions_class_order": [1, 2, 3]},  # type: ignore[dict-item]
        {
            "labels": {"background": 0, "air": [0], "b": [2], "a": [1, 2], "c": 1, "d": [3]},
            "regions_class_order": [2, 1, 1, 3],
        },
    ],
)
def test_labels_are_the_label_managers(content: dict[str, Any]) -> None:
    pytest.importorskip("nnunetv2")
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    theirs = LabelManager(content["labels"], content.get("regions_class_order"))
    labels = Labels.from_dataset_json(content)
    assert labels.is_regions == theirs.has_regions and labels.n_heads == theirs.num_segmentation_heads
    assert list(labels.all_values) == theirs.all_labels and labels.ignore_value == theirs.ignore_label
    classes = theirs.foreground_regions if theirs.has_regions else theirs.foreground_labels
    assert list(labels.labels_or_regions) == classes
    assert list(labels.summary_keys) == [str(c) for c in classes]
    foreground = np.random.default_rng(0).random((len(labels), 4, 5)).astype(np.float32)
    if labels.is_regions:
        expected = theirs.convert_probabilities_to_segmentation(foreground)
        np.testing.assert_array_equal(labels.merge(foreground), expected)


@pytest.mark.nnunet
@pytest.mark.parametrize(
    "labels",
    [
        {"a": 1},
        {"background": [0], "a": 1},
        {"background": 1, "a": 2},
        {"background": 0, "a": 1, "ignore": 3},
        {"background": 0, "a": 1, "ignore": [2]},
        {"background": 0, "a": [1, 2]},
        {"background": 0, "a": [1, 2], "ignore": 2},
    ],
)
def test_labels_that_nnunet_refuses_are_refused(labels: dict[str, Any]) -> None:
    pytest.importorskip("nnunetv2")
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    with pytest.raises((AssertionError, RuntimeError)):
        LabelManager(labels, None)
    with pytest.raises(DatasetError):
        Labels.from_dataset_json({"labels": labels})


@pytest.mark.parametrize("content", [{"labels": {"background": 0, "b": 7, "a": 3}}, REGIONS])
def test_masks_of_a_label_map_merge_to_it_again(content: dict[str, Any]) -> None:
    labels = Labels.from_dataset_json(content)
    values = sorted(labels.declared_values)
    label_map = np.random.default_rng(0).choice(values, size=(4, 5, 6))
    merged = labels.merge(labels.masks(label_map).astype(np.float32))
    assert merged.dtype == np.uint8
    np.testing.assert_array_equal(merged, label_map)


def test_merge_takes_the_most_probable_label_above_the_threshold() -> None:
    labels = Labels.from_dataset_json({"labels": {"background": 0, "a": 3, "b": 7}})
    probabilities = np.array([[0.6, 0.4, 0.9, 0.2], [0.7, 0.3, 0.8, 0.5]])
    assert labels.merge(probabilities).tolist() == [7, 0, 3, 0]


def test_later_regions_overwrite_earlier_ones_where_they_exceed_the_threshold() -> None:
    labels = Labels.from_dataset_json(REGIONS)
    probabilities = np.array([[0.9, 0.9, 0.1, 0.2], [0.6, 0.2, 0.1, 0.6], [0.2, 0.2, 0.7, 0.1]])
    assert labels.merge(probabilities).tolist() == [2, 1, 3, 2]


def test_label_values_from_255_need_two_bytes() -> None:
    labels = Labels.from_dataset_json({"labels": {"background": 0, "a": 300}})
    merged = labels.merge(np.ones((1, 2)))
    assert merged.dtype == np.uint16
    assert merged.tolist() == [300, 300]


# images


def test_channels_are_stacked_on_one_grid(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.integers(-100, 100, size=(3, 4, 5)).astype(np.int16) for _ in range(2)]
    files = [write_array(tmp_path / f"a_000{i}.nii.gz", a) for i, a in enumerate(arrays)]
    image, geometry = SimpleITKIO().read_image(files, "a")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, np.stack(arrays))
    assert geometry.shape_zyx == (3, 4, 5)
    assert geometry.spacing_zyx_mm == (3.0, 1.0, 1.0)


def test_channels_on_different_grids_are_refused(tmp_path: Path) -> None:
    array = np.zeros((3, 4, 5), dtype=np.float32)
    files = [write_array(tmp_path / "a_0000.nii.gz", array), write_array(tmp_path / "a_0001.nii.gz", array, (1, 1, 2))]
    with pytest.raises(DatasetError, match=r"case a: .*a_0000.* a_0001.* differ: .*spacing"):
        SimpleITKIO().read_image(files, "a")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(value: float, tmp_path: Path) -> None:
    array = np.zeros((3, 4, 5), dtype=np.float32)
    array[1, 2, 3] = value
    file = write_array(tmp_path / "a_0000.mha", array)
    with pytest.raises(DatasetError, match="case a: .*NaN or infinite"):
        SimpleITKIO().read_image([file], "a")
    with pytest.raises(DatasetError, match="not an integer"):
        SimpleITKIO().read_label(file)


def test_nan_in_a_nifti_file_is_read_as_0(tmp_path: Path) -> None:
    array = np.ones((3, 4, 5), dtype=np.float32)
    array[1, 2, 3] = np.nan
    image, _ = SimpleITKIO().read_image([write_array(tmp_path / "a_0000.nii.gz", array)])
    assert image[0, 1, 2, 3] == 0 and image.sum() == 59


def test_unreadable_and_colour_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.nii.gz").write_text("no image", encoding="utf-8")
    with pytest.raises(DatasetError, match="case a: cannot read .*text.nii.gz"):
        SimpleITKIO().read_image([tmp_path / "text.nii.gz"], "a")
    with pytest.raises(DatasetError, match="cannot read the header"):
        SimpleITKIO().read_geometry(tmp_path / "missing.nii.gz")
    colour = sitk.GetImageFromArray(np.zeros((4, 5, 3), dtype=np.uint8), isVector=True)
    sitk.WriteImage(colour, str(tmp_path / "colour.png"))
    with pytest.raises(DatasetError, match="3 values per pixel"):
        SimpleITKIO().read_image([tmp_path / "colour.png"])


def test_labels_stored_as_floats_are_integers_and_fractions_are_refused(tmp_path: Path) -> None:
    array = np.random.default_rng(2).integers(0, 3, size=(3, 4, 5)).astype(np.float64)
    labels, _ = SimpleITKIO().read_label(write_array(tmp_path / "a.nii.gz", array))
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, array)
    array[0, 0, 0] = 1.5
    with pytest.raises(DatasetError, match="holds 1.5"):
        SimpleITKIO().read_label(write_array(tmp_path / "b.nii.gz", array))


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5)])
def test_segmentation_is_written_on_the_grid_of_its_image(shape: tuple[int, ...], tmp_path: Path) -> None:
    ending = ".nii.gz" if len(shape) == 3 else ".png"
    source = write_array(tmp_path / f"image{ending}", np.zeros(shape, dtype=np.uint8))
    _, geometry = SimpleITKIO().read_image([source])
    label_map = np.random.default_rng(3).integers(0, 3, size=geometry.shape_zyx).astype(np.uint8)
    SimpleITKIO().write_segmentation(tmp_path / f"out{ending}", label_map, geometry)
    returned, returned_geometry = SimpleITKIO().read_label(tmp_path / f"out{ending}")
    np.testing.assert_array_equal(returned, label_map)
    assert returned_geometry.difference(geometry) is None
    assert sitk.ReadImage(str(tmp_path / f"out{ending}")).GetDimension() == len(shape)
    assert sorted(f.name for f in tmp_path.iterdir()) == [f"image{ending}", f"out{ending}"]


def test_2d_images_are_volumes_of_one_slice(tmp_path: Path) -> None:
    array = np.random.default_rng(4).integers(0, 255, size=(4, 6)).astype(np.uint8)
    image, geometry = SimpleITKIO().read_image([write_array(tmp_path / "a_0000.png", array)])
    assert image.shape == (1, 1, 4, 6)
    assert not geometry.has_patient_axes
    np.testing.assert_array_equal(image[0, 0], array)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.nrrd"])
def test_header_alone_gives_the_same_geometry(name: str, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), dtype=np.int16))
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((1.0, -2.0, 3.0))
    image.SetDirection((0, 1, 0, 0, 0, 1, 1, 0, 0))
    sitk.WriteImage(image, str(tmp_path / name))
    assert SimpleITKIO().read_geometry(tmp_path / name).difference(ImageGeometry.from_sitk(image), 1e-5) is None


# the raw folder


@pytest.fixture
def raw_folder(tmp_path: Path) -> Path:
    """Two channels, cases b and a; case a has prompts; an unlabelled test case."""
    folder = tmp_path / "Dataset501_Test"
    for name in ("imagesTr", "labelsTr", "promptsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    for case in ("b", "a"):
        for channel in range(2):
            (folder / "imagesTr" / f"{case}_000{channel}.nii.gz").touch()
        (folder / "labelsTr" / f"{case}.nii.gz").touch()
    (folder / "promptsTr" / "a.mrk.json").touch()
    for channel in range(2):
        (folder / "imagesTs" / f"t_000{channel}.nii.gz").touch()
    content = {
        "channel_names": {"1": "T2", "0": "T1"},
        "labels": {"background": 0, "a": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_cases_are_found_with_labels_and_prompts(raw_folder: Path) -> None:
    dataset = RawDataset(raw_folder)
    assert dataset.channel_names == ["T1", "T2"] and dataset.n_channels == 2
    first, second = dataset.training_cases()
    assert (first.case, second.case) == ("a", "b")
    assert [f.name for f in first.images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert first.prompts == raw_folder / "promptsTr" / "a.mrk.json"
    assert second.prompts is None
    (test_case,) = dataset.cases("Ts")
    assert test_case.label is None and test_case.prompts is None


def test_missing_label_channel_and_folder_are_named(raw_folder: Path) -> None:
    (raw_folder / "labelsTr" / "b.nii.gz").unlink()
    with pytest.raises(DatasetError, match="case b: label file .*b.nii.gz is missing"):
        RawDataset(raw_folder).training_cases()
    (raw_folder / "imagesTr" / "a_0001.nii.gz").unlink()
    with pytest.raises(DatasetError, match="case a: a_0001.nii.gz is missing in .*imagesTr"):
        RawDataset(raw_folder).cases("Tr")
    with pytest.raises(DatasetError, match="imagesVal does not exist"):
        RawDataset(raw_folder).cases("Val")


def test_one_file_may_hold_all_channels(raw_folder: Path) -> None:
    for case in ("a", "b"):
        (raw_folder / "imagesTr" / f"{case}_0001.nii.gz").unlink()
    assert [len(c.images) for c in RawDataset(raw_folder).training_cases()] == [1, 1]
    check_channels(np.zeros((2, 1, 4, 5)), 2, "a")
    with pytest.raises(DatasetError, match="case a: its image files hold 1 channels; dataset.json declares 2"):
        check_channels(np.zeros((1, 1, 4, 5)), 2, "a")


def test_more_files_than_channels_are_refused(raw_folder: Path) -> None:
    with pytest.raises(DatasetError, match="case a: .*imagesTr holds 2 files of it; dataset.json declares 1"):
        find_cases(raw_folder / "imagesTr", ".nii.gz", 1)


def test_channels_are_numbered_without_gaps(raw_folder: Path) -> None:
    images = raw_folder / "imagesTr"
    (images / "a_0001.nii.gz").rename(images / "a_0002.nii.gz")
    with pytest.raises(DatasetError, match="a_0001.nii.gz is missing"):
        find_cases(images, ".nii.gz", 2)


def test_file_endings_in_upper_case_are_matched_as_they_are(raw_folder: Path) -> None:
    for file in (*raw_folder.glob("imagesTr/*"), *raw_folder.glob("labelsTr/*")):
        file.rename(file.with_name(file.name.replace(".nii.gz", ".NII.GZ")))
    change_dataset_json(raw_folder, file_ending=".NII.GZ")
    assert [c.case for c in RawDataset(raw_folder).training_cases()] == ["a", "b"]


def change_dataset_json(folder: Path, **changes: Any) -> None:
    """Change or, with None, remove keys of dataset.json."""
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8")) | changes
    (folder / "dataset.json").write_text(
        json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8"
    )


@pytest.fixture
def explicit_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set without imagesTr whose cases y and x lie elsewhere, named relative, absolute and by a variable."""
    folder, other = tmp_path / "Dataset502_Explicit", tmp_path / "other"
    (folder / "promptsTr").mkdir(parents=True)
    (folder / "promptsTr" / "x.mrk.json").touch()
    other.mkdir()
    for name in ("x_t1", "x_t2", "y_t1", "y_t2", "x_seg", "y_seg"):
        (other / f"{name}.nii.gz").touch()
    monkeypatch.setenv("OTHER_DATA", str(other))
    cases = {
        "y": {"images": ["../other/y_t1.nii.gz", str(other / "y_t2.nii.gz")], "label": "../other/y_seg.nii.gz"},
        "x": {"images": ["${OTHER_DATA}/x_t1.nii.gz", "$OTHER_DATA/x_t2.nii.gz"], "label": "$OTHER_DATA/x_seg.nii.gz"},
    }
    content = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1}, "numTraining": 2}
    (folder / "dataset.json").write_text(
        json.dumps({**content, "file_ending": ".nii.gz", "dataset": cases}), encoding="utf-8"
    )
    return folder


def test_explicit_cases_are_found_wherever_they_are(explicit_folder: Path) -> None:
    dataset, other = RawDataset(explicit_folder), explicit_folder.parent / "other"
    first, second = dataset.training_cases()
    assert first.case == "x" and second.case == "y" and dataset.is_explicit
    assert first.images == (other / "x_t1.nii.gz", other / "x_t2.nii.gz")
    assert second.images == (other / "y_t1.nii.gz", other / "y_t2.nii.gz")
    assert first.label == other / "x_seg.nii.gz" and second.label == other / "y_seg.nii.gz"
    assert first.prompts == explicit_folder / "promptsTr" / "x.mrk.json" and second.prompts is None
    assert dataset.cases("Tr") == [first, second]


@pytest.mark.nnunet
def test_explicit_cases_are_nnunets(explicit_folder: Path) -> None:
    pytest.importorskip("nnunetv2")
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    theirs = get_filenames_of_train_images_and_targets(str(explicit_folder))
    ours = RawDataset(explicit_folder).training_cases()
    assert {c.case: {"images": [str(f) for f in c.images], "label": str(c.label)} for c in ours} == theirs


def test_the_first_explicit_case_chooses_the_reader(explicit_folder: Path) -> None:
    array = np.zeros((3, 4, 5), dtype=np.uint8)
    write_array(explicit_folder.parent / "other" / "y_t1.nii.gz", array)  # x cannot be read
    assert RawDataset(explicit_folder).reader.name == "SimpleITKIO"


def test_an_unset_variable_and_missing_files_are_named(explicit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (explicit_folder.parent / "other" / "x_seg.nii.gz").unlink()
    with pytest.raises(DatasetError, match="case x: label file .*x_seg.nii.gz is missing"):
        RawDataset(explicit_folder).training_cases()
    (explicit_folder.parent / "other" / "y_t1.nii.gz").unlink()
    with pytest.raises(DatasetError, match="case y: .*y_t1.nii.gz does not exist"):
        RawDataset(explicit_folder).training_cases()
    (explicit_folder.parent / "other" / "y_t1.nii.gz").touch()
    monkeypatch.delenv("OTHER_DATA")
    with pytest.raises(DatasetError, match="case x: .*environment variable OTHER_DATA, which is not set"):
        RawDataset(explicit_folder).training_cases()


@pytest.mark.parametrize(
    "entries",
    [
        {},
        ["x"],
        {"x": "a.nii.gz"},
        {"x": {"images": "a.nii.gz", "label": "b.nii.gz"}},
        {"x": {"images": ["a.nii.gz"]}},
        {"x": {"images": [1], "label": "b.nii.gz"}},
        {"x": {"images": [], "label": "b.nii.gz"}},
        {"x": {"images": ["a", "b", "c"], "label": "b.nii.gz"}},
        {"../x": {"images": ["a"], "label": "b.nii.gz"}},
    ],
)
def test_faulty_explicit_entries_are_named(entries: Any, raw_folder: Path) -> None:
    change_dataset_json(raw_folder, dataset=entries)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        RawDataset(raw_folder).training_cases()


def test_modality_is_the_old_name_of_channel_names(raw_folder: Path) -> None:
    change_dataset_json(raw_folder, channel_names=None, modality={"0": "CT", "1": "PET"})
    assert RawDataset(raw_folder).channel_names == ["CT", "PET"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": ["T1"]}, "channel_names"),
        ({"channel_names": {}}, "channel_names"),
        ({"channel_names": {"T1": "0"}}, "channel_names"),
        ({"file_ending": "nii.gz"}, "file_ending"),
        ({"file_ending": 3}, "file_ending"),
    ],
)
def test_wrong_forms_in_dataset_json_are_named(changes: dict[str, Any], message: str, raw_folder: Path) -> None:
    change_dataset_json(raw_folder, **changes)
    with pytest.raises(DatasetError, match=message):
        RawDataset(raw_folder).training_cases()


def test_folder_without_images_of_that_ending_is_refused(raw_folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"no images named CASE_0000\.png"):
        find_cases(raw_folder / "imagesTr", ".png", 1)


def test_hidden_and_foreign_files_are_no_cases(raw_folder: Path) -> None:
    for name in ("._a_0000.nii.gz", "notes.txt", "x.nii.gz", "x_000a.nii.gz"):
        (raw_folder / "imagesTr" / name).touch()
    assert [c.case for c in find_cases(raw_folder / "imagesTr", ".nii.gz", 2)] == ["a", "b"]


def test_dataset_json_faults_are_named(tmp_path: Path) -> None:
    file = tmp_path / "dataset.json"
    with pytest.raises(DatasetError, match="dataset.json is missing"):
        read_dataset_json(file)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(DatasetError, match="not valid JSON"):
        read_dataset_json(file)
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(DatasetError, match="JSON object, not a list"):
        read_dataset_json(file)
    file.write_text('{"labels": {}}', encoding="utf-8")
    with pytest.raises(DatasetError, match="lacks channel_names, file_ending"):
        read_dataset_json(file)


# splits


def test_splits_are_nnunets_known_ones() -> None:
    cases = [f"case_{i}" for i in range(10)]
    held_out = [[int(c[-1]) for c in split["val"]] for split in create_splits(cases[::-1])]
    assert held_out == [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]]


@pytest.mark.parametrize("n_cases", [5, 6, 23, 104])
def test_splits_equal_scikit_learns(n_cases: int) -> None:
    model_selection = pytest.importorskip("sklearn.model_selection")
    names = np.array([f"case_{i:03d}" for i in range(n_cases)])
    folds = model_selection.KFold(n_splits=5, shuffle=True, random_state=12345).split(names)
    expected = [{"train": names[train].tolist(), "val": names[val].tolist()} for train, val in folds]
    assert create_splits(names.tolist()) == expected


def test_splits_are_made_once_and_then_read(tmp_path: Path) -> None:
    file = tmp_path / "splits_final.json"
    cases = [f"case_{i}" for i in range(10)]
    split = load_or_create_splits(file, cases, 1)
    assert split.val == ("case_3", "case_9")
    assert len(json.loads(file.read_text(encoding="utf-8"))) == 5
    file.write_text(json.dumps([{"train": cases[:3], "val": cases[3:]}]), encoding="utf-8")
    assert load_or_create_splits(file, cases, 0).train == tuple(cases[:3])
    assert [f.name for f in tmp_path.iterdir()] == ["splits_final.json"]


def test_fold_all_holds_nothing_out_and_writes_nothing(tmp_path: Path) -> None:
    split = load_or_create_splits(tmp_path / "splits_final.json", ["b", "a"], "all")
    assert split.train == ("a", "b") and split.val == ()
    assert not list(tmp_path.iterdir())


def test_fold_beyond_the_stored_ones_is_80_to_20_and_repeatable(tmp_path: Path) -> None:
    cases = [f"case_{i}" for i in range(10)]
    split = load_or_create_splits(tmp_path / "splits_final.json", cases, 7)
    assert len(split.train) == 8
    assert sorted(split.train + split.val) == cases
    assert split == load_or_create_splits(tmp_path / "splits_final.json", cases, 7)
    assert split != load_or_create_splits(tmp_path / "splits_final.json", cases, 8)


def test_faulty_splits_are_named(tmp_path: Path) -> None:
    file = tmp_path / "splits_final.json"
    with pytest.raises(DatasetError, match="4 training cases are too few"):
        load_or_create_splits(file, list("abcd"), 0)
    for fold in (-1, "0", "some"):
        with pytest.raises(ConfigurationError, match="neither a number"):
            load_or_create_splits(file, list("abcde"), fold)
    file.write_text(json.dumps([{"train": ["a", "x"], "val": ["b"]}]), encoding="utf-8")
    with pytest.raises(DatasetError, match="not preprocessed: x"):
        load_or_create_splits(file, list("abcde"), 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "must hold a list"),
        ("[]", "must hold a list"),
        ("[1]", "fold 0"),
        ('[{"train": ["a"]}]', 'fold 0 must be .*"val"'),
        ('[{"train": ["a"], "val": ["b"]}, {"train": "a", "val": ["b"]}]', 'fold 1 must be .*"train"'),
        ('[{"train": [1], "val": ["b"]}]', '"train"'),
    ],
)
def test_damaged_splits_files_are_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "splits_final.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"splits_final\.json.*{message}"):
        load_or_create_splits(file, list("ab"), 0)
    assert file.read_text(encoding="utf-8") == content
