"""spd_check_prompts: what it says of every case, and that it refuses what a prediction refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.cli.check_prompts import main
from spdnet.dataset import get_reader
from spdnet.prompts import Markup, write_markups
from spdnet.tests.conftest import Workspace

BOX = np.array([[z, y, x] for z in (1.0, 3.0) for y in (5.0, 12.0) for x in (4.0, 11.0)])


@pytest.fixture
def prompts(workspace: Workspace) -> Path:
    """Good prompt files of both test cases: a list and a curve, and a box."""
    folder = workspace.raw / "promptsTs"
    folder.mkdir()
    geometry = get_reader("SimpleITKIO").read_geometry(workspace.raw / "imagesTs" / "blob_005_0000.nii.gz")
    points = geometry.voxel_to_world(np.array([[2.0, 9.0, 8.0], [3.0, 10.0, 9.0], [4.0, 12.0, 12.0]]))
    lists = [Markup("bright", "points", points[:1], ("a",)), Markup("F", "curve", points, ("a", "b", "c"))]
    write_markups(folder / "blob_005.mrk.json", lists)
    second = get_reader("SimpleITKIO").read_geometry(workspace.raw / "imagesTs" / "blob_006_0000.nii.gz")
    rows = [",".join(f"{v:.0f}" for v in (*BOX[0, ::-1], *BOX[-1, ::-1]))]
    assert second.shape_zyx[0] > 3
    (folder / "blob_006.csv").write_text("\n".join(["i0,j0,k0,i1,j1,k1", *rows]), encoding="utf-8")
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    """Lines that are printed, and the error."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err


def test_a_line_for_each_case(workspace: Workspace, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = [
        "case blob_005: 1 point, 1 curve with 3 control points; for bright, all classes",
        "case blob_006: 1 box; for all classes",
        "2 cases: nothing is wrong",
    ]
    main(["-d", "507", "-s", "Ts"])
    assert capsys.readouterr().out.splitlines() == expected
    main(["-i", str(workspace.raw / "imagesTs"), "-prompts", str(prompts)])
    assert capsys.readouterr().out.splitlines() == expected


def test_every_fault_is_said_and_the_good_cases_too(
    workspace: Workspace, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("blob_007", "blob_008"):
        shutil.copy(
            workspace.raw / "imagesTs" / "blob_005_0000.nii.gz", workspace.raw / "imagesTs" / f"{name}_0000.nii.gz"
        )
    shutil.copy(prompts / "blob_005.mrk.json", prompts / "blob_007.mrk.json")
    shutil.copy(prompts / "blob_006.csv", prompts / "blob_007.csv")
    (prompts / "blob_006.csv").write_text("i,j,k\n900,1,1\n", encoding="utf-8")
    lines, error = refused(["-d", "507"], capsys)
    assert lines[0].startswith("case blob_005: 1 point, 1 curve")
    assert "case blob_006: point 'line 2' lies at voxel" in lines[1] and "run from 0 to" in lines[1]
    assert "case blob_007: " in lines[2] and "holds 2 prompt files of it" in lines[2]
    assert "case blob_008 has no prompt file" in lines[3] and len(lines) == 4
    assert "-prompts" in lines[3] and "--no_prompts" not in lines[3]  # an option of spd_predict alone
    assert error == "error: 3 of 4 cases cannot be used; what is wrong is said above\n"


def test_the_options_of_prompt_files_are_those_of_a_prediction(
    workspace: Workspace, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (prompts / "blob_006.csv").write_text("x,y,z\n1e3,1,1\n", encoding="utf-8")
    lines, _ = refused(["-d", "507"], capsys)
    assert "-frame lps or -frame ras" in lines[1]
    main(["-d", "507", "-frame", "lps", "--outside", "drop"])
    assert "case blob_006: nothing is placed" in capsys.readouterr().out


def test_training_cases_may_be_without_prompts(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    folder = workspace.raw / "promptsTr"
    folder.mkdir()
    (folder / "blob_001.csv").write_text("i,j,k\n8,9,2\n", encoding="utf-8")
    main(["-d", "507", "-s", "Tr"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "case blob_000: no prompt file, so the prompts of all training cases are simulated"
    assert lines[1] == "case blob_001: 1 point; for all classes" and len(lines) == 6
    (folder / "blob_001.csv").write_text("i,j,k\n8,9,200\n", encoding="utf-8")
    assert refused(["-d", "507", "-s", "Tr"], capsys)[1].startswith("error: 1 of 5 cases")


def test_training_cases_that_dataset_json_names(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    file = workspace.raw / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    entry = {"images": ["imagesTr/blob_002_0000.nii.gz"], "label": "labelsTr/blob_002.nii.gz"}
    file.write_text(json.dumps({**content, "numTraining": 1, "dataset": {"mine": entry}}), encoding="utf-8")
    (workspace.raw / "promptsTr").mkdir()
    (workspace.raw / "promptsTr" / "mine.csv").write_text("i,j,k\n8,9,2\n", encoding="utf-8")
    main(["-d", "507", "-s", "Tr"])
    assert capsys.readouterr().out.splitlines() == ["case mine: 1 point; for all classes", "1 case: nothing is wrong"]


def test_what_is_to_be_checked_must_be_said(
    workspace: Workspace, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = str(workspace.raw / "imagesTs")
    assert "either a data set, -d ID, or a folder of images" in refused([], capsys)[1]
    assert "either a data set" in refused(["-d", "507", "-i", images], capsys)[1]
    assert "-prompts FOLDER" in refused(["-i", images], capsys)[1]
    shutil.copytree(images, tmp_path / "elsewhere" / "images")
    elsewhere = ["-i", str(tmp_path / "elsewhere" / "images"), "-prompts", str(prompts)]
    assert "name it with -djfile" in refused(elsewhere, capsys)[1]
    main([*elsewhere, "-djfile", str(workspace.raw / "dataset.json")])
    shutil.rmtree(prompts)
    assert "promptsTs does not exist" in refused(["-d", "507"], capsys)[1]


def test_a_box_without_extent_in_the_slices_is_found(
    workspace: Workspace, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a prediction would refuse it."""
    image = sitk.ReadImage(str(workspace.raw / "imagesTs" / "blob_006_0000.nii.gz"))
    centre = image.TransformContinuousIndexToPhysicalPoint([n / 2 for n in image.GetSize()])
    roi = {"type": "ROI", "name": "flat", "center": list(centre), "size": [0.0, 6.0, 6.0], "controlPoints": []}
    axes = np.array(image.GetDirection()).reshape(3, 3)
    roi["orientation"] = axes.ravel().tolist()
    (prompts / "blob_006.csv").unlink()
    (prompts / "blob_006.mrk.json").write_text(json.dumps({"markups": [roi]}), encoding="utf-8")
    lines, _ = refused(["-d", "507"], capsys)
    assert "case blob_006: box 'flat' of" in lines[1] and "no extent" in lines[1]
