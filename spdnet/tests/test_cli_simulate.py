"""spd_simulate_prompts on a tiny data set: what it writes, repeats and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import spdnet
from spdnet.cli.simulate_prompts import main
from spdnet.dataset import Labels
from spdnet.dataset.image_io import NaturalImage2DIO, SimpleITKIO
from spdnet.dataset.raw_dataset import find_prompt_file
from spdnet.geometry import nearest_index, plan_case_mapping, raw_resolution_mapping
from spdnet.prompts import SlicePrompts, count_prompts, load_given_prompts, make_recipe, read_markups
from spdnet.prompts.simulate_files import RECORD_FILE, case_generator, pixel_size_mm

LABELS = Labels(("ileum", "colon"), ((1,), (2,)))


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two labelled test cases, stored obliquely and permuted, of 5 mm along the posterior axis."""
    folder = tmp_path / "raw" / "Dataset501_Tiny"
    for name in ("imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True)
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ileum": 1, "colon": 2}}
    (folder / "dataset.json").write_text(
        json.dumps({**content, "numTraining": 0, "file_ending": ".nii.gz"}), encoding="utf-8"
    )
    for number, case in enumerate(("TI_002", "TI_001")):
        write_case(folder, case, number)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.delenv("nnUNet_results", raising=False)
    return folder


def write_case(folder: Path, case: str, number: int) -> None:
    """Image and label of a case; colon is in one coronal slice only."""
    labels = np.zeros((14, 16, 12), dtype=np.uint8)
    labels[3 + number : 9, 4:9, 2:8] = 1
    labels[11, 4, 2:4] = 2
    angle = np.deg2rad(8.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    permute = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # stored slices are coronal
    for name, array in (
        (f"imagesTs/{case}_0000.nii.gz", labels.astype(np.float32)),
        (f"labelsTs/{case}.nii.gz", labels),
    ):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.0, 1.5, 5.0))
        image.SetOrigin((120.0, -40.0, 77.0))
        image.SetDirection((turn @ permute).ravel().tolist())
        sitk.WriteImage(image, str(folder / name))


def written(folder: Path) -> dict[str, str]:
    """Content of the prompt files of a folder."""
    return {f.name: f.read_text(encoding="utf-8") for f in sorted(folder.glob("*.mrk.json"))}


def test_files_hold_one_list_per_class_on_the_target_and_around_it(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["-d", "501", "--seed", "1"])
    out = capsys.readouterr().out
    assert str(dataset / "promptsTs") in out and "2 cases" in out
    assert "points per slice: 4." in out or "points per slice: 3." in out
    assert "slices with points: 100.0%" in out
    assert "target slices with a point inside: 100.0%" in out
    assert list(written(dataset / "promptsTs")) == ["TI_001.mrk.json", "TI_002.mrk.json"]
    markups = read_markups(dataset / "promptsTs" / "TI_001.mrk.json")
    assert [(m.name, m.kind) for m in markups] == [("ileum", "points"), ("colon", "points")]


def test_inside_points_fall_on_labelled_voxels_of_every_target_slice(dataset: Path) -> None:
    main(["-d", "Dataset501_Tiny", "-s", "Ts", "-inside", "2", "-random", "0", "0"])
    for case in ("TI_001", "TI_002"):
        label_map, geometry = SimpleITKIO().read_label(dataset / "labelsTs" / f"{case}.nii.gz")
        for markup, value in zip(read_markups(dataset / "promptsTs" / f"{case}.mrk.json"), (1, 2), strict=True):
            z, y, x = nearest_index(geometry.world_to_voxel(markup.points_lps_mm)).T
            assert (label_map[z, y, x] == value).all()
            # slices are the stored ones, 5 mm apart
            target = np.flatnonzero((label_map == value).any(axis=(1, 2)))
            assert sorted(z.tolist()) == np.repeat(target, 2).tolist()


