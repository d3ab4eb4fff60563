"""Preprocessing and prediction killed at random moments: recognised as unfinished, completed by the next run, equal to
an undisturbed one. And what becomes of them on full and read-only disks, and when files go meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet import files
from spdnet.cli import plan_and_preprocess, predict, train
from spdnet.dataset import RawDataset
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.errors import ConfigurationError, DatasetError, StorageError
from spdnet.inference import SPDPredictor
from spdnet.planning import StoredCase, preprocessor
from spdnet.planning.storage import RunRecord, stored_cases
from spdnet.prompts import PromptReading
from spdnet.tests.conftest import Workspace
from spdnet.tests.test_files import mounted, names, needs_root

PREPROCESS = ["-d", "507", "-np", "1"]


def killed(work: Callable[[], object], after_s: float) -> bool:
    """Run something in a process of its own, killed after some time; whether it came to its end before."""
    child = os.fork()
    if child == 0:
        files._tidied.clear()
        code = 1
        try:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            os.dup2(devnull, 2)
            work()
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + after_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def wait_for_clocks() -> None:
    """Let the time stamps of files move on."""
    time.sleep(0.01)


# ---- preprocessing ----------------------------------------------------------------------------------------


def test_preprocessing_killed_at_random_moments_ends_as_if_undisturbed(planned: Workspace) -> None:
    undisturbed = content(planned.preprocessed)
    target = planned.preprocessed / "SPDPlans_2d"
    rng, seen_unfinished, most_kept = np.random.default_rng(1), 0, 0
    for _ in range(2):  # from nothing, and over what is complete
        begun = time.monotonic()
        plan_and_preprocess.preprocess_main(PREPROCESS)
        duration_s = time.monotonic() - begun
        shutil.rmtree(target)
        for attempt in range(40):
            if attempt >= 8 and seen_unfinished > 4 and most_kept > 0:
                break
            latest_s = (0.5 + 0.05 * attempt) * duration_s  # later and later, as the machine may be slower by now
            if killed(lambda: plan_and_preprocess.preprocess_main(PREPROCESS), rng.uniform(0, latest_s)):
                continue
            if (target / ".unfinished").exists():
                seen_unfinished += 1
                most_kept = max(most_kept, len(list((target / ".unfinished").glob("[!.]*.json"))))
                with pytest.raises(DatasetError, match="was not finished; . cases are there. Run spd_preprocess"):
                    StoredCase.list(target)
        files._tidied.clear()
        plan_and_preprocess.preprocess_main(PREPROCESS)
        assert content(planned.preprocessed) == undisturbed
        assert StoredCase.list(target) == [f"blob_{i:03d}" for i in range(5)]
    assert seen_unfinished > 4 and most_kept > 0, "killed while it worked, or this test shows nothing"


def test_an_unfinished_preprocessing_is_not_trained_on(planned: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    target = planned.preprocessed / "SPDPlans_2d"
    RunRecord(target).begin({})
    StoredCase(target, "blob_001").remove()
    with pytest.raises(SystemExit):
        train.main(["507", "all", "-device", "cpu"])
    assert "SPDPlans_2d was not finished; 4 cases are there. Run spd_preprocess" in capsys.readouterr().err


def test_cases_of_an_unfinished_run_are_kept_only_if_nothing_has_changed(
    planned: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real = preprocessor.preprocess_training_case
    fails_at = "blob_003"

    def recorded(case: preprocessor.CaseFiles, **arguments: object) -> None:
        if case.case == fails_at:
            raise KeyboardInterrupt
        done.append(case.case)
        real(case, **arguments)  # type: ignore[arg-type]

    def run() -> list[str]:
        done.clear()
        try:
            plan_and_preprocess.preprocess_main(PREPROCESS)
        except KeyboardInterrupt:
            return [*done, "interrupted"]
        return list(done)

    monkeypatch.setattr(preprocessor, "preprocess_training_case", recorded)
    first = ["blob_000", "blob_001", "blob_002"]
    assert run() == [*first, "interrupted"], "a finished preprocessing is done again"
    assert run() == ["interrupted"]
    wait_for_clocks()
    os.utime(planned.raw / "labelsTr" / "blob_001.nii.gz")
    assert run() == ["blob_001", "interrupted"], "its label has changed"
    (planned.preprocessed / "SPDPlans_2d" / "blob_000.json").unlink()
    assert run() == ["blob_000", "interrupted"], "its file is gone"
    plans = planned.preprocessed / "SPDPlans.json"
    before = plans.read_text(encoding="utf-8")
    changed = json.loads(before)
    changed["spd"]["pixel_spacing_mm"] *= 1.5
    plans.write_text(json.dumps(changed), encoding="utf-8")
    assert run() == [*first, "interrupted"], "other plans"
    plans.write_text(before, encoding="utf-8")
    assert run() == [*first, "interrupted"], "other plans again"
    fails_at = ""
    assert run() == ["blob_003", "blob_004"]
    assert len(run()) == 5
    assert [n for n in names(planned.preprocessed / "SPDPlans_2d") if n.startswith(".")] == [".made_with.json"]


def test_a_record_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    record.begin({"a": 1})
    record.note_written("c", [1])
    (tmp_path / "c.json").write_text("{}", encoding="utf-8")
    record.begin({"a": 1})
    assert record.is_written("c", [1]) and not record.is_written("c", [2]) and not record.is_written("d", [1])
    (tmp_path / ".unfinished" / ".begun.json").write_text('{"a"', encoding="utf-8")
    record.begin({"a": 1})
    assert not record.is_written("c", [1])
    assert record.made_with() is None
    record.end()
    record.check_finished()
    assert record.made_with() == {"a": 1}
    assert names(tmp_path) == [".made_with.json", "c.json"] and stored_cases(tmp_path) == ["c"]


# ---- prediction -------------------------------------------------------------------------------------------


def test_prediction_killed_at_random_moments_ends_as_if_undisturbed(trained: Workspace, tmp_path: Path) -> None:
    predictor = SPDPredictor(device="cpu", allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trained.model(), 0)
    images, out = trained.raw / "imagesTr", tmp_path / "out"

    def work(folder: Path = out) -> None:
        predictor.predict_from_files(images, folder, save_probabilities=True, overwrite=False)

    begun = time.monotonic()
    work(tmp_path / "undisturbed")
    duration_s = time.monotonic() - begun
    expected = content(tmp_path / "undisturbed")
    rng, n_kills = np.random.default_rng(2), 0
    for _ in range(12):
        n_kills += not killed(work, rng.uniform(0, 0.5 * duration_s))
        for name, stored in content(out).items():
            if not name.startswith("."):
                assert name.endswith("args.json") or stored == expected[name], f"{name} is half written"
        for case in (n.removesuffix(".nii.gz") for n in content(out) if n.endswith(".nii.gz") and n[0] != "."):
            assert (out / f"{case}.npz").exists() and (out / f"{case}.pkl").exists(), "the segmentation comes last"
    assert n_kills > 1, "killed while it worked, or this test shows nothing"
    files._tidied.clear()
    work()
    record = "predict_from_raw_data_args.json"
    assert {**content(out), record: b""} == {**expected, record: b""}


def test_predictions_of_another_model_are_not_continued(trained: Workspace, tmp_path: Path) -> None:
    images = trained.raw / "imagesTs"
    one, other = SPDPredictor(device="cpu", allow_tqdm=False), SPDPredictor(device="cpu", allow_tqdm=False)
    one.initialize_from_trained_model_folder(trained.model(), 0)
    other.initialize_from_trained_model_folder(trained.model(), 1)
    one.predict_from_files(images, tmp_path)
    (tmp_path / "blob_006.nii.gz").unlink()
    before = content(tmp_path)
    with pytest.raises(
        Exception, match=r"holds predictions made with folds \['0'\]; now it is \['1'\]. Go on with the same"
    ):
        other.predict_from_files(images, tmp_path, overwrite=False)
    assert content(tmp_path) == before
    one.predict_from_files(images, tmp_path, overwrite=False)
    other.predict_from_files(images, tmp_path)
    one.predict_from_files(images, tmp_path)


def test_predictions_with_prompts_read_in_another_frame_are_not_continued(trained: Workspace, tmp_path: Path) -> None:
    images, prompts, out = trained.raw / "imagesTs", tmp_path / "prompts", tmp_path / "out"
    prompts.mkdir()
    for case in RawDataset(trained.raw).cases("Ts"):
        centre = SimpleITKIO().read_geometry(case.images[0]).voxel_to_world(np.array([[3.0, 12, 10]]))[0]
        text = "x,y,z\n" + ",".join(str(v) for v in centre)
        (prompts / f"{case.case}.csv").write_text(text, encoding="utf-8")

    def predict_as(overwrite: bool = False, **reading: Any) -> None:
        predictor = SPDPredictor(device="cpu", allow_tqdm=False, prompt_reading=PromptReading(**reading))
        predictor.initialize_from_trained_model_folder(trained.model(), 0)
        predictor.predict_from_files(images, out, overwrite=overwrite, prompts=prompts)

    predict_as(True, frame="lps")
    (out / "blob_006.nii.gz").unlink()
    for frame in ("ras", None):
        with pytest.raises(ConfigurationError, match=f"made with frame 'lps'; now it is {frame!r}. Go on"):
            predict_as(frame=frame)
    predict_as(frame="lps")
    (out / "blob_005.nii.gz").unlink()
    predict_as(frame="lps", outside="drop")  # what is there had nothing to drop
    with pytest.raises(ConfigurationError, match="made with outside 'drop'; now it is 'error'"):
        predict_as(frame="lps")
    record = out / "predict_from_raw_data_args.json"
    older = json.loads(record.read_text(encoding="utf-8"))
    del older["frame"], older["outside"]
    record.write_text(json.dumps(older), encoding="utf-8")
    predict_as(frame="lps")


# ---- disks, and files that go meanwhile -------------------------------------------------------------------


@needs_root
def test_preprocessing_on_a_full_disk_is_completed_when_there_is_room(planned: Workspace, tmp_path: Path) -> None:
    undisturbed = content(planned.preprocessed)
    kept = tmp_path / "kept"
    shutil.move(planned.preprocessed, kept)
    shutil.rmtree(kept / "SPDPlans_2d")
    with mounted(planned.preprocessed, "size=280k") as small:
        shutil.copytree(kept, small, dirs_exist_ok=True)
        with pytest.raises(SystemExit):
            plan_and_preprocess.preprocess_main(PREPROCESS)
        there = stored_cases(small / "SPDPlans_2d")
        assert 0 < len(there) < 5
        with pytest.raises(DatasetError, match="was not finished"):
            StoredCase.list(small / "SPDPlans_2d")
        shutil.copytree(small, tmp_path / "copy")
    shutil.rmtree(planned.preprocessed)
    shutil.copytree(tmp_path / "copy", planned.preprocessed)
    plan_and_preprocess.preprocess_main(PREPROCESS)
    assert content(planned.preprocessed) == undisturbed


@needs_root
def test_prediction_on_a_full_or_read_only_disk(
    trained: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-i", str(trained.raw / "imagesTs"), "--no_prompts", "-f", "0", "-device", "cpu"]
    for options, message in (("ro", "Read-only file system"), ("size=16k", "o space left on")):
        with mounted(tmp_path / "out", options) as out:
            with pytest.raises(SystemExit) as caught:
                predict.main([*arguments, "-o", str(out)])
            assert caught.value.code == 1
            error = capsys.readouterr().err
            assert f"{out}" in error and message in error and "Traceback" not in error
            assert not list(out.glob("*.nii.gz"))


def test_an_output_folder_that_is_a_file(trained: Workspace, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    predictor = SPDPredictor(device="cpu", allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trained.model(), 0)
    with pytest.raises(StorageError, match="cannot make the folder .*/out: File exists"):
        predictor.predict_from_files(trained.raw / "imagesTs", tmp_path / "out")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_an_image_removed_meanwhile_costs_its_own_case_only(
    trained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = SPDPredictor(device="cpu", allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trained.model(), 0)
    compute, gone = predictor._compute, trained.raw / "imagesTs" / "blob_006_0000.nii.gz"

    def removing(*arguments: object, **keywords: object) -> object:
        gone.unlink(missing_ok=True)
        return compute(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(predictor, "_compute", removing)
    with pytest.raises(
        DatasetError, match=r"1 of 2 cases failed.*\n  case blob_006: cannot read the header of .*no such"
    ):
        predictor.predict_from_files(trained.raw / "imagesTs", tmp_path, num_processes_preprocessing=0)
    assert [f.name for f in tmp_path.glob("*.nii.gz")] == ["blob_005.nii.gz"]


def test_a_training_case_removed_meanwhile_is_named(planned: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    real = preprocessor.preprocess_training_case

    def removing(case: preprocessor.CaseFiles, **arguments: object) -> None:
        if case.case == "blob_003":
            case.images[0].unlink()
        real(case, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(preprocessor, "preprocess_training_case", removing)
    with pytest.raises(SystemExit):
        plan_and_preprocess.preprocess_main(PREPROCESS)
    assert stored_cases(planned.preprocessed / "SPDPlans_2d")[:3] == ["blob_000", "blob_001", "blob_002"]


def test_what_itk_writes_is_read_back(tmp_path: Path) -> None:
    from spdnet.dataset import get_reader
    from spdnet.geometry import ImageGeometry

    geometry = ImageGeometry((2, 3, 4), (1.0, 1.0, 1.0))
    reader = get_reader("SimpleITKIO")
    real = sitk.WriteImage

    def cut_short(image: sitk.Image, name: str, **options: bool) -> None:
        real(image * 0, name, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sitk, "WriteImage", cut_short)
        with pytest.raises(StorageError, match="what can be read back is not what was written"):
            reader.write_segmentation(tmp_path / "c.nii.gz", np.ones((2, 3, 4), int), geometry)
    assert names(tmp_path) == []
