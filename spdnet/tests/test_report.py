"""`spd_report`: what is in the file, where it goes, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spdnet.cli import predict
from spdnet.cli.report import main
from spdnet.dataset import get_reader
from spdnet.planning.plans import DistillationSettings, PromptSettings
from spdnet.report.cases import read_case
from spdnet.report.page import json_text, render_page
from spdnet.report.sources import prediction_source
from spdnet.report.training_facts import plans_in_words
from spdnet.tests.conftest import Workspace
from spdnet.tests.report_data import DATASET_JSON, SHAPE_ZYX, ReportFolders, case_arrays, write_report_data
from spdnet.tests.tiny import write_volume

HOSTILE = "<img src=x onerror=document.title='broken'>&\"'"


@pytest.fixture
def folders(tmp_path: Path) -> ReportFolders:
    """Two cases with fates, saliency and references, and a second folder of predictions."""
    return write_report_data(tmp_path / "data")


def run(folders: ReportFolders, page: Path, *options: str, predictions: tuple[str, ...] = ("preds",)) -> str:
    """Write a report and return its text."""
    main([*folders.arguments(*predictions), "-o", str(page), *options])
    return page.read_text(encoding="utf-8")


def embedded(text: str, name: str) -> dict[str, Any]:
    """The data of one element of the page."""
    match = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def plane(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The error that a call ends with."""
    with pytest.raises(SystemExit):
        main(arguments)
    return capsys.readouterr().err


# ---- what is in it ----------------------------------------------------------------------------------------------


def test_a_case_in_the_page_is_the_case_on_disk(folders: ReportFolders, tmp_path: Path) -> None:
    payload = embedded(run(folders, tmp_path / "r.html"), "case-0")
    source = prediction_source(folders.images, [folders.predictions()], references=folders.references)
    data = read_case(source.cases[0], source)
    assert (payload["case"], payload["slices"], payload["rows"], payload["columns"]) == ("case_a", *SHAPE_ZYX)
    assert payload["spacing_mm"] == pytest.approx([4.0, 1.5, 1.0])
    image, reference, prediction = case_arrays(0)
    orient = data.frame.mapping.orient
    low, high = payload["grey"]["stored"]
    step = (high - low) / 255
    for s in range(SHAPE_ZYX[0]):
        shown = low + plane(payload["grey"]["planes"][s]) * step
        assert np.abs(shown - np.clip(orient(image)[s], low, high)).max() <= step / 2 + 1e-4
        for texts, label_map in ((payload["reference"], reference), (payload["predictions"][0]["labels"], prediction)):
            stored = orient(label_map)[s]
            assert (plane(texts[s]) == stored).all() if stored.any() else texts[s] == ""
    saliency = payload["predictions"][0]["saliency"]
    assert len(saliency) == 2
    assert plane(saliency[0][3]).max() == 90


def test_slice_scores_are_those_of_the_evaluation(folders: ReportFolders, tmp_path: Path) -> None:
    overview = embedded(run(folders, tmp_path / "r.html"), "overview")
    entry = overview["cases"][0]["predictions"][0]
    _, reference, prediction = case_arrays(0)
    for k, value in enumerate((1, 2)):
        ours, theirs = reference == value, prediction == value
        for s, dsc in enumerate(reversed(entry["slice_dsc"][k])):  # the volumes are stored from top to bottom
            total = ours[s].sum() + theirs[s].sum()
            expected = 2 * (ours[s] & theirs[s]).sum() / total if total else None
            assert dsc == (expected if expected is None else pytest.approx(expected, abs=1e-3))
        volume = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
        assert entry["classes"][k]["volume_dice"] == pytest.approx(volume)
    assert entry["worst"] == SHAPE_ZYX[0] - 1 - 3
    assert overview["prompts"][0]["raw"]["points"] == 2 * entry["prompts"]["raw"]["points"]


