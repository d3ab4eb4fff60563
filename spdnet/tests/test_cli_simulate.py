"""spd_simulate_prompts on a tiny data set: what it writes, repeats and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.cli.simulate_prompts import main
from spdnet.dataset import Labels
from spdnet.dataset.image_io import NaturalImage2DIO, SimpleITKIO
from spdnet.geometry import nearest_index, plan_case_mapping, raw_resolution_mapping
from spdnet.prompts import load_slice_prompts, read_markups
from spdnet.prompts.simulate_files import case_generator

LABELS = Labels(("ileum", "colon"), ((1,), (2,)))


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two labelled test cases, stored obliquely and permuted, of 5 mm along the posterior axis."""
    folder = tmp_path / "raw" / "Dataset501_Tiny"
    for name in ("imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True)
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ileum": 1, "colon": 2}}
    (folder / "dataset.json").write_text(json.dumps({**content, "numTraining": 0, "file_ending": ".nii.gz"}))
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
    return {f.name: f.read_text() for f in sorted(folder.iterdir())}


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
    prompts = load_slice_prompts(dataset / "promptsTs" / "TI_001.mrk.json", "TI_001", geometry, mapping, LABELS)
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
    plans.write_text(json.dumps({"spd": {"slicing_axis": "L"}}))
    main(["-d", "501", "--true_points", "1"])
    assert "the data set's plans" in capsys.readouterr().out
    ileum, _ = read_markups(dataset / "promptsTs" / "TI_001.mrk.json")
    assert len(ileum.points_lps_mm) == 6  # columns 2 to 7 of the stored array run to the left
    plans.write_text("{}")
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
    content = json.loads((dataset / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".png"}))
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
            plans.write_text(json.dumps({"spd": {"slicing_axis": "P"}}))
        main(["-d", "502", "--true_points", "5", "--overwrite"])
        ileum, _ = read_markups(folder / "promptsTs" / "flat.mrk.json")
        voxels = nearest_index(geometry.world_to_voxel(ileum.points_lps_mm))
        assert len(voxels) == 5 and (label_map[tuple(voxels.T)] == 1).all()


def test_raw_resolution_mapping_orients_only(dataset: Path) -> None:
    label_map, geometry = SimpleITKIO().read_label(dataset / "labelsTs" / "TI_001.nii.gz")
    mapping = raw_resolution_mapping(geometry, 1)
    assert mapping.scale == (1.0, 1.0) and mapping.content_box == ((0, 16), (0, 12)) and mapping.image_size == 16
    network = mapping.image_to_network(label_map[None].astype(np.float32))
    np.testing.assert_array_equal(network[:, 0, :16, :12], mapping.orient(label_map))
