"""Evaluation of cases and folders, nnU-Net's summary.json, and the entry point."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.cli.evaluate import main
from spdnet.dataset import Labels
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.errors import DatasetError
from spdnet.evaluation import evaluate_case, evaluate_folder, metrics, nnunet_summary, write_summary_json
from spdnet.evaluation.evaluate import CaseScores, slicing_axis_of
from spdnet.geometry import ImageGeometry

ENDING = ".nii.gz"
DATASET_JSON = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "head": 1, "tail": 2}, "file_ending": ENDING}
LABELS = Labels.from_dataset_json(DATASET_JSON)
REGIONS = Labels(("whole", "tail"), ((1, 2), (2,)), is_regions=True, regions_class_order=(1, 2))
SHAPE = (5, 9, 8)
GEOMETRY = ImageGeometry(SHAPE, (3.0, 0.8, 1.3))


def _label_map(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 1, 2], size=shape, p=[0.6, 0.25, 0.15]).astype(np.uint8)


def _write_folders(root: Path, n_cases: int = 3) -> tuple[Path, Path]:
    reference_folder, prediction_folder = root / "labelsTs", root / "preds"
    reference_folder.mkdir()
    prediction_folder.mkdir()
    for i in range(n_cases):
        SimpleITKIO().write_segmentation(reference_folder / f"case_{i}{ENDING}", _label_map(i), GEOMETRY)
        SimpleITKIO().write_segmentation(prediction_folder / f"case_{i}{ENDING}", _label_map(100 + i), GEOMETRY)
    return reference_folder, prediction_folder


def _values(scores: CaseScores) -> list[list[float]]:
    return [[s.dsc, s.iou, s.hd95_mm, s.asd_mm, s.volume_dice, s.n_distance_slices] for s in scores.classes]


# --- one case


def test_slice_scores_are_averaged_by_the_convention() -> None:
    reference, prediction = np.zeros((2, 4, 4, 4), dtype=np.uint8)
    reference[1, 0, :2] = prediction[1, 0, 1:3] = 1  # half overlap, one pixel apart at either end
    reference[2, 1, 1] = 1  # missed
    geometry = ImageGeometry((4, 4, 4), (5.0, 2.0, 1.5))
    scores = evaluate_case(reference, prediction, geometry, LABELS).classes[0]
    assert (scores.n_slices, scores.n_distance_slices) == (4, 1)
    assert (scores.n_target_slices, scores.n_false_slices) == (2, 0)
    assert scores.dsc == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert scores.target_dsc == pytest.approx((0.5 + 0) / 2)
    assert scores.iou == pytest.approx((1 + 1 / 3 + 0 + 1) / 4)
    assert scores.hd95_mm == pytest.approx(0.95 * 1.5)
    assert scores.asd_mm == pytest.approx(1.5 / 2)
    assert scores.volume_dice == pytest.approx(2 * 1 / 5)


def test_masks_where_the_target_is_not_are_counted() -> None:
    reference, prediction = np.zeros((2, 4, 4, 4), dtype=np.uint8)
    reference[1] = prediction[1] = prediction[2, 0, 0] = prediction[3, 0, 0] = 1
    scores = evaluate_case(reference, prediction, ImageGeometry((4, 4, 4), (5.0, 2.0, 1.5)), LABELS).classes[0]
    assert (scores.n_target_slices, scores.n_false_slices) == (1, 2)
    assert (scores.target_dsc, scores.dsc) == (1.0, 0.5)


def test_a_class_that_never_occurs_has_perfect_slices_and_no_distance() -> None:
    empty = np.zeros(SHAPE, dtype=np.uint8)
    scores = evaluate_case(empty, empty, GEOMETRY, LABELS).classes[1]
    assert (scores.dsc, scores.iou, scores.n_distance_slices) == (1.0, 1.0, 0)
    assert math.isnan(scores.hd95_mm) and math.isnan(scores.asd_mm) and math.isnan(scores.volume_dice)
    assert math.isnan(scores.target_dsc) and (scores.n_target_slices, scores.n_false_slices) == (0, 0)


@pytest.mark.parametrize("slicing_axis", [None, 0, 1, 2])
@pytest.mark.parametrize("orientation", ["RAS", "PIR", "ASL", "SRP", "LIA"])
def test_stored_orientation_does_not_matter(orientation: str, slicing_axis: int | None) -> None:
    scores = []
    for target in ("LPS", orientation):
        images = []
        for seed in (1, 2):
            image = sitk.GetImageFromArray(_label_map(seed))
            GEOMETRY.apply_to_sitk(image)
            images.append(sitk.DICOMOrient(image, target))
        arrays = [sitk.GetArrayFromImage(image) for image in images]
        geometry = ImageGeometry.from_sitk(images[0])
        scores.append(evaluate_case(arrays[0], arrays[1], geometry, LABELS, slicing_axis))
    assert scores[0].slicing_axis == scores[1].slicing_axis
    np.testing.assert_allclose(_values(scores[0]), _values(scores[1]), rtol=1e-12)


@pytest.mark.parametrize(("slicing_axis", "spacing"), [(0, (0.8, 1.3)), (1, (3.0, 1.3)), (2, (3.0, 0.8))])
def test_slices_are_taken_along_the_asked_axis(slicing_axis: int, spacing: tuple[float, float]) -> None:
    reference, prediction = _label_map(1), _label_map(2)
    scores = evaluate_case(reference, prediction, GEOMETRY, LABELS, slicing_axis)
    slices = [np.moveaxis(a == 1, slicing_axis, 0) for a in (reference, prediction)]
    expected = metrics.slice_scores(slices[0], slices[1], spacing)
    assert scores.slicing_axis == "SPL"[slicing_axis]
    assert scores.classes[0].n_slices == SHAPE[slicing_axis]
    assert scores.classes[0].dsc == pytest.approx(expected.dsc.mean())
    assert scores.classes[0].hd95_mm == pytest.approx(np.nanmean(expected.hd95_mm))


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [((3, 1, 1), 0), ((1, 4, 1), 1), ((1, 1, 2), 2), ((1, 1, 1), 0), ((1, 1.004, 0.999), 0), ((1, 3, 3), 1)],
)
def test_the_rule_takes_the_largest_spacing_or_axial(spacing: tuple[float, float, float], expected: int) -> None:
    assert slicing_axis_of(ImageGeometry(SHAPE, spacing)) == expected


def test_the_rule_knows_patient_axes() -> None:
    sagittal_first = ImageGeometry(SHAPE, (4.0, 1.0, 1.0), direction=(0, 0, 1, 1, 0, 0, 0, -1, 0))
    assert slicing_axis_of(sagittal_first) == 2
    assert slicing_axis_of(sagittal_first, 1) == 1


def test_a_2d_image_is_its_own_slice() -> None:
    geometry = ImageGeometry((1, 9, 8), (1.0, 4.0, 0.5), has_patient_axes=False)
    for slicing_axis in (None, 2):
        scores = evaluate_case(_label_map(1, (1, 9, 8)), _label_map(2, (1, 9, 8)), geometry, LABELS, slicing_axis)
        assert scores.classes[0].n_slices == 1


def test_regions_may_overlap() -> None:
    reference, prediction = _label_map(1), _label_map(2)
    scores = evaluate_case(reference, prediction, GEOMETRY, REGIONS)
    assert scores.classes[0].volume_dice == metrics.volume_dice(reference > 0, prediction > 0)
    assert scores.classes[1].volume_dice == metrics.volume_dice(reference == 2, prediction == 2)


def test_ignored_voxels_do_not_count() -> None:
    labels = Labels(("head",), ((1,),), ignore_value=2)
    reference, prediction = _label_map(1), _label_map(2) % 2
    reference[3] = 2
    changed = np.where(reference == 2, 1 - prediction, prediction)
    scores = evaluate_case(reference, prediction, GEOMETRY, labels)
    assert scores.classes[0].n_slices == SHAPE[0] - 1  # slice 3 has no ground truth at all
    assert _values(scores) == _values(evaluate_case(reference, changed, GEOMETRY, labels))
    with pytest.raises(DatasetError, match="prediction holds the label values 2"):
        evaluate_case(reference, reference, GEOMETRY, labels)


def test_bad_arrays_are_named() -> None:
    good = _label_map(1)
    with pytest.raises(DatasetError, match=r"case c7: prediction has shape \(5, 9, 7\)"):
        evaluate_case(good, good[:, :, :7], GEOMETRY, LABELS, case="c7")
    with pytest.raises(
        DatasetError, match="case c7: prediction holds the label values 3, 4; allowed there are 0, 1, 2"
    ):
        evaluate_case(good, good + 2, GEOMETRY, LABELS, case="c7")


# --- a folder


def test_folder_means_are_over_all_slices_and_json_is_strict(tmp_path: Path) -> None:
    folders = _write_folders(tmp_path, 2)
    tall, tall_geometry = _label_map(5, (11, 9, 8)), ImageGeometry((11, 9, 8), (3.0, 0.8, 1.3))
    for folder in folders:
        SimpleITKIO().write_segmentation(folder / f"tall{ENDING}", np.where(tall == 2, 0, tall), tall_geometry)
    result = evaluate_folder(*folders, SimpleITKIO(), LABELS, ENDING)
    assert [case.case for case in result.cases] == ["case_0", "case_1", "tall"]
    slices = [metrics.overlap_per_slice(_label_map(i) == 1, _label_map(100 + i) == 1)[0] for i in (0, 1)]
    estimate = result.estimate("dsc", 0)
    assert estimate.mean == pytest.approx(np.concatenate([*slices, np.ones(11)]).mean())
    assert estimate.low < estimate.mean < estimate.high
    assert result.estimate("dsc").mean == pytest.approx((estimate.mean + result.estimate("dsc", 1).mean) / 2)

    result.to_json(tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content["classes"]["head"]["dsc"]["mean"] == pytest.approx(estimate.mean)
    assert content["cases"][2]["classes"]["tail"]["volume_dice"] is None
    assert not list(tmp_path.glob(".partial*"))


def test_processes_give_the_same_result(tmp_path: Path) -> None:
    folders = _write_folders(tmp_path, 2)
    alone = evaluate_folder(*folders, SimpleITKIO(), LABELS, ENDING)
    assert evaluate_folder(*folders, SimpleITKIO(), LABELS, ENDING, n_processes=2) == alone


def test_missing_predictions_are_listed(tmp_path: Path) -> None:
    reference_folder, prediction_folder = _write_folders(tmp_path)
    for case in ("case_0", "case_2"):
        (prediction_folder / f"{case}{ENDING}").unlink()
    with pytest.raises(DatasetError, match=r"2 of 3 cases .* have no prediction .*: case_0, case_2") as caught:
        evaluate_folder(reference_folder, prediction_folder, SimpleITKIO(), LABELS, ENDING)
    assert str(prediction_folder) in str(caught.value)


def test_extra_predictions_are_reported_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference_folder, prediction_folder = _write_folders(tmp_path)
    (reference_folder / f"case_1{ENDING}").unlink()
    result = evaluate_folder(reference_folder, prediction_folder, SimpleITKIO(), LABELS, ENDING)
    assert [case.case for case in result.cases] == ["case_0", "case_2"]
    assert "1 predictions" in caplog.text and "case_1" in caplog.text


def test_folders_must_exist_and_hold_labels(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"reference folder .*nowhere does not exist"):
        evaluate_folder(tmp_path / "nowhere", tmp_path, SimpleITKIO(), LABELS, ENDING)
    with pytest.raises(DatasetError, match=r"holds no label files named CASE.nii.gz"):
        evaluate_folder(tmp_path, tmp_path, SimpleITKIO(), LABELS, ENDING)


def test_another_grid_is_refused(tmp_path: Path) -> None:
    reference_folder, prediction_folder = _write_folders(tmp_path)
    flipped = ImageGeometry(SHAPE, GEOMETRY.spacing_zyx_mm, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    SimpleITKIO().write_segmentation(prediction_folder / f"case_1{ENDING}", _label_map(1), flipped)
    with pytest.raises(DatasetError, match=r"case case_1: .* not on one grid: corners up to"):
        evaluate_folder(reference_folder, prediction_folder, SimpleITKIO(), LABELS, ENDING)


def test_undeclared_values_name_the_file(tmp_path: Path) -> None:
    reference_folder, prediction_folder = _write_folders(tmp_path)
    SimpleITKIO().write_segmentation(prediction_folder / f"case_2{ENDING}", _label_map(1) * 7, GEOMETRY)
    with pytest.raises(DatasetError, match=r"case case_2: prediction .*case_2.nii.gz holds the label values 7, 14;"):
        evaluate_folder(reference_folder, prediction_folder, SimpleITKIO(), LABELS, ENDING)


# --- nnU-Net's summary.json


def _pairs(folders: tuple[Path, Path]) -> list[tuple[Path, Path]]:
    return [(file, folders[1] / file.name) for file in sorted(folders[0].iterdir())]


def test_summary_has_nnunets_keys_and_means(tmp_path: Path) -> None:
    pairs = _pairs(_write_folders(tmp_path))
    summary = nnunet_summary(pairs, SimpleITKIO(), LABELS)
    assert set(summary) == {"foreground_mean", "mean", "metric_per_case"}
    first = summary["metric_per_case"][0]
    assert (first["reference_file"], first["prediction_file"]) == (str(pairs[0][0]), str(pairs[0][1]))
    assert set(first["metrics"]["1"]) == {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"}
    dice = np.array(
        [[metrics.volume_dice(_label_map(i) == k, _label_map(100 + i) == k) for k in (1, 2)] for i in range(3)]
    )
    assert summary["mean"]["2"]["Dice"] == pytest.approx(dice[:, 1].mean())
    assert summary["foreground_mean"]["Dice"] == pytest.approx(dice.mean())
    with pytest.raises(ValueError, match="no pairs"):
        nnunet_summary([], SimpleITKIO(), LABELS)


def test_summary_names_regions_as_nnunet_does(tmp_path: Path) -> None:
    assert set(nnunet_summary(_pairs(_write_folders(tmp_path)), SimpleITKIO(), REGIONS)["mean"]) == {"(1, 2)", "2"}


def test_summary_skips_absent_classes_and_ignored_voxels(tmp_path: Path) -> None:
    folders = _write_folders(tmp_path)
    for folder in folders:
        SimpleITKIO().write_segmentation(folder / f"case_0{ENDING}", np.zeros(SHAPE, dtype=np.uint8), GEOMETRY)
    labels = Labels(("head", "none"), ((1,), (3,)), ignore_value=2)
    for file in folders[1].iterdir():
        SimpleITKIO().write_segmentation(file, _label_map(9) % 2, GEOMETRY)
    SimpleITKIO().write_segmentation(folders[1] / f"case_0{ENDING}", np.zeros(SHAPE, dtype=np.uint8), GEOMETRY)
    summary = nnunet_summary(_pairs(folders), SimpleITKIO(), labels)
    cases = [case["metrics"]["1"] for case in summary["metric_per_case"]]
    assert math.isnan(cases[0]["Dice"])
    assert summary["mean"]["1"]["Dice"] == pytest.approx((cases[1]["Dice"] + cases[2]["Dice"]) / 2)
    assert math.isnan(summary["foreground_mean"]["Dice"])
    n_valid = int((_label_map(1) != 2).sum())
    assert sum(cases[1][key] for key in ("TP", "FP", "FN", "TN")) == n_valid


def test_summary_file_is_sorted_with_bare_nan(tmp_path: Path) -> None:
    write_summary_json(tmp_path / "summary.json", {"mean": {}, "foreground_mean": {"IoU": 1.0, "Dice": math.nan}})
    text = (tmp_path / "summary.json").read_text(encoding="utf-8")
    assert text.split() == [
        "{",
        '"foreground_mean":',
        "{",
        '"Dice":',
        "NaN,",
        '"IoU":',
        "1.0",
        "},",
        '"mean":',
        "{}",
        "}",
    ]
    assert not list(tmp_path.glob(".partial*"))


# --- the entry point


def _run(root: Path, *options: str) -> dict[str, Any]:
    main(["-ref", str(root / "labelsTs"), "-pred", str(root / "preds"), "-np", "1", *options])
    return dict(json.loads((root / "preds" / "spd_evaluation.json").read_text(encoding="utf-8")))


def test_entry_point_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write_folders(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET_JSON), encoding="utf-8")
    content = _run(tmp_path)
    printed = capsys.readouterr().out
    dsc = content["classes"]["head"]["dsc"]
    assert f"{dsc['mean']:.3f} [{dsc['low']:.3f}, {dsc['high']:.3f}]" in printed
    assert [line.split()[0] for line in printed.splitlines() if line[:4] in ("head", "tail", "mean")] == [
        "head",
        "tail",
        "mean",
    ]
    assert "spd_evaluation.json" in printed
    assert len(content["cases"]) == 3


def test_entry_point_takes_the_axis_of_the_plans(tmp_path: Path) -> None:
    _write_folders(tmp_path)
    (tmp_path / "preds" / "dataset.json").write_text(json.dumps(DATASET_JSON), encoding="utf-8")
    assert _run(tmp_path)["cases"][0]["slicing_axis"] == "S"
    (tmp_path / "preds" / "plans.json").write_text(json.dumps({"plans_name": "nnUNetPlans"}), encoding="utf-8")
    assert _run(tmp_path)["cases"][0]["slicing_axis"] == "S"
    (tmp_path / "preds" / "plans.json").write_text(json.dumps({"spd": {"slicing_axis": "L"}}), encoding="utf-8")
    assert _run(tmp_path)["cases"][0]["slicing_axis"] == "L"


def _error_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    return capsys.readouterr().err


def test_entry_point_explains_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write_folders(tmp_path)
    folders = ["-ref", str(tmp_path / "labelsTs"), "-pred", str(tmp_path / "preds"), "-np", "1"]
    error = _error_of(capsys, folders)
    assert error.startswith("error: found neither") and "-djfile" in error
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET_JSON), encoding="utf-8")
    assert "does not exist; mend -o" in _error_of(capsys, [*folders, "-o", str(tmp_path / "no" / "out.json")])
    assert "none.json is missing. Mend -pfile" in _error_of(capsys, [*folders, "-pfile", str(tmp_path / "none.json")])
    plans = tmp_path / "preds" / "plans.json"
    plans.write_text(json.dumps({"spd": {"slicing_axis": "X"}}), encoding="utf-8")
    assert 'it must be "S", "P" or "L"' in _error_of(capsys, folders)
    for damaged, message in (("{", "is not valid JSON"), ("[]", "is not a plans file")):
        plans.write_text(damaged, encoding="utf-8")
        assert message in _error_of(capsys, folders)


def test_scores_replace_no_file_of_another_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, prediction = _write_folders(tmp_path)
    label = next(reference.glob("*.nii.gz"))
    before = label.read_bytes()
    message = _error_of(capsys, ["-ref", str(reference), "-pred", str(prediction), "-o", str(label)])
    assert "give a name that ends in .json" in message and label.read_bytes() == before
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET_JSON), encoding="utf-8")
    common = ["-ref", str(reference), "-pred", str(prediction), "-np", "1", "-o"]
    message = _error_of(capsys, [*common, str(tmp_path / "dataset.json")])
    assert "is there already and holds no scores" in message
    assert json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8")) == DATASET_JSON
    for _ in range(2):  # scores replace scores
        main([*common, str(tmp_path / "SCORES.JSON")])