def test_files_load_with_the_checks_of_any_prompt_file(dataset: Path) -> None:
    main(["-d", "501"])
    _, geometry = SimpleITKIO().read_label(dataset / "labelsTs" / "TI_001.nii.gz")
    mapping = plan_case_mapping(geometry, 1, 32, 1.0)
    prompts = load_given_prompts(
        dataset / "promptsTs" / "TI_001.mrk.json", "TI_001", geometry, mapping, LABELS
    ).for_network()
    n_points = sum(len(m.points_lps_mm) for m in read_markups(dataset / "promptsTs" / "TI_001.mrk.json"))
    assert len(prompts) == n_points  # none outside the image or the crop
    for k in range(2):
        assert set(prompts.for_class(k).slice_index.tolist()) == set(range(14))
    np.testing.assert_allclose(prompts.points_syx[:, 0], np.rint(prompts.points_syx[:, 0]), atol=1e-6)


def test_the_seed_decides_and_other_cases_do_not(dataset: Path, tmp_path: Path) -> None:
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        main(["-d", "501", "--seed", seed, "-o", str(tmp_path / folder)])
    assert written(tmp_path / "a") == written(tmp_path / "b")
    assert written(tmp_path / "a")["TI_001.mrk.json"] != written(tmp_path / "c")["TI_001.mrk.json"]
    assert not (dataset / "promptsTs").exists()
    (dataset / "imagesTs" / "TI_001_0000.nii.gz").unlink()
    main(["-d", "501", "--seed", "1", "-o", str(tmp_path / "d")])
    assert written(tmp_path / "d") == {"TI_002.mrk.json": written(tmp_path / "a")["TI_002.mrk.json"]}


def test_generators_of_cases_differ() -> None:
    draws = {case_generator(seed, case).random() for seed in (0, 1) for case in ("a", "b", "ab")}
    assert len(draws) == 6