def test_folders_are_compared_under_their_names(folders: ReportFolders, tmp_path: Path) -> None:
    text = run(folders, tmp_path / "r.html", "-names", "SPD", "nnU-Net", predictions=("preds", "other"))
    overview, case = embedded(text, "overview"), embedded(text, "case-1")
    assert overview["predictions"] == ["SPD", "nnU-Net"]
    assert [e["dsc"][0]["mean"] for e in overview["estimates"]] == [pytest.approx(0.8, abs=0.15), 1.0]
    assert case["predictions"][0]["points"] and not case["predictions"][1]["points"]
    assert case["given"], "points as given are told by the table of one folder"


def test_without_reference_there_are_no_scores(folders: ReportFolders, tmp_path: Path) -> None:
    main(["-i", str(folders.images), "-p", str(folders.predictions()), "-o", str(tmp_path / "r.html")])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    overview = embedded(text, "overview")
    assert overview["estimates"] == [None]
    assert embedded(text, "case-0")["reference"] is None


def test_prompt_files_give_points_and_boxes_where_no_fates_are_told(tmp_path: Path) -> None:
    folders = write_report_data(tmp_path / "data", with_fates=False)
    geometry = get_reader("SimpleITKIO").read_geometry(folders.images / "case_a_0000.nii.gz")
    place = geometry.voxel_to_world(np.array([[2.0, 11.0, 9.0]]))[0].tolist()
    prompts = folders.root / "promptsTs"
    prompts.mkdir()
    header = "x_lps_mm,y_lps_mm,z_lps_mm"
    (prompts / "case_a.csv").write_text(f"{header}\n{','.join(map(str, place))}\n", encoding="utf-8")
    payload = embedded(run(folders, tmp_path / "r.html"), "case-0")
    source = prediction_source(folders.images, [folders.predictions()])
    mapping = read_case(source.cases[0], source).frame.mapping
    expected = mapping.points_to_network(np.array([[2.0, 11.0, 9.0]]))
    assert payload["given"] == [pytest.approx(expected[0].tolist(), abs=2e-3)]


def test_coarse_boxes_are_shown_as_given(tmp_path: Path) -> None:
    folders = write_report_data(tmp_path / "data", with_fates=False)
    geometry = get_reader("SimpleITKIO").read_geometry(folders.images / "case_a_0000.nii.gz")
    centre = geometry.voxel_to_world(np.array([[3.0, 15.0, 12.0]]))[0]
    corners = [*(centre - 5), *(centre + 5)]
    names = [f"{axis}{end}_lps_mm" for end in (0, 1) for axis in "xyz"]
    (folders.root / "promptsTs").mkdir()
    text = f"{','.join(names)}\n{','.join(map(str, corners))}\n"
    (folders.root / "promptsTs" / "case_a.csv").write_text(text, encoding="utf-8")
    payload = embedded(run(folders, tmp_path / "r.html"), "case-0")
    source = prediction_source(folders.images, [folders.predictions()])
    mapping = read_case(source.cases[0], source).frame.mapping
    s, y, x = mapping.points_to_network(np.array([[3.0, 15.0, 12.0]]))[0]
    box = next(b for b in payload["boxes"] if b[0] == s)
    assert np.mean(box[1::2]) == pytest.approx(y, abs=0.6) and np.mean(box[2::2]) == pytest.approx(x, abs=0.6)
    assert box[3] - box[1] == pytest.approx(10 / 1.5, abs=2) and box[4] - box[2] == pytest.approx(10, abs=2)


def test_nothing_from_files_can_become_markup(tmp_path: Path) -> None:
    folders = write_report_data(tmp_path / "data", cases=[HOSTILE], with_fates=False)
    label = f"{HOSTILE}</script>"
    labels = {"background": 0, label: 1, "right": 2}
    (folders.predictions() / "dataset.json").write_text(
        json.dumps({**DATASET_JSON, "labels": labels}), encoding="utf-8"
    )
    text = run(folders, tmp_path / "r.html", "-names", HOSTILE)
    assert text.count("<img") == 0
    assert embedded(text, "case-0")["case"] == HOSTILE
    overview = embedded(text, "overview")
    assert (overview["classes"][0]["name"], overview["predictions"]) == (label, [HOSTILE])
    assert text.count("</script>") == 3, "overview, one case, the program"


