"""Fingerprint values against independent computations, and the planner's rules one by one."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.cli import plan_and_preprocess, simulate_prompts
from spdnet.dataset import RawDataset
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.errors import ConfigurationError, DatasetError, PlansError, PromptFileError
from spdnet.planning import Fingerprint, SPDPlanner, SPDPlans, StoredCase, extract_fingerprint
from spdnet.planning.fingerprint import CaseFingerprint, ClassFingerprint
from spdnet.planning.planner import PLANNERS, SPDPlannerPaper
from spdnet.planning.plans import DistillationSettings, PromptSettings, RecipeSettings
from spdnet.prompts import Markup, PromptStatistics, read_markups, write_markups
from spdnet.tests.conftest import Workspace
from spdnet.tests.tiny import SPACING_ZYX_MM, blob_case

# ---- fingerprint ------------------------------------------------------------------------------------------


def test_fingerprint_values_are_those_of_the_arrays(raw_workspace: Workspace) -> None:
    fingerprint = extract_fingerprint(RawDataset(raw_workspace.raw), 1)
    assert fingerprint.dataset_name == "Dataset507_Blobs"
    assert fingerprint.slicing_axis == "S"
    assert fingerprint.class_names == ("bright", "half")
    assert fingerprint.channel_names == ("MRI",)
    assert [c.case for c in fingerprint.cases] == [f"blob_{i:03d}" for i in range(5)]
    for index, case in enumerate(fingerprint.cases):  # every second one is stored flipped and oblique
        image, label = blob_case(index)
        assert case.shape == image.shape
        np.testing.assert_allclose(case.spacing_mm, SPACING_ZYX_MM, rtol=1e-6)
        assert case.n_slices == len(image)
        assert case.nonzero_box == tuple((0, n) for n in image.shape)
        expected = [image.min(), image.max(), *np.percentile(image, [0.5, 50, 99.5])]
        np.testing.assert_allclose(case.intensity[0], expected, rtol=1e-6)
        inside = image[label > 0]
        expected = [inside.min(), inside.max(), *np.percentile(inside, [0.5, 50, 99.5])]
        np.testing.assert_allclose(case.foreground_intensity[0], expected, rtol=1e-6)
        assert case.prompt_statistics is None
        for value, found in zip((1, 2), case.classes, strict=True):
            masks = label == value
            areas = [m.sum() for m in masks if m.any()]
            assert found.voxels == masks.sum()
            assert found.target_slices == len(areas)
            assert found.median_slice_area_mm2 == pytest.approx(np.median(areas) * 1.2, rel=1e-6)
            pairs = [(a, b) for a, b in itertools.pairwise(masks) if a.any() and b.any()]
            dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]
            assert found.adjacent_dice == pytest.approx(np.mean(dice))


@pytest.mark.parametrize("number", [0, 1])
def test_the_nonzero_box_is_in_canonical_axes(workspace: Workspace, number: int) -> None:
    file = workspace.raw / "imagesTr" / f"blob_{number:03d}_0000.nii.gz"
    image = sitk.ReadImage(str(file))
    array = sitk.GetArrayFromImage(image)
    array[:1], array[:, :3], array[:, :, 23:] = 0, 0, 0
    zeroed = sitk.GetImageFromArray(array)
    zeroed.CopyInformation(image)
    sitk.WriteImage(zeroed, str(file))
    n_slices = len(array)
    case = extract_fingerprint(RawDataset(workspace.raw), 1).cases[number]
    # number 1 is stored with z and x running the other way
    expected = [((1, n_slices), (3, 24), (0, 23)), ((0, n_slices - 1), (3, 24), (5, 28))]
    assert case.nonzero_box == expected[number]


def test_a_fingerprint_survives_its_file_and_is_readable(raw_workspace: Workspace, tmp_path: Path) -> None:
    fingerprint = extract_fingerprint(RawDataset(raw_workspace.raw), 1)
    file = tmp_path / "spd_fingerprint.json"
    fingerprint.save(file)
    assert Fingerprint.load(file) == fingerprint
    summary = json.loads(file.read_text(encoding="utf-8"))["summary"]
    assert summary["n_cases"] == 5
    assert summary["n_slices"] == sum(len(blob_case(i)[1]) for i in range(5))
    voxels = sum(blob_case(i)[1].size for i in range(5))
    bright = sum((blob_case(i)[1] == 1).sum() for i in range(5))
    assert summary["classes"]["bright"]["share_of_voxels"] == pytest.approx(bright / voxels)
    assert summary["prompts"] == "none: prompts will be simulated"


def test_prompt_files_are_counted(workspace: Workspace) -> None:
    simulate_prompts.main(["-d", "507", "-s", "Tr", "-inside", "2", "-random", "0", "0"])
    fingerprint = extract_fingerprint(RawDataset(workspace.raw), 1)
    total = fingerprint.prompt_statistics
    assert total is not None
    target_slices = sum((blob_case(i)[1] == v).any(axis=(1, 2)).sum() for i in range(5) for v in (1, 2))
    slices = 2 * sum(len(blob_case(i)[1]) for i in range(5))
    assert (total.points, total.points_inside) == (2 * target_slices, 2 * target_slices)
    assert (total.slices, total.slices_with_points) == (slices, target_slices)
    assert (total.target_slices, total.target_slices_hit) == (target_slices, target_slices)
    (workspace.raw / "promptsTr" / "blob_003.mrk.json").unlink()
    fingerprint = extract_fingerprint(RawDataset(workspace.raw), 1)
    total = fingerprint.prompt_statistics
    assert fingerprint.n_prompt_files == 4 and total is not None
    assert total.target_slices == sum(
        c.prompt_statistics.target_slices for c in fingerprint.cases if c.prompt_statistics
    )
    for file in (workspace.raw / "promptsTr").glob("*.mrk.json"):
        file.unlink()
    assert extract_fingerprint(RawDataset(workspace.raw), 1).prompt_statistics is None


@pytest.mark.parametrize("named", [True, False])
def test_points_that_name_no_class_are_imitated_without_names(
    workspace: Workspace, tmp_path: Path, named: bool
) -> None:
    options = ["-inside", "2", "-random", "0", "0", *([] if named else ["--unnamed"])]
    simulate_prompts.main(["-d", "507", "-s", "Tr", *options])
    fingerprint = extract_fingerprint(RawDataset(workspace.raw), 1)
    file = tmp_path / "spd_fingerprint.json"
    fingerprint.save(file)
    loaded = Fingerprint.load(file)
    assert loaded == fingerprint
    plans = plan(loaded)
    recipe = plans.settings.prompts.recipe
    assert recipe.make().named is named and ("named" in recipe.parameters) is not named
    assert ("name no class" in plans.reasons["prompts"]) is not named
    assert SPDPlans.from_dict(json.loads(json.dumps(plans.to_dict()))) == plans
    content = json.loads(file.read_text(encoding="utf-8"))
    for case in content["cases"]:  # as in a fingerprint that was made before names were counted
        del case["prompt_statistics"]["unnamed_points"], case["prompt_statistics"]["together"]
    file.write_text(json.dumps(content), encoding="utf-8")
    old = Fingerprint.load(file)
    assert old.prompt_statistics is not None and not old.prompt_statistics.is_unnamed
    assert "named" not in plan(old).settings.prompts.recipe.parameters


def test_the_slicing_axis_is_the_one_of_largest_spacing_however_stored(workspace: Workspace) -> None:
    for kind in ("imagesTr", "labelsTr"):
        for file in (workspace.raw / kind).iterdir():
            image = sitk.ReadImage(str(file))
            image.SetSpacing((1.0, 5.0, 1.0))
            image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
            sitk.WriteImage(sitk.PermuteAxes(image, (1, 2, 0)), str(file))
    fingerprint = extract_fingerprint(RawDataset(workspace.raw), 1)
    assert fingerprint.slicing_axis == "P"
    assert fingerprint.cases[0].n_slices == 24
    assert fingerprint.cases[0].shape == (6, 24, 28)
    np.testing.assert_allclose(fingerprint.cases[0].spacing_mm, (1, 5, 1))
    # areas are of coronal slices: 1 mm x 1 mm pixels
    label = blob_case(0)[1] == 1
    areas = [label[:, y].sum() for y in range(24) if label[:, y].any()]
    assert fingerprint.cases[0].classes[0].median_slice_area_mm2 == pytest.approx(np.median(areas))


def test_empty_labels_are_an_error_and_an_empty_case_is_not(workspace: Workspace) -> None:
    def empty(number: int) -> None:
        file = str(workspace.raw / "labelsTr" / f"blob_{number:03d}.nii.gz")
        sitk.WriteImage(sitk.ReadImage(file) * 0, file)

    empty(0)
    case = extract_fingerprint(RawDataset(workspace.raw), 1).cases[0]
    assert case.classes[0] == ClassFingerprint(0, 0, 0.0, None)
    assert case.foreground_intensity == ((0.0,) * 5,)
    for number in range(1, 5):
        empty(number)
    with pytest.raises(DatasetError, match="labels of all 5 training cases are empty"):
        extract_fingerprint(RawDataset(workspace.raw), 1)


def test_a_foreign_fingerprint_is_named(tmp_path: Path) -> None:
    file = tmp_path / "spd_fingerprint.json"
    with pytest.raises(PlansError, match="Run spd_extract_fingerprint first"):
        Fingerprint.load(file)
    for content in ({"spacings": []}, []):
        file.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(PlansError, match="not a fingerprint of this version"):
            Fingerprint.load(file)


# ---- a fingerprint of other files -------------------------------------------------------------------------

AGAIN = "measuring again, as the fingerprint"


def prompts_for(workspace: Workspace, *numbers: int) -> None:
    """Prompt files with one point at the centre of the image."""
    (workspace.raw / "promptsTr").mkdir(exist_ok=True)
    for number in numbers:
        case = f"blob_{number:03d}"
        geometry = SimpleITKIO().read_geometry(workspace.raw / "imagesTr" / f"{case}_0000.nii.gz")
        markup = Markup("bright", "points", geometry.voxel_to_world(np.array([[3.0, 12.0, 14.0]])), ("a",))
        write_markups(workspace.raw / "promptsTr" / f"{case}.mrk.json", [markup])


def test_a_fingerprint_is_measured_again_if_its_files_have_changed(
    planned: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    def extract(*options: str) -> str:
        capsys.readouterr()
        plan_and_preprocess.extract_fingerprint_main(["-d", "507", "-np", "1", *options])
        return capsys.readouterr().out

    file = planned.preprocessed / "spd_fingerprint.json"
    assert "using the fingerprint" in extract()
    prompts_for(planned, 0, 1, 2, 3, 4)
    new = "new: promptsTr/blob_000.mrk.json, promptsTr/blob_001.mrk.json, promptsTr/blob_002.mrk.json and 2 more"
    assert f"{AGAIN} {file} is out of date ({new})" in extract()
    assert Fingerprint.load(file).n_prompt_files == 5
    assert "using the fingerprint" in extract()
    os.utime(planned.raw / "labelsTr" / "blob_001.nii.gz", (1, 1))
    (planned.raw / "promptsTr" / "blob_003.mrk.json").unlink()
    assert "(gone: promptsTr/blob_003.mrk.json; changed: labelsTr/blob_001.nii.gz)" in extract()
    read = "(prompts were read without -frame and --outside error, now without -frame and --outside drop)"
    assert read in extract("--outside", "drop")
    assert "using the fingerprint" in extract("--outside", "drop")
    assert "measuring again" not in extract("--outside", "drop", "--clean")
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["measured_from"]
    file.write_text(json.dumps(content), encoding="utf-8")
    assert "(it was written by an earlier version, which noted less)" in extract("--outside", "drop")


def test_prompts_that_come_later_are_planned_with(planned: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-d", "507", "-sam", "tiny", "-device", "cpu"]
    plan_and_preprocess.plan_experiment_main(options)
    assert "warning" not in capsys.readouterr().out
    prompts_for(planned, 0, 1, 2, 3, 4)
    plan_and_preprocess.plan_experiment_main(options)
    out = capsys.readouterr().out
    assert "warning: Dataset507_Blobs: the fingerprint is out of date (new: promptsTr/blob_000" in out
    assert "Run spd_extract_fingerprint first" in out and "promptsTr holds no prompt file" in out
    plan_and_preprocess.main([*options, "-np", "1", "--no_pp"])
    out = capsys.readouterr().out
    assert AGAIN in out and "promptsTr holds a file for each of the 5 training cases" in out
    assert SPDPlans.load(planned.preprocessed / "SPDPlans.json").settings.prompts.source == "files"
    (planned.raw / "labelsTr" / "blob_000.nii.gz").unlink()
    plan_and_preprocess.plan_experiment_main(options)
    assert "whether the fingerprint is out of date cannot be told: case blob_000: label file" in capsys.readouterr().out


# ---- faulty cases -----------------------------------------------------------------------------------------


def test_all_faulty_cases_are_named_before_anything_is_measured(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    monkeypatch.setattr("spdnet.planning.fingerprint.measure_case", lambda case, **how: measured.append(case.case))
    prompts_for(workspace, 0, 1, 2, 3, 4)
    far = Markup("bright", "points", np.array([[0.0, 0, 900.0]]), ("C-7",))
    write_markups(workspace.raw / "promptsTr" / "blob_001.mrk.json", [far])
    (workspace.raw / "promptsTr" / "blob_002.mrk.json").write_text("{", encoding="utf-8")
    (workspace.raw / "imagesTr" / "blob_003_0000.nii.gz").write_bytes(b"no image")
    shutil.copy(workspace.raw / "labelsTr" / "blob_001.nii.gz", workspace.raw / "labelsTr" / "blob_004.nii.gz")
    with pytest.raises(PromptFileError) as caught:
        extract_fingerprint(RawDataset(workspace.raw), 1)
    first, *faults = str(caught.value).split("\n  ")
    assert first == "4 of 5 training cases are faulty:" and not measured
    parts = ("point 'C-7'", "blob_002.mrk.json is not valid JSON", "blob_003_0000.nii.gz", "not on the same grid")
    assert [part in fault for part, fault in zip(parts, faults, strict=True)] == [True] * 4


@pytest.fixture
def prompted(planned: Workspace) -> Workspace:
    """Planned and preprocessed with a prompt file for each case."""
    prompts_for(planned, 0, 1, 2, 3, 4)
    plan_and_preprocess.main(PLAN_TINY)
    assert SPDPlans.load(planned.preprocessed / "SPDPlans.json").settings.prompts.source == "files"
    return planned


PLAN_TINY = ["-d", "507", "-np", "1", "-sam", "tiny", "-device", "cpu"]


def test_a_new_case_without_prompts_costs_nothing_that_was_there(
    prompted: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        shutil.copy(prompted.raw / kind / f"blob_000{ending}", prompted.raw / kind / f"blob_009{ending}")
    before = {f: f.read_bytes() for f in prompted.preprocessed.rglob("*") if f.is_file()}
    with pytest.raises(SystemExit):
        plan_and_preprocess.preprocess_main(["-d", "507", "-np", "1"])
    assert "case blob_009: the plans say prompts come from files, but it has none" in capsys.readouterr().err
    assert {f: f.read_bytes() for f in prompted.preprocessed.rglob("*") if f.is_file()} == before
    assert len(StoredCase.list(prompted.preprocessed / "SPDPlans_2d")) == 5
    plan_and_preprocess.main(PLAN_TINY)
    assert "promptsTr holds files for 5 of 6 training cases" in capsys.readouterr().out
    assert len(StoredCase.list(prompted.preprocessed / "SPDPlans_2d")) == 6


def test_a_case_with_faulty_prompts_costs_nothing_that_was_there(
    prompted: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {f: f.read_bytes() for f in prompted.preprocessed.rglob("*") if f.is_file()}
    (prompted.raw / "promptsTr" / "blob_002.mrk.json").write_text("{", encoding="utf-8")
    for command, options in (
        (plan_and_preprocess.main, PLAN_TINY),
        (plan_and_preprocess.preprocess_main, PLAN_TINY[:4]),
    ):
        with pytest.raises(SystemExit):
            command(options)
        assert "blob_002.mrk.json is not valid JSON" in capsys.readouterr().err
    shutil.copy(prompted.raw / "promptsTr" / "blob_001.mrk.json", prompted.raw / "promptsTr" / "blob_002.json")
    with pytest.raises(SystemExit):
        plan_and_preprocess.main(PLAN_TINY)
    assert "not read as prompts: blob_002.json" in capsys.readouterr().err
    assert {f: f.read_bytes() for f in prompted.preprocessed.rglob("*") if f.is_file()} == before


def test_points_that_are_dropped_are_told_once(planned: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    prompts_for(planned, 0, 1, 2, 3, 4)
    file = planned.raw / "promptsTr" / "blob_002.mrk.json"
    (markup,) = read_markups(file)
    points = np.concatenate([markup.points_lps_mm, [[0.0, 0.0, 900.0]]])
    write_markups(file, [Markup("bright", "points", points, ("a", "far"))])
    for _ in range(2):  # measured and preprocessed, then preprocessed alone
        caplog.clear()
        plan_and_preprocess.main([*PLAN_TINY, "--outside", "drop"])
        told = [r.getMessage() for r in caplog.records if "Dropped" in r.getMessage()]
        assert len(told) == 1 and "case blob_002: point 'far'" in told[0]
        assert "--outside" not in told[0], "it was given"


# ---- plans that are there ---------------------------------------------------------------------------------


def test_edited_plans_are_kept_when_planned_again(planned: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    file = planned.preprocessed / "SPDPlans.json"

    def kept() -> list[str]:
        return sorted(f.name for f in planned.preprocessed.glob("SPDPlans_before_*.json"))

    def plan_again() -> str:
        capsys.readouterr()
        plan_and_preprocess.plan_experiment_main(PLAN_TINY[:2] + PLAN_TINY[4:])
        return capsys.readouterr().out

    assert "was edited" not in plan_again() and not kept()
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    assert "was edited" not in plan_again() and not kept(), "only its layout"
    edited = []
    for tau in (0.3, 0.4, 0.6):  # within a second
        content["spd"]["distillation"]["tau"] = tau
        edited.append(json.dumps(content))
        file.write_text(edited[-1], encoding="utf-8")
        out = plan_again()
        assert f"{file} was edited since it was planned; it is kept as {planned.preprocessed}/SPDPlans_before_" in out
        assert SPDPlans.load(file).settings.distillation.tau == 0.5
    assert sorted((planned.preprocessed / name).read_text(encoding="utf-8") for name in kept()) == sorted(edited)
    file.write_text("{", encoding="utf-8")
    assert "was edited" in plan_again() and len(kept()) == 4
    del content["planned_sha256"]  # of an earlier version
    file.write_text(json.dumps(content), encoding="utf-8")
    assert "was edited" not in plan_again() and len(kept()) == 4


# ---- rules ------------------------------------------------------------------------------------------------


POINTS = PromptStatistics(points=30, points_inside=12, slices=10, target_slices=10, target_slices_hit=6)


def a_case(**changes: object) -> CaseFingerprint:
    """30 axial slices of 100 x 80 pixels of 1 mm, 5 mm apart; a target of 40 mm x 40 mm."""
    case = CaseFingerprint(
        case="a",
        shape=(30, 100, 80),
        spacing_mm=(5.0, 1.0, 1.0),
        has_patient_axes=True,
        n_slices=30,
        nonzero_box=((0, 30), (0, 100), (0, 80)),
        classes=(ClassFingerprint(16000, 10, 1600.0, 0.9),),
        intensity=((0.0, 1000.0, 1.0, 300.0, 900.0),),
        foreground_intensity=((0.0, 500.0, 40.0, 300.0, 400.0),),
        cropped_mean_std=((300.0, 150.0),),
        reader_axes=(0, 1, 2),
        reader_flips=(False, False, False),
        reader_spacing_mm=(5.0, 1.0, 1.0),
        reader_shape_after_crop=(30, 100, 80),
        prompt_statistics=None,
    )
    return replace(case, **changes)  # type: ignore[arg-type]


def a_fingerprint(*cases: CaseFingerprint, channel: str = "T2") -> Fingerprint:
    cases = cases or (a_case(), a_case())
    names = tuple(f"class {i}" for i in range(len(cases[0].classes)))
    channels = (channel,) * len(cases[0].intensity)
    pooled = {"max": 500.0, "mean": 250.0, "median": 300.0, "min": 0.0, "std": 100.0}
    pooled |= {"percentile_00_5": 40.0, "percentile_99_5": 400.0}
    intensities = (pooled,) * len(channels)
    return Fingerprint("Dataset501_TI", "SimpleITKIO", "S", names, False, channels, intensities, cases)


def plan(
    fingerprint: Fingerprint | None = None, device: str = "cpu", memory_gb: float = 8.0, **options: object
) -> SPDPlans:
    return SPDPlanner(fingerprint or a_fingerprint(), device, memory_gb, **options).plan()  # type: ignore[arg-type]


def test_every_decision_has_a_reason_and_the_plans_are_complete() -> None:
    plans = plan()
    assert SPDPlans.from_dict(json.loads(json.dumps(plans.to_dict()))) == plans
    decisions = {
        "slicing_axis", "crop_to_nonzero", "backbone", "image_size", "pixel_spacing_mm", "normalization",
        "batch_size", "iterations_per_epoch", "epochs", "distillation", "prompts",
    }  # fmt: skip
    assert decisions <= plans.reasons.keys()
    assert all(plans.reasons.values())
    assert plans.settings.slicing_axis == "S"


def test_a_target_spacing_is_kept_and_sizes_the_input() -> None:
    plans = plan(pixel_spacing_mm=2.0)  # slices of 100 mm
    assert plans.settings.pixel_spacing_mm == 2.0
    assert plans.settings.image_size == 56
    fine = plan(pixel_spacing_mm=0.5, device="cuda", backbone="lite")
    assert fine.settings.pixel_spacing_mm == 0.5
    assert fine.settings.image_size == 224
    assert fine.reasons["pixel_spacing_mm"].startswith("chosen by the user")


@pytest.mark.parametrize("options", [{}, {"image_size": 56}])
def test_a_target_spacing_that_the_size_cannot_hold_is_told(
    caplog: pytest.LogCaptureFixture, options: dict[str, int]
) -> None:
    size = plan(pixel_spacing_mm=0.5, **options).settings.image_size  # slices of 100 mm: 224 pixels
    assert size == options.get("image_size", 112), "the limit of a CPU"
    said = f"slices extend 100.0 mm, but {size} pixels of 0.5 mm hold {size / 2:.1f} mm: those that do not fit"
    (message,) = [r.getMessage() for r in caplog.records]
    assert said in message and "-image_size 224" in message
    caplog.clear()
    plan(pixel_spacing_mm=0.5, image_size=224)
    plan(pixel_spacing_mm=2.0)
    plan(image_size=56)
    assert not caplog.records


def test_the_paper_s_planner_changes_what_the_paper_says() -> None:
    ours, paper = plan().settings, SPDPlannerPaper(a_fingerprint(), "cpu", 8.0).plan().settings
    assert not paper.loss.batch_dice
    assert {paper.stage1.scheduler, paper.stage2.scheduler} == {"plateau"}
    assert (paper.stage1.focal_alpha, paper.stage2.focal_alpha) == (0.5, 0.5)
    per_epoch = ours.stage2.iterations_per_epoch
    assert [(s.stage1.warmup_iterations, s.stage2.warmup_iterations) for s in (ours, paper)] == [(0, per_epoch), (0, 0)]
    assert paper.lora.dropout == 0.1
    prompted = a_fingerprint(*[a_case(prompt_statistics=POINTS)] * 2)
    both = [planner(prompted, "cpu", 8.0).plan() for planner in (SPDPlanner, SPDPlannerPaper)]
    assert [p.settings.distillation.random_points for p in both] == ["refuse", "keep"]
    assert [p.settings.dense_prompt.mode for p in both] == ["maps", "none"]
    assert [p.settings.distillation.lone_pieces for p in both] == ["auto", "keep"]
    assert [p.settings.decoder_encoder for p in both] == ["own", "shared"]
    parts = ("loss", "stage1", "stage2", "lora", "distillation", "dense_prompt", "decoder_encoder")
    assert replace(paper, **{part: getattr(ours, part) for part in parts}) == ours
    assert [p.settings.distillation.mode for p in both] == ["weighed", "consensus"]
    extensions = ("mode", "random_points", "lone_pieces")
    rest = replace(paper.distillation, **{name: getattr(ours.distillation, name) for name in extensions})
    assert rest == ours.distillation
    assert PLANNERS["SPDPlannerPaper"] is SPDPlannerPaper


@pytest.mark.parametrize(("device", "name"), [("cpu", "lite"), ("cuda", "vit_b")])
def test_the_backbone_follows_the_device_unless_chosen(device: str, name: str) -> None:
    assert plan(device=device).settings.backbone == name
    chosen = plan(device=device, backbone="vit_l")
    assert chosen.settings.backbone == "vit_l"
    assert chosen.reasons["backbone"] == "chosen by the user"
    with pytest.raises(ConfigurationError, match="Unknown SAM backbone"):
        plan(backbone="x")


@pytest.mark.parametrize("backbone", ["lite", "vit_b"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("side", [20, 100, 150, 900])
def test_image_sizes_are_multiples_that_the_backbone_takes(side: int, device: str, backbone: str) -> None:
    box = ((0, 30), (0, side), (0, side))
    settings = plan(a_fingerprint(a_case(shape=(30, side, side), nonzero_box=box)), device, backbone=backbone).settings
    assert settings.image_size > 0
    assert settings.image_size % {"lite": 56, "vit_b": 224}[backbone] == 0
    assert settings.pixel_spacing_mm == pytest.approx(side / settings.image_size)


def size_for(area_mm2: float, **options: object) -> int:
    classes = (ClassFingerprint(1, 1, 1600.0, None), ClassFingerprint(1, 1, area_mm2, None))
    return plan(a_fingerprint(a_case(classes=classes)), "cuda", backbone="lite", **options).settings.image_size


def test_small_structures_get_a_larger_image() -> None:
    # 4 tokens of 4 px across a width w of a 100 mm slice take 1600 / w pixels
    assert size_for(1600.0) == 112, "stored resolution decides: 100 px"
    assert size_for(12.0**2) == 168, "133 px for 12 mm"
    assert size_for(8.0**2) == 224, "200 px for 8 mm"
    assert size_for(1.0) == 224, "never beyond what the device takes"
    assert size_for(1.0, image_size=56) == 56


def test_a_chosen_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="image size 102 is not a multiple of 4, as lite needs"):
        plan(image_size=102)


def test_any_size_of_whole_tokens_can_be_chosen() -> None:
    assert plan(image_size=64).settings.image_size == 64


def test_slices_are_cropped_where_a_quarter_of_their_area_is_empty() -> None:
    def crop(rows: int) -> bool:
        return plan(a_fingerprint(a_case(nonzero_box=((0, 30), (0, rows), (0, 80))))).settings.crop_to_nonzero

    assert not crop(100)
    assert not crop(75)
    assert crop(74)
    small = plan(a_fingerprint(a_case(nonzero_box=((0, 30), (10, 60), (10, 60))))).settings
    assert small.pixel_spacing_mm == pytest.approx(50 / small.image_size), "the size is for what is left"


def test_normalisation_follows_the_channel_name() -> None:
    (ct,) = plan(a_fingerprint(a_case(), channel="CT")).settings.normalization
    assert (ct.scheme, ct.low, ct.high) == ("window", 40.0, 400.0)
    (rgb,) = plan(a_fingerprint(a_case(), channel="rgb_to_0_1")).settings.normalization
    assert (rgb.scheme, rgb.low, rgb.high) == ("window", 0.0, 255.0)
    for name in ("T2", "rescale_to_0_1", "zscore"):
        (other,) = plan(a_fingerprint(a_case(), channel=name)).settings.normalization
        assert (other.scheme, other.low, other.high) == ("percentile", 0.5, 99.5)


def test_the_batch_fits_in_half_of_the_memory() -> None:
    sizes = [plan(memory_gb=gb).settings.stage1.batch_size for gb in (0.1, 1, 2, 4, 8, 1000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 2
    assert sizes[-1] == 16
    assert all(n & (n - 1) == 0 for n in sizes), "powers of two"
    assert len(set(sizes)) > 1
    assert plan(device="cuda", memory_gb=1000, backbone="lite").settings.stage1.batch_size == 32


def test_stage_1_is_checked_by_held_out_cases_or_short() -> None:
    few, enough = (plan(a_fingerprint(*[a_case(n_slices=64)] * n)) for n in (9, 10))
    assert (few.settings.selection.held_out_share, enough.settings.selection.held_out_share) == (0.0, 0.2)
    stages = [p.settings.stage1 for p in (few, enough)]
    passes = [s.epochs * s.iterations_per_epoch * s.batch_size / (64 * n) for s, n in zip(stages, (9, 10), strict=True)]
    assert 9 < passes[0] < 12 < passes[1]
    tiny = plan(a_fingerprint(a_case(n_slices=16))).settings.stage1
    assert tiny.epochs * tiny.iterations_per_epoch == 250


def test_an_epoch_is_one_pass_within_limits() -> None:
    def iterations(n_slices: int) -> int:
        return plan(a_fingerprint(a_case(n_slices=n_slices)), memory_gb=1000).settings.stage1.iterations_per_epoch

    assert iterations(16) == 25
    assert iterations(16 * 40 - 1) == 40
    assert iterations(16 * 1000) == 250
    few, many = (plan(a_fingerprint(*[a_case(n_slices=n)] * 10)) for n in (16, 1600))
    assert few.settings.stage1.epochs > many.settings.stage1.epochs >= 5


def test_two_dimensional_data_has_no_context() -> None:
    assert plan().settings.distillation.n_context == 2
    flat = a_case(n_slices=1, shape=(1, 100, 80), has_patient_axes=False, nonzero_box=((0, 1), (0, 100), (0, 80)))
    plans = plan(a_fingerprint(flat, flat))
    assert plans.settings.distillation == DistillationSettings("consensus", n_context=0, random_points="refuse")
    assert plans.settings.dense_prompt.mode == "none"
    assert plans.settings.decoder_encoder == "shared"
    assert "2D" in plans.reasons["slicing_axis"]


def test_points_that_form_lines_are_not_imitated_by_scattered_ones() -> None:
    line = replace(POINTS, slices_with_points=10, steps=80, short_steps=70)
    assert line.is_line
    own = plan(a_fingerprint(*[a_case(prompt_statistics=line)] * 2))
    assert own.settings.prompts.source == "files" and own.settings.prompts.imitated_share == 0
    assert "follow one another" in own.reasons["prompts"]
    curves = plan(a_fingerprint(*[a_case(prompt_statistics=line, prompt_curves=1)] * 2))
    assert curves.settings.prompts.recipe.mode == "centreline" and curves.settings.prompts.imitated_share == 0.5
    some = plan(a_fingerprint(a_case(prompt_statistics=line), a_case()))
    assert some.settings.prompts.source == "simulated"


def test_prompts_come_from_files_where_every_case_has_one() -> None:
    filed = a_fingerprint(*[a_case(prompt_statistics=POINTS)] * 2)
    recipe = RecipeSettings("bad_points", {"bad": 0.6, "points_per_slice": 3})
    own = plan(filed)
    assert own.settings.prompts == PromptSettings("files", recipe, imitated_share=0.5)
    assert "50 % of the draws are simulated to resemble them" in own.reasons["prompts"]
    paper = SPDPlannerPaper(filed, "cpu", 8.0).plan()
    assert paper.settings.prompts == PromptSettings("files", recipe) and "resemble" not in paper.reasons["prompts"]
    boxes = a_case(prompt_statistics=PromptStatistics(slices=10, target_slices=10, boxes=10))
    assert plan(a_fingerprint(boxes, boxes)).settings.prompts == PromptSettings("files")
    none = plan(a_fingerprint(a_case()))
    assert none.settings.prompts == PromptSettings("simulated")
    assert "no prompt file" in none.reasons["prompts"]


def test_prompts_of_some_cases_are_imitated_for_all() -> None:
    mixed = plan(a_fingerprint(a_case(prompt_statistics=POINTS), a_case()))
    recipe = RecipeSettings("bad_points", {"bad": 0.6, "points_per_slice": 3})
    assert mixed.settings.prompts == PromptSettings("simulated", recipe)
    assert "files for 1 of 2 training cases" in mixed.reasons["prompts"]
    assert "bad_points, bad 0.6, points_per_slice 3" in mixed.reasons["prompts"]
    assert SPDPlans.from_dict(json.loads(json.dumps(mixed.to_dict()))) == mixed
    curves = plan(a_fingerprint(a_case(prompt_statistics=POINTS, prompt_curves=1), a_case()))
    assert curves.settings.prompts.recipe == RecipeSettings("centreline", {"uncovered": 0.4})
    boxes = PromptStatistics(slices=10, target_slices=10, boxes=10)
    boxed = plan(a_fingerprint(a_case(prompt_statistics=boxes), a_case()))
    assert boxed.settings.prompts == PromptSettings("none", boxes="simulated")
