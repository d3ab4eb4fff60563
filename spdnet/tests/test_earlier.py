"""Earlier predictions of a folder: never taken for new ones, never lost before there are new ones."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

from spdnet.cli import evaluate, predict
from spdnet.dataset import CaseFiles
from spdnet.dataset.image_io.tiff import Tiff3DIO
from spdnet.errors import ConfigurationError, DatasetError, SPDError, StorageError
from spdnet.inference import SPDPredictor
from spdnet.inference.earlier import EARLIER_FOLDER, SCORES_FILE, remove_earlier, set_aside
from spdnet.inference.work_list import FileCase, check_prompts_stay
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


def test_predictions_of_another_model_are_not_continued_as_this_one_s(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path
) -> None:
    images, out = trained.raw / "imagesTs", tmp_path / "out"
    other = SPDPredictor(device="cpu", allow_tqdm=False)
    other.initialize_from_trained_model_folder(trained.model(), 1)
    predictor.predict_from_files(images, out)
    (tmp_path / "one").mkdir()
    shutil.copy(images / "blob_005_0000.nii.gz", tmp_path / "one")
    other.predict_from_files(tmp_path / "one", out)
    first = (out / "blob_006.nii.gz").read_bytes()
    other.predict_from_files(images, out, overwrite=False)
    other.predict_from_files(images, tmp_path / "anew")
    own = (tmp_path / "anew" / "blob_006.nii.gz").read_bytes()
    assert (out / "blob_006.nii.gz").read_bytes() == own != first
    assert json.loads((out / "predict_from_raw_data_args.json").read_text(encoding="utf-8"))["cases"] == [
        "blob_005",
        "blob_006",
    ]


def test_where_one_of_several_parts_never_ran_its_cases_are_not_of_the_model_before(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path
) -> None:
    other = SPDPredictor(device="cpu", allow_tqdm=False)
    other.initialize_from_trained_model_folder(trained.model(), 1)
    predictor.predict_from_files(trained.raw / "imagesTs", tmp_path / "out")
    other.predict_from_files(trained.raw / "imagesTs", tmp_path / "out", num_parts=2, part_id=0)
    assert names(tmp_path / "out") == {*RECORDS, "blob_005.nii.gz", f"{EARLIER_FOLDER}/blob_006.nii.gz"}


def test_the_record_changes_only_when_earlier_predictions_are_out_of_the_way(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predictor.predict_from_files(trained.raw / "imagesTs", out)
    record = (out / "predict_from_raw_data_args.json").read_text(encoding="utf-8")
    (out / EARLIER_FOLDER).write_text("in the way", encoding="utf-8")
    other = SPDPredictor(device="cpu", allow_tqdm=False)
    other.initialize_from_trained_model_folder(trained.model(), 1)
    with pytest.raises(StorageError):
        other.predict_from_files(trained.raw / "imagesTs", out)
    assert (out / "predict_from_raw_data_args.json").read_text(encoding="utf-8") == record


def test_a_record_that_is_cut_off_does_not_stop_a_new_prediction(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path
) -> None:
    predictor.predict_from_files(trained.raw / "imagesTs", tmp_path / "out")
    (tmp_path / "out" / "predict_from_raw_data_args.json").write_text("{", encoding="utf-8")
    predictor.predict_from_files(trained.raw / "imagesTs", tmp_path / "out")
    assert names(tmp_path / "out") == RECORDS | PREDICTIONS


def test_parts_that_start_together_share_the_moving_of_scores(tmp_path: Path) -> None:
    barrier = multiprocessing.get_context("fork").Barrier(4)

    def start(part: int) -> None:
        barrier.wait()
        set_aside([tmp_path / f"case_{part}"], ".nii.gz")

    for _ in range(20):
        (tmp_path / SCORES_FILE).write_text("{}", encoding="utf-8")
        parts = [multiprocessing.get_context("fork").Process(target=start, args=(n,)) for n in range(4)]
        for part in parts:
            part.start()
        for part in parts:
            part.join()
        assert [part.exitcode for part in parts] == [0, 0, 0, 0]
        assert names(tmp_path) == {f"{EARLIER_FOLDER}/{SCORES_FILE}"}


def test_prompts_that_are_read_are_known_by_every_way_to_them(tmp_path: Path) -> None:
    out, link = tmp_path / "out", tmp_path / "link"
    (out / "prompts").mkdir(parents=True)
    link.symlink_to(out)
    for way in (link, tmp_path / "out" / ".." / "out"):
        files = CaseFiles("case", (tmp_path / "case_0000.nii.gz",), None, way / "prompts" / "case.mrk.json")
        with pytest.raises(ConfigurationError, match="--save_prompts would replace"):
            check_prompts_stay([FileCase(files, out / "case")])


def test_a_folder_of_the_user_s_with_the_name_of_ours_is_left_alone(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path
) -> None:
    mine = tmp_path / "out" / EARLIER_FOLDER / "blob_005.nii.gz"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="would replace 1 files .*earlier_predictions"):
        predictor.predict_from_files(trained.raw / "imagesTs", tmp_path / "out")
    assert mine.read_text(encoding="utf-8") == "mine"


def test_parts_that_start_together_share_the_moving_of_predictions(tmp_path: Path) -> None:
    targets = [tmp_path / f"case_{n:03d}" for n in range(200)]
    barrier = multiprocessing.get_context("fork").Barrier(4)

    def start() -> None:
        barrier.wait()
        set_aside(targets, ".nii.gz")

    for target in targets:
        target.with_name(f"{target.name}.nii.gz").write_bytes(b"prediction")
    parts = [multiprocessing.get_context("fork").Process(target=start) for _ in range(4)]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    assert [part.exitcode for part in parts] == [0, 0, 0, 0]
    assert names(tmp_path) == {f"{EARLIER_FOLDER}/{t.name}.nii.gz" for t in targets}


def test_a_file_that_another_process_has_just_moved_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_file: Path, _target: Path) -> None:
        (tmp_path / "case.nii.gz").unlink(missing_ok=True)
        raise FileNotFoundError(2, "No such file or directory")

    (tmp_path / "case.nii.gz").write_bytes(b"prediction")
    monkeypatch.setattr(Path, "replace", gone)
    set_aside([tmp_path / "case"], ".nii.gz")


def test_predictions_of_another_program_are_not_continued(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path
) -> None:
    images, out = trained.raw / "imagesTs", tmp_path / "out"
    out.mkdir()
    record = {"list_of_lists_or_source_folder": str(images), "overwrite": True, "num_parts": 1, "part_id": 0}
    (out / "predict_from_raw_data_args.json").write_text(json.dumps(record), encoding="utf-8")
    for name in PREDICTIONS:
        (out / name).write_bytes(b"nnU-Net")
    with pytest.raises(ConfigurationError, match="holds predictions of another program"):
        predictor.predict_from_files(images, out, overwrite=False)
    assert {(out / n).read_bytes() for n in PREDICTIONS} == {b"nnU-Net"}
    predictor.predict_from_files(images, out)
    assert names(out) == RECORDS | PREDICTIONS
    assert b"nnU-Net" not in {(out / n).read_bytes() for n in PREDICTIONS}


def test_a_damaged_record_is_not_continued_but_replaced(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path
) -> None:
    images, out = trained.raw / "imagesTs", tmp_path / "out"
    predictor.predict_from_files(images, out)
    for damaged in ("{", "[]"):
        (out / "predict_from_raw_data_args.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(ConfigurationError, match="leave --continue_prediction out to replace them"):
            predictor.predict_from_files(images, out, overwrite=False)
        predictor.predict_from_files(images, out)
        predictor.predict_from_files(images, out, overwrite=False)


def test_a_part_records_only_its_own_cases(trained: Workspace, predictor: SPDPredictor, tmp_path: Path) -> None:
    """What another model predicted in a case of another part is not taken for this one's."""
    images, out = trained.raw / "imagesTs", tmp_path / "out"
    other = SPDPredictor(device="cpu", allow_tqdm=False)
    other.initialize_from_trained_model_folder(trained.model(), 1)
    for case, by in (("blob_006", other), ("blob_005", predictor)):
        (tmp_path / case).mkdir()
        shutil.copy(images / f"{case}_0000.nii.gz", tmp_path / case)
        by.predict_from_files(tmp_path / case, out)
    for part in (0, 1):
        predictor.predict_from_files(images, out, overwrite=False, num_parts=2, part_id=part)
    predictor.predict_from_files(images, tmp_path / "anew")
    for name in PREDICTIONS:
        assert (out / name).read_bytes() == (tmp_path / "anew" / name).read_bytes()


