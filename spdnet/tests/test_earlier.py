"""Earlier predictions of a folder: never taken for new ones, never lost before there are new ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spdnet.cli import evaluate, predict
from spdnet.errors import DatasetError, SPDError
from spdnet.inference import SPDPredictor
from spdnet.inference.earlier import EARLIER_FOLDER, SCORES_FILE, remove_earlier, set_aside
from spdnet.tests.conftest import Workspace

PREDICTIONS = {"blob_005.nii.gz", "blob_006.nii.gz"}
RECORDS = {"dataset.json", "plans.json", "predict_from_raw_data_args.json"}


@pytest.fixture
def predictor(trained: Workspace) -> SPDPredictor:
    made = SPDPredictor(device="cpu", allow_tqdm=False)
    made.initialize_from_trained_model_folder(trained.model(), 0)
    return made


def names(folder: Path) -> set[str]:
    """Every file below a folder."""
    return {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}


def test_what_a_later_run_does_not_renew_is_not_left_beside_its_predictions(trained: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ["-i", str(trained.raw / "imagesTs"), "-o", str(out), "-f", "0", "-device", "cpu"]
    predict.main([*common, "--save_prompts", "--save_saliency", "--save_probabilities"])
    evaluate.main(["-ref", str(trained.raw / "labelsTs"), "-pred", str(out), "-np", "1"])
    case = {"prompts/{}.csv", "prompts/{}.mrk.json", "saliency/{}_0000.nii.gz", "saliency/{}_0001.nii.gz"}
    sides = {s.format(c) for s in (*case, "{}.npz", "{}.pkl") for c in ("blob_005", "blob_006")}
    assert names(out) == PREDICTIONS | RECORDS | sides | {evaluate.RESULT_FILE}
    predict.main([*common, "-num_parts", "2", "-part_id", "1"])
    assert names(out) == PREDICTIONS | RECORDS | {s for s in sides if "005" in s}, "the other part's stay"
    predict.main(common)
    assert names(out) == PREDICTIONS | RECORDS
    assert not (out / EARLIER_FOLDER).exists()
    assert evaluate.RESULT_FILE == SCORES_FILE


def test_complete_cases_keep_what_lies_beside_them_when_a_prediction_is_continued(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    images = trained.raw / "imagesTs"
    predictor.predict_from_files(images, out, True, save_saliency=True)
    (out / "blob_006.nii.gz").unlink()
    predictor.predict_from_files(images, out, overwrite=False)
    assert {n for n in names(out) if "_006" in n} == {"blob_006.nii.gz"}
    assert {"blob_005.npz", "blob_005.pkl", "saliency/blob_005_0000.nii.gz"} < names(out)


def test_the_earlier_prediction_of_a_failing_case_is_moved_and_named(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path
) -> None:
    images, out = trained.raw / "imagesTs", tmp_path / "out"
    predictor.predict_from_files(images, out, True, save_saliency=True)
    before = {n: (out / n).read_bytes() for n in names(out)}
    image = (images / "blob_006_0000.nii.gz").read_bytes()
    (images / "blob_006_0000.nii.gz").write_bytes(b"no image")
    message = r"case blob_006: .*\. The earlier prediction of this case was moved to .*er_predictions/blob_006.nii.gz$"
    for _ in range(2):  # the second time there is nothing to move
        with pytest.raises(DatasetError, match=message):
            predictor.predict_from_files(images, out)
        moved = {n for n in before if "_006" in n}
        assert {n: (out / EARLIER_FOLDER / n).read_bytes() for n in moved} == {n: before[n] for n in moved}
        assert names(out) == RECORDS | {"blob_005.nii.gz"} | {f"{EARLIER_FOLDER}/{n}" for n in moved}
    labels, reader = predictor.labels, predictor.reader
    with pytest.raises(DatasetError, match="have no prediction"):
        evaluate.evaluate_folder(trained.raw / "labelsTs", out, reader, labels, ".nii.gz")
    (images / "blob_006_0000.nii.gz").write_bytes(image)
    predictor.predict_from_files(images, out, overwrite=False)
    assert names(out) == RECORDS | PREDICTIONS, "there is a new one, so the earlier one goes"


def test_what_a_killed_run_had_not_reached_is_not_taken_for_complete(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    images = trained.raw / "imagesTs"
    predictor.predict_from_files(images, out)
    other = SPDPredictor(device="cpu", allow_tqdm=False)
    other.initialize_from_trained_model_folder(trained.model(), 1)
    compute = other._compute

    def killed(prepared: object, **options: object) -> object:
        if getattr(prepared, "case", "") == "blob_006":
            raise KeyboardInterrupt
        return compute(prepared, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(other, "_compute", killed)
        with pytest.raises(KeyboardInterrupt):
            other.predict_from_files(images, out, num_processes_preprocessing=0)
    assert "blob_006.nii.gz" not in names(out) and f"{EARLIER_FOLDER}/blob_006.nii.gz" in names(out)
    other.predict_from_files(images, out, overwrite=False)
    assert names(out) == RECORDS | PREDICTIONS


def test_nothing_is_moved_where_no_case_can_be_predicted(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path
) -> None:
    predictor.predict_from_files(trained.raw / "imagesTs", tmp_path / "out", prompts=trained.raw / "promptsTs")
    before = names(tmp_path / "out")
    for file in (trained.raw / "promptsTs").glob("*.mrk.json"):
        file.write_text("{", encoding="utf-8")
    with pytest.raises(SPDError, match="none of the 2 cases can be predicted"):
        predictor.predict_from_files(trained.raw / "imagesTs", tmp_path / "out", prompts=trained.raw / "promptsTs")
    assert names(tmp_path / "out") == before


def test_files_of_the_users_stay(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    mine = ["case.npz", "case.pkl", "prompts/case.csv", "prompts/case.mrk.json", "case_2.nii.gz"]
    np.savez(tmp_path / "case.npz", image=np.zeros(3))
    for name in mine[1:]:
        (tmp_path / name).write_text("x_lps_mm,y_lps_mm,z_lps_mm\n1,2,3\n", encoding="utf-8")
    (tmp_path / "case.nii.gz").write_bytes(b"prediction")
    set_aside([tmp_path / "case"], ".nii.gz")
    assert names(tmp_path) == {*mine, f"{EARLIER_FOLDER}/case.nii.gz"}
    (tmp_path / "case.nii.gz").write_bytes(b"anew")
    remove_earlier(tmp_path / "case", ".nii.gz")
    assert names(tmp_path) == {*mine, "case.nii.gz"}


def test_prompts_that_are_read_are_neither_moved_nor_replaced(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path
) -> None:
    images, out = trained.raw / "imagesTs", tmp_path / "out"
    predictor.predict_from_files(images, out, prompts=trained.raw / "promptsTs", save_prompts=True)
    (out / "prompts" / "blob_005.csv").unlink()
    (out / "prompts" / "blob_006.csv").unlink()
    kept = [json.loads(f.read_text("utf-8")) for f in sorted((out / "prompts").iterdir())]
    with pytest.raises(SPDError, match="--save_prompts would replace the prompt files .*prompts/blob_005.mrk.json"):
        predictor.predict_from_files(images, out, prompts=out / "prompts", save_prompts=True)
    predictor.predict_from_files(images, out, prompts=out / "prompts")
    assert [json.loads(f.read_text("utf-8")) for f in sorted((out / "prompts").iterdir())] == kept