def test_existing_files_are_kept_unless_told(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-d", "501", "--seed", "1"])
    before = written(dataset / "promptsTs")
    (dataset / "promptsTs" / "TI_002.mrk.json").unlink()
    with pytest.raises(SystemExit) as caught:
        main(["-d", "501", "--seed", "2"])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert "error: " in error and "TI_001" in error and "--overwrite" in error
    assert list(written(dataset / "promptsTs")) == ["TI_001.mrk.json"]
    main(["-d", "501", "--seed", "2", "--overwrite"])
    after = written(dataset / "promptsTs")
    assert list(after) == list(before) and after["TI_001.mrk.json"] != before["TI_001.mrk.json"]


def test_files_of_another_kind_are_never_put_beside(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "promptsTs").mkdir()
    own = dataset / "promptsTs" / "TI_002.csv"
    own.write_text("l,p,s\n1,2,3\n", encoding="utf-8")
    for options in ([], ["--overwrite"]):
        with pytest.raises(SystemExit):
            main(["-d", "501", *options])
        assert "TI_002" in capsys.readouterr().err
        assert list((dataset / "promptsTs").iterdir()) == [own]


def test_options_reach_the_recipe(dataset: Path) -> None:
    main(["-d", "501", "--unnamed", "-empty_slices", "none", "-random", "3", "3"])
    (markup,) = read_markups(dataset / "promptsTs" / "TI_001.mrk.json")
    assert markup.name == "noisy points"
    _, geometry = SimpleITKIO().read_label(dataset / "labelsTs" / "TI_001.nii.gz")
    slices = nearest_index(geometry.world_to_voxel(markup.points_lps_mm))[:, 0]
    assert np.bincount(slices, minlength=14).tolist() == [0, 0, 0, 0, 4, 4, 4, 4, 4, 0, 0, 4, 0, 0]


def test_true_points_are_all_inside(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-d", "501", "--true_points", "3"])
    assert "points inside the target: 100.0%" in capsys.readouterr().out
    ileum, colon = read_markups(dataset / "promptsTs" / "TI_001.mrk.json")
    assert (len(ileum.points_lps_mm), len(colon.points_lps_mm)) == (3 * 5, 3)
    assert ileum.point_labels[0] == "ileum-1"


def test_the_plans_slicing_axis_is_used(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = tmp_path / "preprocessed" / "Dataset501_Tiny" / "SPDPlans.json"
    plans.parent.mkdir(parents=True)
    plans.write_text(json.dumps({"spd": {"slicing_axis": "L"}}), encoding="utf-8")
    main(["-d", "501", "--true_points", "1"])
    assert "the data set's plans" in capsys.readouterr().out
    ileum, _ = read_markups(dataset / "promptsTs" / "TI_001.mrk.json")
    assert len(ileum.points_lps_mm) == 6  # columns 2 to 7 of the stored array run to the left
    plans.write_text("{}", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["-d", "501", "--overwrite"])
    assert "does not say a slicing axis" in capsys.readouterr().err
    monkeypatch.delenv("nnUNet_preprocessed")
    main(["-d", "501", "--overwrite"])
    assert "largest spacing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-d", "502"], "'502' was not found"),
        (["-d", "501", "-s", "Tr"], "imagesTr does not exist"),
        (["-d", "501", "-random", "5", "2"], "from 5 to 2"),
        (["-d", "501", "-inside", "-1"], "inside_points is -1"),
        (["-d", "501", "--seed", "-1"], "--seed"),
        (["-d", "501", "--true_points", "0"], "--true_points"),
    ],
)
def test_wrong_input_is_one_message_and_nothing_written(
    arguments: list[str], message: str, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    error = capsys.readouterr().err
    assert caught.value.code == 1 and message in error and "Traceback" not in error
    assert not (dataset / "promptsTs").exists()


def test_a_missing_label_is_named_before_any_work(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "labelsTs" / "TI_002.nii.gz").unlink()
    with pytest.raises(SystemExit):
        main(["-d", "501"])
    error = capsys.readouterr().err
    assert "1 of 2 cases have no label" in error and "TI_002" in error
    assert not (dataset / "promptsTs").exists()


def test_a_label_on_another_grid_is_named(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = dataset / "labelsTs" / "TI_001.nii.gz"
    image = sitk.ReadImage(str(file))
    image.SetOrigin((0, 0, 0))
    sitk.WriteImage(image, str(file))
    with pytest.raises(SystemExit):
        main(["-d", "501"])
    error = capsys.readouterr().err
    assert "case TI_001" in error and "different grids" in error


def test_2d_images_get_points_in_their_plane(tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "raw" / "Dataset502_Flat"
    for name in ("imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True)
    content = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".png"}), encoding="utf-8")
    labels = np.zeros((20, 30), dtype=np.uint8)
    labels[5:9, 11:14] = 1
    for name in ("imagesTs/flat_0000.png", "labelsTs/flat.png"):
        image = sitk.GetImageFromArray(labels)
        image.SetSpacing((4.0, 4.0))  # has no meaning in a PNG
        sitk.WriteImage(image, str(folder / name))
    label_map, geometry = NaturalImage2DIO().read_label(folder / "labelsTs" / "flat.png")
    plans = tmp_path / "preprocessed" / "Dataset502_Flat" / "SPDPlans.json"
    for planned in (False, True):  # an axis in the plans has no meaning here either
        if planned:
            plans.parent.mkdir(parents=True)
            plans.write_text(json.dumps({"spd": {"slicing_axis": "P"}}), encoding="utf-8")
        main(["-d", "502", "--true_points", "5", "--overwrite"])
        ileum, _ = read_markups(folder / "promptsTs" / "flat.mrk.json")
        voxels = nearest_index(geometry.world_to_voxel(ileum.points_lps_mm))
        assert len(voxels) == 5 and (label_map[tuple(voxels.T)] == 1).all()


MODE_OPTIONS = [
    [],
    ["--true_points", "2"],
    ["-mode", "recipe", "-inside", "2", "-random", "0", "1", "-empty_slices", "none", "--unnamed"],
    ["-mode", "centreline", "-uncovered", "0.4", "-overrun", "7.5", "-drift", "2.5", "-drift_length", "12"],
    ["-mode", "centreline", "--as_points", "--unnamed"],
    ["-mode", "bad_points", "-bad", "0.35", "-points_per_slice", "3", "-drop", "0.25"],
    ["-mode", "displaced", "-displacement", "4", "-points_per_slice", "2"],
    ["-mode", "boxes", "-box_enlarge", "0.4", "-box_shift", "0.1"],
    ["-mode", "boxes", "--box_per_slice", "--unnamed", "-drop", "0.5"],
]


@pytest.mark.parametrize("options", MODE_OPTIONS, ids=" ".join)
def test_every_mode_can_be_replayed_to_the_byte(options: list[str], dataset: Path, tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    main(["-d", "501", "-o", str(first), "-seed", "7", *options])
    plans = tmp_path / "preprocessed" / "Dataset501_Tiny" / "SPDPlans.json"
    plans.parent.mkdir(parents=True)
    plans.write_text(json.dumps({"spd": {"slicing_axis": "L"}}), encoding="utf-8")  # that came later must not matter
    main(["-d", "501", "-o", str(again), "-replay", str(first / RECORD_FILE)])
    files = {f.name: f.read_bytes() for f in first.iterdir()}
    assert sorted(files) == ["TI_001.mrk.json", "TI_002.mrk.json", RECORD_FILE]
    assert {f.name: f.read_bytes() for f in again.iterdir()} == files
    main(["-d", "501", "-o", str(other), "-seed", "7", *options])
    record = json.loads((other / RECORD_FILE).read_text(encoding="utf-8"))
    assert record["slicing_axis"] == "L" and json.loads(files[RECORD_FILE])["slicing_axis"] == "largest spacing"
    assert record["seed"] == 7 and record["spdnet_version"] == spdnet.__version__


def test_the_record_holds_every_parameter_with_its_value(dataset: Path) -> None:
    main(["-d", "501", *MODE_OPTIONS[3]])
    record = json.loads((dataset / "promptsTs" / RECORD_FILE).read_text(encoding="utf-8"))
    assert record == {
        "spdnet_version": spdnet.__version__,
        "mode": "centreline",
        "parameters": {
            "uncovered": 0.4,
            "overrun_mm": 7.5,
            "drift_mm": 2.5,
            "drift_length_mm": 12.0,
            "smoothing_mm": 5.0,
            "named": True,
        },
        "dropped_share": 0.0,
        "seed": 1,
        "slicing_axis": "largest spacing",
        "curves_as_points": False,
    }
    assert find_prompt_file(dataset / "promptsTs", "spd_prompts") is None, "no prompts of a case"


def read_back(dataset: Path, case: str = "TI_001") -> tuple[SlicePrompts, np.ndarray]:
    """The prompts of a file at the resolution of the image, and the masks (slices, classes, rows, columns)."""
    label_map, geometry = SimpleITKIO().read_label(dataset / "labelsTs" / f"{case}.nii.gz")
    mapping = raw_resolution_mapping(geometry, 1)
    prompts = load_given_prompts(
        dataset / "promptsTs" / f"{case}.mrk.json", case, geometry, mapping, LABELS
    ).for_network()
    return prompts, mapping.orient(LABELS.masks(label_map)).swapaxes(0, 1)


def test_a_centreline_is_a_curve_that_reads_back_slice_by_slice(dataset: Path) -> None:
    options = ["-mode", "centreline", "-uncovered", "0", "-drift", "0"]
    main(["-d", "501", *options])
    markups = read_markups(dataset / "promptsTs" / "TI_001.mrk.json")
    assert [(m.name, m.kind) for m in markups] == [("ileum", "curve"), ("colon", "curve")]
    prompts, masks = read_back(dataset)
    assert count_prompts(prompts, masks).coverage == 1.0
    assert len(set(prompts.for_class(0).slice_index.tolist())) == len(prompts.for_class(0)) > 5
    main(["-d", "501", *options, "--as_points", "--overwrite"])
    assert {m.kind for m in read_markups(dataset / "promptsTs" / "TI_001.mrk.json")} == {"points"}
    drawn = read_back(dataset)[0]
    assert drawn.slice_index.tolist() == prompts.slice_index.tolist()
    assert np.abs(drawn.points_syx - prompts.points_syx).max() < 0.6, "along the curve, a little nearer to its middle"


def test_dropped_slices_cut_a_curve_in_pieces(dataset: Path) -> None:
    main(["-d", "501", "-mode", "centreline", "-uncovered", "0", "-drop", "0.4", "-seed", "3"])
    markups = [m for m in read_markups(dataset / "promptsTs" / "TI_001.mrk.json") if m.name == "ileum"]
    prompts, masks = read_back(dataset)
    has_target = masks[:, 0].any(axis=(1, 2))
    has_point = np.isin(np.arange(len(masks)), prompts.for_class(0).slice_index)
    assert has_target.sum() == 5 and (has_target & ~has_point).sum() == 2
    assert len(markups) >= 2 and {m.kind for m in markups} == {"curve"}


@pytest.mark.parametrize("per_slice", [False, True])
def test_boxes_are_rois_around_the_target(per_slice: bool, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-d", "501", "-mode", "boxes", "-box_shift", "0", *(["--box_per_slice"] if per_slice else [])])
    assert "target slices with a box: 100.0%" in capsys.readouterr().out
    markups = read_markups(dataset / "promptsTs" / "TI_001.mrk.json")
    assert [(m.name, m.kind) for m in markups] == [("ileum", "box")] * (5 if per_slice else 1) + [("colon", "box")]
    prompts, masks = read_back(dataset)
    statistics = count_prompts(prompts, masks)
    assert len(prompts) == 0 and statistics.box_coverage == 1.0 and 0.2 < statistics.mean_box_iou < 1
    for s, k in np.argwhere(masks.any(axis=(2, 3))):
        top, left, bottom, right = prompts.boxes.for_class(k).boxes_yxyx[prompts.boxes.for_class(k).slice_index == s][0]
        rows, columns = np.nonzero(masks[s, k])
        assert top < rows.min() and bottom > rows.max() and left < columns.min() and right > columns.max()


@pytest.mark.parametrize("axis", ["S", "P", "L"])
def test_the_axes_of_an_roi_are_right_handed(axis: str, dataset: Path, tmp_path: Path) -> None:
    plans = tmp_path / "preprocessed" / "Dataset501_Tiny" / "SPDPlans.json"
    plans.parent.mkdir(parents=True)
    plans.write_text(json.dumps({"spd": {"slicing_axis": axis}}), encoding="utf-8")
    main(["-d", "501", "-mode", "boxes"])
    for markup in read_markups(dataset / "promptsTs" / "TI_001.mrk.json"):
        assert np.linalg.det(markup.points_lps_mm[[4, 2, 1]] - markup.points_lps_mm[0]) > 0


def test_boxes_survive_the_file_to_a_thousandth_of_a_pixel(dataset: Path) -> None:
    options = ["-mode", "boxes", "--box_per_slice"]
    main(["-d", "501", *options])
    prompts, masks = read_back(dataset)
    recipe = make_recipe("boxes", {"per_slice": True})
    drawn = recipe.draw(masks, ((0, 16), (0, 12)), (1.5, 1.0, 5.0), case_generator(1, "TI_001")).boxes
    assert prompts.boxes.slice_index.tolist() == drawn.slice_index.tolist()
    np.testing.assert_allclose(prompts.boxes.boxes_yxyx, drawn.boxes_yxyx, atol=1e-3)


def test_lengths_are_in_mm_of_the_image(dataset: Path) -> None:
    recipe = make_recipe("displaced", {"displacement_mm": 3.0, "points_per_slice": 3})
    main(["-d", "501", "-mode", "displaced", "-displacement", "3", "-points_per_slice", "3"])
    prompts, masks = read_back(dataset)
    _, geometry = SimpleITKIO().read_label(dataset / "labelsTs" / "TI_001.nii.gz")
    size_mm = pixel_size_mm(geometry, raw_resolution_mapping(geometry, 1))
    assert size_mm == (1.5, 1.0, 5.0)
    drawn = recipe.draw(masks, ((0, 16), (0, 12)), size_mm, case_generator(1, "TI_001"))
    np.testing.assert_allclose(prompts.for_class(0).points_syx, drawn.for_class(0).points_syx, atol=1e-6)
    network = plan_case_mapping(geometry, 1, 32, 0.75)
    assert pixel_size_mm(geometry, network) == pytest.approx((0.75, 0.75, 5.0))


def test_the_share_of_bad_points_is_printed(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-d", "501", "-mode", "bad_points", "-bad", "0.5", "-points_per_slice", "10"])
    out = capsys.readouterr().out
    assert "points inside the target: 50.0%" in out and "distance of outside points from the target, median: " in out
    assert f"-replay {dataset / 'promptsTs' / RECORD_FILE}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-mode", "boxes", "-bad", "0.5"], "-bad belongs to -mode bad_points and has no effect with -mode boxes"),
        (["-drift", "3"], "-drift belongs to -mode centreline and has no effect with -mode recipe"),
        (["-mode", "displaced", "--as_points"], "--as_points belongs to -mode centreline"),
        (["--true_points", "2", "-inside", "1"], "no effect with --true_points"),
        (["--true_points", "2", "-mode", "boxes"], "give one of them"),
        (["-mode", "bad_points", "-bad", "1.2"], "bad is 1.2"),
        (["-drop", "-0.5"], "dropped slices is -0.5"),
        (["-replay", "nowhere.json"], "record of simulated prompts nowhere.json is missing"),
        (["-replay", "record.json", "-mode", "boxes", "-seed", "0"], "leave out -mode, -seed"),
    ],
)
def test_options_that_contradict_are_refused(
    arguments: list[str], message: str, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["-d", "501", *arguments])
    assert message in capsys.readouterr().err
    assert not (dataset / "promptsTs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"slicing_axis": "X"}, "slicing_axis is 'X'"),
        ({"curves_as_points": 1}, "curves_as_points is 1"),
        ({"mode": "web"}, "mode 'web'"),
        ({"parameters": {"bad": 2.0}}, "bad is 2"),
        ({"parameters": None}, "an object as parameters"),
    ],
)
def test_damaged_records_are_refused(
    change: dict[str, Any], message: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["-d", "501", "-mode", "bad_points", "-o", str(tmp_path / "drawn")])
    file = tmp_path / "drawn" / RECORD_FILE
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["-d", "501", "-replay", str(file)])
    error = capsys.readouterr().err
    assert message in error and str(file) in error and not (dataset / "promptsTs").exists()
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["-d", "501", "-replay", str(file)])
    assert "not a record" in capsys.readouterr().err