def test_titles_and_json_are_escaped() -> None:
    page = render_page("<b>{{DATA}}</b>", {"x": "<!--<script>\u2028&"}, "")
    assert "<title>&lt;b&gt;{{DATA}}&lt;/b&gt;</title>" in page
    assert "<!--" not in page and "\u2028" not in json_text("\u2028")
    assert json.loads(json_text({"a": "</script>&"})) == {"a": "</script>&"}


def test_the_page_asks_for_nothing_from_outside(folders: ReportFolders, tmp_path: Path) -> None:
    text = run(folders, tmp_path / "r.html")
    addresses = set(re.findall(r"https?://[^\"'\s)]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}, "a namespace, which is not loaded"
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    ("mode", "empty", "points", "without"),
    [
        ("weighed", "decode", "every point goes to the decoder, which weighs it", "decoded with the points they have"),
        ("consensus", "decode", "a point counts if its saliency is above 0.5; lent to 2 slices", "decoded without"),
        ("consensus", "empty", "a point counts if its saliency is above 0.5", "empty"),
        ("raw", "empty", "none: every point goes to the decoder as it is", "decoded with the points they have"),
    ],
)
def test_the_rules_of_distillation_are_told(mode: str, empty: str, points: str, without: str) -> None:
    rule = DistillationSettings(mode=mode, empty_consensus=empty)  # type: ignore[arg-type]
    rows = {r["topic"]: r["choice"] for r in plans_in_words({"distillation": asdict(rule)})}
    assert rows["Distillation"].startswith(points)
    assert rows["Slices without trusted points"].startswith(without)


def test_what_becomes_of_volumes_without_prompts_is_told() -> None:
    for way, share, said, draws in (
        ("saliency", 0.0, "predicted from the saliency alone", "from the prompt files"),
        ("decode", 0.1, "decoded from the image and the maps", "from the prompt files; 10% of the draws have none"),
    ):
        plans = {
            "distillation": asdict(DistillationSettings(without_prompts=way)),  # type: ignore[arg-type]
            "prompts": asdict(PromptSettings("files", absent_share=share)),
        }
        rows = {r["topic"]: r["choice"] for r in plans_in_words(plans)}
        assert rows["Volumes without prompts"].startswith(said) and rows["Prompts in training"] == draws


def test_which_encoder_the_decoder_has_is_told() -> None:
    for plans, said in (
        ({}, "as stage 1 leaves it"),
        ({"decoder_encoder": "shared"}, "as stage 1 leaves it"),
        ({"decoder_encoder": "own"}, "one of its own"),
    ):
        rows = {r["topic"]: r["choice"] for r in plans_in_words(plans)}
        assert rows["Encoder of the decoder"].startswith(said)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((0, 0), "none"),
        ((0, 50), "over the first 50 steps of stage 2"),
        ((30, 50), "over the first 30 steps of stage 1 and the first 50 steps of stage 2"),
        ((None, None), "none"),
    ],
)
def test_the_rise_of_the_learning_rate_is_told(steps: tuple[int | None, int | None], words: str) -> None:
    stages = [{} if n is None else {"warmup_iterations": n} for n in steps]
    rows = plans_in_words(dict(zip(("stage1", "stage2"), stages, strict=True)))
    assert [row["choice"] for row in rows if row["topic"] == "Rise of the learning rate"] == [words]