def test_one_folder_of_prompts_by_two_ways_is_the_same(
    trained: Workspace, predictor: SPDPredictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, prompts, out = trained.raw / "imagesTs", trained.raw / "promptsTs", tmp_path / "out"
    ways = (prompts, images / ".." / "promptsTs")
    for part, way in enumerate(ways):
        predictor.predict_from_files(images, out, prompts=way, num_parts=2, part_id=part)
    assert names(out) == RECORDS | PREDICTIONS
    caplog.clear()
    predictor.predict_from_files(images, out, num_parts=2, part_id=0)
    assert "1 predictions that this call does not replace were moved to" in caplog.text
    assert names(out) == RECORDS | {"blob_005.nii.gz", f"{EARLIER_FOLDER}/blob_006.nii.gz"}


def test_the_spacing_of_a_tiff_that_is_read_stays(tmp_path: Path) -> None:
    (tmp_path / "case.json").write_text("x", encoding="utf-8")
    set_aside([tmp_path / "case"], ".tif")
    assert names(tmp_path) == {"case.json"}
    (tmp_path / "case.tif").write_text("x", encoding="utf-8")
    spacing = Tiff3DIO().image_side_file(tmp_path / "case_0000.tif")
    assert spacing is not None
    set_aside([tmp_path / "case"], ".tif", [spacing])
    assert names(tmp_path) == {"case.json", f"{EARLIER_FOLDER}/case.tif"}


def test_the_spacing_of_an_earlier_tiff_goes_with_it(tmp_path: Path) -> None:
    for ending in (".tif", ".json"):
        (tmp_path / f"case{ending}").write_text("x", encoding="utf-8")
    set_aside([tmp_path / "case"], ".tif")
    assert names(tmp_path) == {f"{EARLIER_FOLDER}/case.tif", f"{EARLIER_FOLDER}/case.json"}
    remove_earlier(tmp_path / "case", ".tif")
    assert names(tmp_path) == set()