def test_a_record_of_another_version_is_replayed_with_a_note(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["-d", "501", "-o", str(tmp_path / "drawn")])
    file = tmp_path / "drawn" / RECORD_FILE
    file.write_text(
        json.dumps({**json.loads(file.read_text(encoding="utf-8")), "spdnet_version": "0.0.7"}), encoding="utf-8"
    )
    main(["-d", "501", "-replay", str(file)])
    assert "was drawn by spdnet 0.0.7" in capsys.readouterr().out
    assert written(dataset / "promptsTs") == written(tmp_path / "drawn")


def test_a_folder_does_not_mix_prompts_of_two_records(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-d", "501", "-seed", "1"])
    before = written(dataset / "promptsTs")
    (dataset / "imagesTs" / "TI_001_0000.nii.gz").unlink()
    (dataset / "promptsTs" / "TI_002.mrk.json").unlink()
    with pytest.raises(SystemExit):
        main(["-d", "501", "-seed", "2"])
    assert RECORD_FILE in capsys.readouterr().err and list(written(dataset / "promptsTs")) == ["TI_001.mrk.json"]
    main(["-d", "501", "-seed", "1"])
    assert written(dataset / "promptsTs") == before


def test_raw_resolution_mapping_orients_only(dataset: Path) -> None:
    label_map, geometry = SimpleITKIO().read_label(dataset / "labelsTs" / "TI_001.nii.gz")
    mapping = raw_resolution_mapping(geometry, 1)
    assert mapping.scale == (1.0, 1.0) and mapping.content_box == ((0, 16), (0, 12)) and mapping.image_size == 16
    network = mapping.image_to_network(label_map[None].astype(np.float32))
    np.testing.assert_array_equal(network[:, 0, :16, :12], mapping.orient(label_map))


def test_points_for_all_classes_are_counted_against_all(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-d", "501", "--true_points", "3", "--unnamed"])
    assert "points inside the target: 100.0%" in capsys.readouterr().out


def test_lengths_that_no_body_has_are_refused(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-d", "501", "-mode", "centreline", "-drift_length", "1e12"])
    assert "drift_length_mm is 1e+12 mm; it must be from 0 to 10000 mm" in capsys.readouterr().err


def test_boxes_on_a_grid_without_right_angles_are_refused_before_they_are_written(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    content["overwrite_image_reader_writer"] = "NibabelIO"
    (dataset / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    affine = np.eye(4)
    affine[0, 1] = 0.4
    for folder, name in (("imagesTs", "TI_001_0000"), ("labelsTs", "TI_001")):
        file = dataset / folder / f"{name}.nii.gz"
        image = nibabel.Nifti1Image(np.asarray(nibabel.load(file).dataobj), None)
        image.set_sform(affine, 1)
        image.set_qform(None, 0)
        nibabel.save(image, file)
    with pytest.raises(SystemExit):
        main(["-d", "501", "-mode", "boxes"])
    assert "TI_001" in (message := capsys.readouterr().err) and "not at right angles" in message