def test_plans_are_told_in_words_with_their_reasons() -> None:
    plans = {
        "slicing_axis": "P",
        "image_size": 112,
        "backbone": "vit_b",
        "distillation": {"mode": "raw"},
        "reasons": {"slicing_axis": "largest spacing"},
    }
    rows = {row["topic"]: row for row in plans_in_words(plans)}
    assert rows["Slices"] == {"topic": "Slices", "choice": "coronal slices (along P)", "why": "largest spacing"}
    assert rows["Image size"]["choice"] == "112 x 112 pixels"
    assert rows["Distillation"]["choice"].startswith("none")
    assert "Epochs" not in rows, "plans of another version lack some"


def test_flat_images_with_regions_and_an_ignore_label_are_shown(tmp_path: Path) -> None:
    dataset_json = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        "regions_class_order": [1, 2],
        "file_ending": ".png",
    }
    reference, prediction = (np.zeros((20, 24), dtype=np.uint8) for _ in range(2))
    reference[4:14, 5:15], reference[6:9, 7:10], reference[:, 20:] = 1, 2, 3
    prediction[4:14, 5:15], prediction[:, 22:] = 1, 1  # the latter where nothing counts
    for folder, name, picture in (
        ("imagesTs", "a_0000.png", np.dstack([prediction * 40, reference * 60, reference])),
        ("labelsTs", "a.png", reference),
        ("preds", "a.png", prediction),
    ):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / folder / name)
    (tmp_path / "preds" / "dataset.json").write_text(json.dumps(dataset_json), encoding="utf-8")
    (tmp_path / "preds" / "plans.json").write_text('{"plans_name": "nnUNetPlans"}', encoding="utf-8")
    text = run(ReportFolders(tmp_path), tmp_path / "r.html", "-channel", "1", "--figures")
    overview, case = embedded(text, "overview"), embedded(text, "case-0")
    assert overview["plans"] == []
    assert [c["indices"] for c in overview["classes"]] == [[1, 2], [2]]
    assert overview["cases"][0]["predictions"][0]["slice_dsc"] == [[1.0], [0.0]]
    assert case["letters"] is None and case["slices"] == 1
    shown = case["grey"]["stored"][0] + plane(case["grey"]["planes"][0]) * np.ptp(case["grey"]["stored"]) / 255
    assert np.abs(shown - reference * 60).max() < 1


# ---- of a training ----------------------------------------------------------------------------------------------


def test_a_trained_fold_is_reported(trained: Workspace) -> None:
    main(["-d", "507", "-f", "0"])
    text = (trained.model() / "fold_0" / "report.html").read_text(encoding="utf-8")
    overview = embedded(text, "overview")
    epochs = [(1, e) for e in range(5)] + [(2, e) for e in range(8)]
    assert [(r["stage"], r["epoch"]) for r in overview["curves"]] == epochs
    assert overview["training"]["trainer"] == "SPDTrainer" and overview["training"]["train_cases"] == 4
    validation = trained.model() / "fold_0" / "validation"
    told = json.loads((validation / "prompts.json").read_text(encoding="utf-8"))["all_cases"]
    assert overview["prompts"][0]["raw"]["points_inside"] == told["raw"]["points_inside"]
    dice = json.loads((validation / "summary.json").read_text(encoding="utf-8"))["mean"]["1"]["Dice"]
    assert overview["cases"][0]["predictions"][0]["classes"][0]["volume_dice"] == pytest.approx(dice)
    payload = embedded(text, "case-0")
    assert payload["predictions"][0]["points"] and payload["predictions"][0]["saliency"]
    assert payload["given"]


def test_other_predictions_of_the_validation_stand_beside(trained: Workspace) -> None:
    other = trained.root / "other"
    other.mkdir()
    for file in (trained.model() / "fold_0" / "validation").glob("*.nii.gz"):
        (other / file.name).write_bytes(file.read_bytes())
    main(["-d", "507", "-f", "0", "-compare", str(other), "-names", "copy", "-o", str(trained.root / "r.html")])
    overview = embedded((trained.root / "r.html").read_text(encoding="utf-8"), "overview")
    assert overview["predictions"] == ["SPDTrainer__SPDPlans__2d", "copy"]
    first, second = (overview["cases"][0]["predictions"][i]["classes"] for i in (0, 1))
    assert first == second


def test_a_fold_without_validation_says_how_to_validate(trained: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    (trained.model() / "fold_0" / "validation" / "summary.json").unlink()
    assert "spd_train DATASET FOLD --val" in failure(["-d", "507", "-f", "0"], capsys)
    assert "no fold 3; folds there: 0, 1" in failure(["-d", "507", "-f", "3"], capsys)
    assert "choose one with -f" in failure(["-d", "507"], capsys)


def test_the_commands_of_the_documentation_run(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "report.md"
    if not page.exists():
        pytest.skip("the documentation is not installed")
    shutil.copytree(trained.raw / "labelsTs", trained.raw / "nnunet_preds")
    monkeypatch.chdir(trained.raw)
    commands = re.findall(r"^    (spd_\w+ .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        for theirs, ours in (("501", "507"), ("TI_101=12", "blob_005=2"), ("TI_104=20", "blob_006=3")):
            command = command.replace(theirs, ours)
        program, *arguments = shlex.split(command)
        {"spd_report": main, "spd_predict": predict.main}[program](arguments)
    written = {str(f.relative_to(trained.raw)) for f in trained.raw.rglob("*.*")}
    assert {"preds/report.html", "comparison.html", "preds/report_figures/prompts.pdf"} <= written


# ---- where it goes ----------------------------------------------------------------------------------------------


def test_many_cases_go_to_files_beside_the_page(folders: ReportFolders, tmp_path: Path) -> None:
    text = run(folders, tmp_path / "r.html", "--split")
    assert embedded(text, "overview")["case_files"] == ["r_files/case_0000.js", "r_files/case_0001.js"]
    assert 'id="case-0"' not in text
    script = (tmp_path / "r_files" / "case_0001.js").read_text(encoding="utf-8")
    payload = json.loads(script.removeprefix("spdReceiveCase(1,").removesuffix(");\n"))
    assert payload["case"] == "case_b"


def test_a_report_is_replaced_and_leaves_no_old_files(folders: ReportFolders, tmp_path: Path) -> None:
    run(folders, tmp_path / "r.html", "--split")
    run(folders, tmp_path / "r.html", "-cases", "case_b")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["data", "r.html"]
    assert [c["case"] for c in embedded((tmp_path / "r.html").read_text(encoding="utf-8"), "overview")["cases"]] == [
        "case_b"
    ]


def test_an_error_leaves_the_old_report_and_no_parts(
    folders: ReportFolders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run(folders, tmp_path / "r.html", "--split")
    files = sorted(f.name for f in (tmp_path / "r_files").iterdir())
    (folders.predictions() / "case_b.nii.gz").write_bytes(b"damaged")
    assert "case_b" in failure([*folders.arguments(), "-o", str(tmp_path / "r.html")], capsys)
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == before
    assert sorted(f.name for f in (tmp_path / "r_files").iterdir()) == files
    assert sorted(f.name for f in tmp_path.iterdir()) == ["data", "r.html", "r_files"]


def test_a_folder_with_other_files_is_not_replaced(
    folders: ReportFolders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r_files").mkdir()
    (tmp_path / "r_files" / "thesis.docx").write_text("precious", encoding="utf-8")
    assert "thesis.docx" in failure([*folders.arguments(), "-o", str(tmp_path / "r.html")], capsys)
    assert (tmp_path / "r_files" / "thesis.docx").read_text(encoding="utf-8") == "precious"
    assert "must end in .html" in failure([*folders.arguments(), "-o", str(tmp_path / "r.pdf")], capsys)
    assert "does not exist" in failure([*folders.arguments(), "-o", str(tmp_path / "no" / "r.html")], capsys)


@pytest.mark.slow
def test_several_processes_make_the_same_report(folders: ReportFolders, tmp_path: Path) -> None:
    one, two = (run(folders, tmp_path / "r.html", "-np", n) for n in ("1", "2"))
    for case in ("case-0", "case-1"):
        assert embedded(one, case) == embedded(two, case)


# ---- what is refused --------------------------------------------------------------------------------------------


def test_a_prediction_on_another_grid_is_refused(
    folders: ReportFolders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(folders.predictions() / "case_a.nii.gz", case_arrays(0)[2], np.eye(3), (4.0, 1.5, 1.0))
    message = failure([*folders.arguments(), "-o", str(tmp_path / "r.html")], capsys)
    assert "case case_a: the image and prediction" in message and "not on one grid" in message
    assert not (tmp_path / "r.html").exists()


def test_no_common_case_is_an_error_and_a_missing_one_is_left_out(
    folders: ReportFolders, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (folders.predictions("other") / "case_a.nii.gz").unlink()
    text = run(folders, tmp_path / "r.html", predictions=("preds", "other"))
    assert [c["case"] for c in embedded(text, "overview")["cases"]] == ["case_b"]
    assert "1 cases are left out, as a prediction is missing: case_a" in caplog.text
    (folders.predictions("other") / "case_b.nii.gz").unlink()
    message = failure([*folders.arguments("preds", "other"), "-o", str(tmp_path / "r.html")], capsys)
    assert "no case has a prediction CASE.nii.gz in" in message and "case_a, case_b" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either -d"),
        (["-d", "1", "-i", "x"], "give either -d"),
        (["-d", "1", "-ref", "x"], "-ref cannot be used with -d"),
        (["-i", "x", "-f", "0", "-p", "y"], "-f cannot be used with -i"),
        (["-i", "x"], "-i needs -p"),
        (["-i", "x", "-p", "y", "-figure_slices", "a=1"], "-figure_slices needs --figures"),
        (["-i", "nowhere", "-p", "y"], "-i nowhere: no such folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failure(options, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-cases", "case_z"], "case_z not among the cases case_a, case_b"),
        (["-channel", "1"], "-channel 1: case case_a has 1 channels"),
        (["-names", "a", "b"], "2 names for 1 folders"),
        (["-np", "0"], "at least 1 process"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(
    folders: ReportFolders, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failure([*folders.arguments(), "-o", str(tmp_path / "r.html"), *options], capsys)
    assert not (tmp_path / "r.html").exists()


def test_missing_references_and_descriptions_are_named(
    folders: ReportFolders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in folders.references.iterdir():
        file.unlink()
    assert "holds no label file CASE.nii.gz" in failure(folders.arguments(), capsys)
    (folders.predictions() / "dataset.json").unlink()
    assert "found no dataset.json" in failure(folders.arguments(), capsys)


def test_the_prompts_shown_are_those_that_the_prediction_had(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = write_report_data(tmp_path / "data", with_fates=False)
    geometry = get_reader("SimpleITKIO").read_geometry(folders.images / "case_a_0000.nii.gz")
    for name, voxel in (("promptsTs", [2.0, 11.0, 9.0]), ("others", [3.0, 5.0, 6.0])):
        place = geometry.voxel_to_world(np.array([voxel]))[0].tolist()
        (folders.root / name).mkdir()
        text = f"x_lps_mm,y_lps_mm,z_lps_mm\n{','.join(map(str, place))}\n"
        (folders.root / name / "case_a.csv").write_text(text, encoding="utf-8")
    record = folders.predictions() / "predict_from_raw_data_args.json"

    def given(prompts: str | None) -> list[list[float]]:
        record.write_text(json.dumps({"prompts": prompts}), encoding="utf-8")
        return embedded(run(folders, tmp_path / "r.html"), "case-0")["given"]

    beside, other = given(str(folders.root / "promptsTs")), given(str(folders.root / "others"))
    assert len(beside) == len(other) == 1 and beside != other
    assert not given(None)
    assert (
        not given(str(folders.root / "gone")) and "gone, are not there; none are shown, unless you name" in caplog.text
    )
